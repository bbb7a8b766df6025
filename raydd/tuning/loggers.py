"""Requirements of sending results elsewhere: a package, and for Weights & Biases a key."""

import importlib.util
import os
from pathlib import Path


def require_package(package: str) -> None:
    """Refuse a package that is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"--{package} needs a package that is not installed; run: uv pip install {package}")


def require_wandb_key() -> None:
    """Refuse Weights & Biases without a key, unless it is offline."""
    offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
    if not (offline or os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists()):
        raise ValueError("--wandb: there is no key; set WANDB_API_KEY, run wandb login, or set WANDB_MODE=offline")
