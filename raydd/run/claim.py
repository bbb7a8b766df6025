"""Run folders that hold something already; a folder holds a run once it has a ``config.yaml``."""

from pathlib import Path

RESULTS = ("synset.arrow", "synset.png", "best.arrow", "last.arrow", "metrics.jsonl", "memory.jsonl", "checkpoint")


def claim(folder: Path, resume: bool) -> None:
    """Refuse a folder that holds a run already, unless it is resumed, or a run's files without their config.yaml."""
    if (folder / "config.yaml").exists():
        if not resume:
            raise ValueError(f"{folder} holds a run already; go on with --resume, or name another --out")
        return
    if there := [name for name in RESULTS if (folder / name).exists()]:
        raise ValueError(
            f"{folder} holds {there[0]} without a config.yaml, and it would be replaced; name another --out"
        )
