"""What `raydd doctor` looks at in a process of its own, since a broken package may end the process that imports it.

That process prints a line of JSON a part, ``{part: {"found": ...}}`` or ``{part: {"error": ...}}``; what it printed
before a crash is kept.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from raydd.doctor.findings import reason

SECONDS = 60.0
Said = dict[str, dict[str, Any]]
"""By part, what it ``found``, or its ``error``."""


def torch_part() -> dict[str, Any]:
    """The imported torch, and the GPUs that it can use."""
    import torch

    torch.ones(2, 2) @ torch.ones(2, 2)
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append({"name": torch.cuda.get_device_name(index), "free": free, "total": total})
    return {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}


def torchvision_part() -> dict[str, Any]:
    """The imported torchvision, after an operator of its compiled part has run."""
    import torch
    import torchvision

    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return {"version": torchvision.__version__}


def datasets_part() -> dict[str, Any]:
    """The data sets that are here without any download, and those that are decoded already."""
    from raydd.data.datasets import DATASETS, default_root
    from raydd.data.named_sets import TORCHVISION
    from raydd.io.paths import default_cache

    root = default_root()

    def here(name: str) -> bool:
        if name in TORCHVISION:  # to ask its finder would download it
            return all((root / file).is_file() for file in TORCHVISION[name].files)
        try:
            DATASETS[name].find(root)
        except ValueError:
            return False
        return True

    decoded = sorted(path.parent.name for path in (default_cache() / "datasets").glob("*/dataset.json"))
    return {"here": [name for name in DATASETS if here(name)], "all": [*DATASETS], "decoded": decoded}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": torch_part,
    "torchvision": torchvision_part,
    "datasets": datasets_part,
}


def main(names: list[str]) -> None:
    """Print what the parts found, a line each."""
    for name in names:
        try:
            said: dict[str, Any] = {"found": PARTS[name]()}
        except BaseException as error:  # a broken package raises anything
            said = {"error": reason(error)}
        print(json.dumps({name: said}), flush=True)


class Probe:
    """Parts that are looked at while this process looks at others.

    The process finds packages where this one does.

    Args:
        parts: Names of `PARTS`, in the order in which they are looked at.
    """

    def __init__(self, *parts: str) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from raydd.doctor.probe import main; main(sys.argv[1:])"
        self._parts = parts
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *parts],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def said(self) -> Said:
        """What each part found or failed with; a part that did not come to its end has an error too."""
        try:
            out, err = self._process.communicate(timeout=SECONDS)
            code = self._process.returncode
            ended = f"the process ended with signal {-code}" if code < 0 else f"the process ended with code {code}"
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
            ended = f"not done after {SECONDS:g} s"
        found: Said = {}
        for line in out.splitlines():
            if line.startswith('{"'):
                found |= json.loads(line)
        last = " ".join(err.split())[-120:]
        return found | {part: {"error": f"{ended} {last}".strip()} for part in self._parts if part not in found}
