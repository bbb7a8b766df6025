"""Files of `torch.save` that hold only numbers; code in them is refused and never run."""

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydd.io.files import write_atomic

_CODE = re.compile(r"GLOBAL (\S+)")
_PROTOCOL = re.compile(r"pickle protocol (\d+)")
_ZIP = b"PK\x03\x04"
_DEPTH = 32
_MOST = 10_000_000
_REPEATED = 16 << 20
"""Bytes of a tensor that may repeat fewer numbers, as an expanded one does."""
_SCALAR: Callable[..., Any] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]
# Result files of the DC family keep accuracies as NumPy numbers; the older name is what NumPy 1 wrote.
_NUMBERS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]


def load(path: Path) -> Any:
    """Load a file of tensors, numbers, words, lists and dictionaries of them, on the CPU; code is refused."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: copy it beside the others, or name another layout")
    value = _load(path)
    storages: dict[int, Any] = {}
    for tensor in _tensors(value, path):
        if tensor.layout == torch.strided and not tensor.is_meta:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage
            if tensor.numel() * tensor.element_size() > max(storage.nbytes(), _REPEATED):
                raise ValueError(
                    f"{path} holds {describe_value(tensor)}, which repeats few numbers: save plain tensors again"
                )
    _check_stored(sum(storage.nbytes() for storage in storages.values()), path)
    return value


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == _ZIP
        if zipped:
            with zipfile.ZipFile(path) as archive:  # torch packs nothing
                _check_stored(sum(info.file_size for info in archive.infolist()), path)
        with torch.serialization.safe_globals(_NUMBERS), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            return torch.load(path, map_location="cpu" if zipped else _Zeroed(path), weights_only=True)
    except pickle.UnpicklingError as error:
        if code := _CODE.search(str(error)):
            raise ValueError(
                f"{path} holds code ({code[1].rstrip('.')}) beside tensors and is refused: save plain tensors again"
            ) from None
        if protocol := next(filter(None, (_PROTOCOL.search(str(one.message)) for one in warned)), None):
            raise ValueError(
                f"{path} was saved with pickle_protocol={protocol[1]}, which plain numbers (weights_only) are not read "
                "from: save it again with torch.save's default, 2"
            ) from None
        raise _damaged(path) from None
    except Exception:  # torch raises whatever its parts raise
        raise _damaged(path) from None


class _Zeroed:
    """Bounds and zeroes the storages that torch's older format makes before it reads numbers, which may be missing."""

    def __init__(self, path: Path) -> None:
        self._path, self._size = path, 0

    def __call__(self, storage: Any, location: str) -> Any:
        """Return the storage, on the CPU."""
        self._size += storage.nbytes()
        _check_stored(self._size, self._path)
        return storage.fill_(0)


def _check_stored(size: int, path: Path) -> None:
    """Refuse values of more bytes than their file."""
    if size > path.stat().st_size:
        raise _damaged(path)


def _tensors(value: Any, path: Path) -> Iterator[Tensor]:
    """Yield all tensors of a value; refuse one that holds itself, or is nested too deeply."""
    above: list[int] = []
    left: list[tuple[Any, int]] = [(value, 0)]
    seen = 0
    while left:
        one, depth = left.pop()
        del above[depth:]
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, dict | list | tuple):
            seen += len(one)
            if id(one) in above or depth > _DEPTH or seen > _MOST:
                raise ValueError(f"{path} holds a value that repeats itself or has no end: save plain tensors again")
            above.append(id(one))
            left += [(inner, depth + 1) for inner in (one.values() if isinstance(one, dict) else one)]


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path} is not a whole file of torch.save: copy it again")


def load_tensor(path: Path) -> Tensor:
    """Load the single tensor of a file; see `load`."""
    return as_tensor(load(path), path)


def load_number(path: Path) -> float:
    """Load the single number of a file, plain or as a tensor; see `load`."""
    value = load(path)
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(as_tensor(value, path, "one number"))
    if isinstance(value, int | float | np.integer | np.floating):
        return float(value)
    raise ValueError(f"{path} holds {describe_value(value)} where one number is expected")


def as_tensor(value: Any, path: Path, what: str = "a tensor") -> Tensor:
    """Return a value that must be a dense tensor of real numbers."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{path} holds {describe_value(value)} where {what} is expected: name another layout")
    if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta:
        kind = f"{value.layout}, {value.dtype}" + (", without its numbers: device meta" if value.is_meta else "")
        what = f"{path} holds {describe_value(value)} ({kind}) where {what} is expected"
        raise ValueError(f"{what}: save dense real numbers")
    return value.detach()


def describe_value(value: Any) -> str:
    """Return the kind of a value, for errors.

    >>> describe_value([1, 2]), describe_value(torch.zeros(2, 3))
    ('a list of 2', 'a tensor (2, 3)')
    """
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    count = f" of {len(value)}" if isinstance(value, list | tuple | dict) else ""
    return f"a {type(value).__name__}{count}"


def save(path: Path, value: Any) -> Path:
    """Write a value with `torch.save`, whole or not at all."""
    data = io.BytesIO()
    torch.save(value, data)
    return write_atomic(path, data.getvalue())
