"""Ray: actors, object store, Tune, Train. The only package that imports ray."""

import os
import sys

# Read by ray when it is imported: no copy of the environment a worker, no usage pings, quiet logs.
for _name, _value in {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}.items():
    os.environ.setdefault(_name, _value)


def connected() -> bool:
    """Return whether this process has an open connection to Ray; Ray is not loaded for that."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
