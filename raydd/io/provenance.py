"""The version of the source that writes a file."""

import subprocess
from pathlib import Path
from typing import Any


def commit() -> str | None:
    """Return the commit of the running source tree, or None if it is no checkout."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 10}
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], **options)  # else it is another project's tree
        return subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], **options).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
