#!/usr/bin/env bash
#SBATCH --job-name=raydd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --output=raydd-%j.log
#
# A Ray cluster of the job's nodes, one raydd command on it, and its end with the job:
#
#     sbatch cluster/slurm.sh raydd experts --address auto --dataset cifar10 --num-experts 100 --out "$SCRATCH/cifar10"
#
# Put the folder of raydd's environment first in PATH before, or name it in RAYDD_ENV. The home folder and --out must be
# on a file system that all nodes see. The first node trains too, as it is paid for. A job that ran out of time is
# submitted again and goes on.
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
finish() {
  for step in "${steps[@]}"; do
    kill "$step" 2> /dev/null || true
  done
  wait
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap finish EXIT
trap 'exit 143' TERM

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
cpus="${SLURM_CPUS_PER_TASK:-$(nproc)}"
port=$((20000 + SLURM_JOB_ID % 10000))
address="$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address | awk '{ print $1 }'):$port"

# The dashboard, which takes jobs, listens to the first node alone. The folder is the job's own: Ray lets everybody write
# in what it makes, so it is made below one that only this user can enter, and that nobody could have made before.
files="/tmp/raydd-$SLURM_JOB_ID-$(python -c 'import secrets; print(secrets.token_hex(4))')"
srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" \
  bash -c "mkdir -m 700 $files && exec ray start --head --block --node-ip-address=${address%:*} --port=$port \
  --num-cpus=$cpus --dashboard-host=127.0.0.1 --disable-usage-stats --temp-dir=$files/ray" &
steps+=($!)
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --nodelist="$node" \
    bash -c "mkdir -m 700 $files && until ray start --block --address=$address --num-cpus=$cpus; do sleep 2; done" &
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
"$@"
