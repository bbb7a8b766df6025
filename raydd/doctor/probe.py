"""Checks in a process of their own, since a broken package may end the process that imports it.

The process prints one line of JSON a part, ``{part: {"value": ...}}`` or ``{part: {"error": ...}}``. Lines that it
printed before a crash count.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from raydd.doctor.findings import reason

SECONDS = 60.0
Results = dict[str, dict[str, Any]]
"""The ``value`` or the ``error`` of each part."""


def torch_part() -> dict[str, Any]:
    """Return the version of the imported torch, and the GPUs that it can use."""
    import torch

    torch.ones(2, 2) @ torch.ones(2, 2)
    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append({"name": torch.cuda.get_device_name(index), "free": free, "total": total})
    return {"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}


def torchvision_part() -> dict[str, Any]:
    """Return the version of the imported torchvision, after running one of its compiled operators."""
    import torch
    import torchvision

    torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return {"version": torchvision.__version__}


def datasets_part() -> dict[str, Any]:
    """Return the data sets that are here without a download, and those that are decoded already."""
    from raydd.data.datasets import DATASETS, default_root
    from raydd.data.named_sets import TORCHVISION
    from raydd.io.paths import default_cache

    root = default_root()

    def is_here(name: str) -> bool:
        if name in TORCHVISION:  # its own finder would download it
            return all((root / file).is_file() for file in TORCHVISION[name].files)
        try:
            DATASETS[name].find(root)
        except ValueError:
            return False
        return True

    decoded = sorted(path.parent.name for path in (default_cache() / "datasets").glob("*/dataset.json"))
    return {"here": [name for name in DATASETS if is_here(name)], "all": [*DATASETS], "decoded": decoded}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": torch_part,
    "torchvision": torchvision_part,
    "datasets": datasets_part,
}


def main(names: list[str]) -> None:
    """Print the result of each part, a line each."""
    for name in names:
        try:
            result: dict[str, Any] = {"value": PARTS[name]()}
        except BaseException as error:  # a broken package raises anything
            result = {"error": reason(error)}
        print(json.dumps({name: result}), flush=True)


class Probe:
    """A process that checks parts while this one goes on; it finds packages where this process does.

    Args:
        parts: Names of `PARTS`, in the order of the checks.
    """

    def __init__(self, *parts: str) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from raydd.doctor.probe import main; main(sys.argv[1:])"
        pipe = subprocess.PIPE
        self._parts = parts
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *parts],
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            errors="replace",
        )

    def results(self) -> Results:
        """Wait for the process, and return each part's result; a part that did not finish has an error."""
        try:
            out, err = self._process.communicate(timeout=SECONDS)
            code = self._process.returncode
            end = f"the process ended with {'signal' if code < 0 else 'code'} {abs(code)}"
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
            end = f"not done after {SECONDS:g} s"
        results: Results = {}
        for line in out.splitlines():
            if line.startswith('{"'):
                results |= json.loads(line)
        last = " ".join(err.split())[-120:]
        return {part: {"error": f"{end} {last}".strip()} for part in self._parts} | results
