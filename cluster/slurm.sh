#!/usr/bin/env bash
#SBATCH --job-name=raydd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=raydd-%j.log
#
# A Ray cluster of the job's nodes, one raydd command on it, and its end with the job:
#
#     sbatch cluster/slurm.sh raydd experts --address auto --dataset cifar10 --num-experts 100 --out "$SCRATCH/cifar10"
#
# Put the folder of raydd's environment first in PATH before, or name it in RAYDD_ENV. The home folder must be on a file
# system that all nodes see, and --out on one or in a bucket. The first node trains too, since it is paid for. Ray gets
# the CPUs and GPUs that Slurm gave the job and ports of its own, so several jobs can share a node. Two minutes before
# its time ends, the job is stopped and queued again, and the same command goes on from what is in --out (give `distill`
# and `tune` --resume too).
set -euo pipefail

if (($# == 0)); then
  echo "usage: sbatch slurm.sh raydd VERB --address auto ..." >&2
  exit 2
fi
if [[ -n ${RAYDD_ENV:-} ]]; then
  PATH="$RAYDD_ENV/bin:$PATH"
fi

# A token of this job's own, which only this user can read: other users' processes on the same network can do nothing.
umask 077
mkdir -p "$HOME/.ray"
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/slurm-$SLURM_JOB_ID.token"
python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH"

steps=()
command=
finish() {
  for step in $command "${steps[@]}"; do
    kill "$step" 2> /dev/null || true
  done
  wait
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
requeue() {
  echo "slurm.sh: the time is nearly over: stopping, and queueing the job again"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap finish EXIT
trap 'exit 143' TERM
trap requeue USR1

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
cpus="${SLURM_CPUS_PER_TASK:-$(nproc)}"
gpus="${SLURM_GPUS_ON_NODE:-0}"
port=$((20000 + SLURM_JOB_ID % 10000))
options="--num-cpus=$cpus --num-gpus=$gpus --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0"
address="$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address | awk '{ print $1 }'):$port"

# The dashboard, which takes jobs, listens to the first node alone. The folder is the job's own: Ray lets everybody write
# in what it makes, so it is made below one that only this user can enter, and that nobody could have made before.
files="/tmp/raydd-$SLURM_JOB_ID-$(python -c 'import secrets; print(secrets.token_hex(4))')"
srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" \
  bash -c "mkdir -m 700 $files && exec ray start --head --block --node-ip-address=${address%:*} --port=$port \
  --ray-client-server-port=$((port + 10000)) $options --dashboard-host=127.0.0.1 --disable-usage-stats \
  --temp-dir=$files/ray" &
steps+=($!)
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --nodelist="$node" \
    bash -c "mkdir -m 700 $files && until ray start --block --address=$address $options; do sleep 2; done" &
  steps+=($!)
done

# Begin when all nodes have joined.
python - "$address" "${#nodes[@]}" << 'WAIT'
import sys
import time

import ray

address, nodes = sys.argv[1], int(sys.argv[2])
end, alive = time.monotonic() + 300, 0
while alive < nodes:
    try:
        if not ray.is_initialized():
            ray.init(address=address, logging_level="error", log_to_driver=False)
        alive = sum(node["Alive"] for node in ray.nodes())
    except ConnectionError:
        pass
    if time.monotonic() > end:
        sys.exit(f"slurm.sh: {alive} of {nodes} nodes joined in 300 s; see the log above")
    time.sleep(1)
print(f"Ray at {address}: {alive} nodes", flush=True)
WAIT

export RAY_ADDRESS="$address" # what --address auto means
"$@" & # in the background, so that the signal before the end of the time is answered at once
command=$!
wait "$command"
