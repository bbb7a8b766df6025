"""The number formats of theta in a buffer's files, and their rounding errors.

Shapes: `P` parameters, `T` snapshots.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
FULL = "float32"
_BLOCK = 1 << 20


class Storage(NamedTuple):
    """A number format of theta's column.

    Attributes:
        dtype: NumPy's name of the column's type; Arrow has no bfloat16, so its bits are stored as uint16.
        largest: The largest number of the format.
        smallest: The smallest positive number of full precision; smaller ones are rounded more coarsely.
        bound: Half a unit in the last place: the largest relative error from ``smallest`` to ``largest``.
        narrow: float32 (..., P) to the column's type, rounded to nearest, ties to even.
        widen: The column's values as a float32 tensor, exactly; of float32 itself without a copy.
    """

    dtype: str
    largest: float
    smallest: float
    bound: float
    narrow: Callable[[Array], Array]
    widen: Callable[[Array], Tensor]


def _to_half(theta: Array) -> Array:
    with np.errstate(over="ignore"):
        return theta.astype(np.float16)


def _to_brain(theta: Array) -> Array:
    return torch.tensor(theta).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def _from_brain(bits: Array) -> Tensor:
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float()


STORAGES: dict[str, Storage] = {
    "float32": Storage("float32", 3.4028235e38, 2.0**-126, 0.0, lambda theta: theta, torch.from_numpy),
    "float16": Storage("float16", 65504.0, 2.0**-14, 2.0**-11, _to_half, lambda theta: torch.from_numpy(theta).float()),
    "bfloat16": Storage("uint16", 3.3895314e38, 2.0**-126, 2.0**-8, _to_brain, _from_brain),
}
"""By the name that ``experts.storage`` has.

float16 keeps 11 significant bits: a relative error of at most 2^-11 (0.05 %) from 6.1e-5 to 65504, and of at most
3e-8 in absolute terms below; numbers under 3e-8 become zero, and numbers above 65504 are refused. bfloat16 keeps 8:
at most 2^-8 (0.4 %), over the whole range of float32.
"""


def narrow_theta(theta: Array, storage: str, expert: int, epoch: int) -> tuple[Array, Array]:
    """Return a snapshot in its stored format, and the rounding errors.

    Args:
        theta: The snapshot (P,), float32, finite.
        storage: A key of `STORAGES`.
        expert: The expert's number, for errors.
        epoch: The snapshot's, for errors.

    Returns:
        The stored values (P,), and (2,) float64: the largest relative error of a number, |stored - theta| / |theta|
        over theta != 0, and the relative error of the whole snapshot, ||stored - theta||_2 / ||theta||_2.
    """
    kind = STORAGES[storage]
    stored, largest, error, norm = np.empty(theta.shape, kind.dtype), 0.0, 0.0, 0.0
    for start in range(0, len(theta), _BLOCK):  # float64 of a block at a time
        block = theta[start : start + _BLOCK]
        stored[start : start + _BLOCK] = kind.narrow(block)
        wide, exact = kind.widen(stored[start : start + _BLOCK]).numpy().astype(np.float64), block.astype(np.float64)
        if not np.isfinite(wide).all():
            raise ValueError(
                f"expert {expert} reaches {np.abs(exact).max():.6g} at epoch {epoch}, and {storage} ends at "
                f"{kind.largest:.6g}: use --set experts.storage={'bfloat16' if storage == 'float16' else FULL}"
            )
        lost, size = np.abs(wide - exact), np.abs(exact)
        largest = max(largest, float(np.max(lost / np.where(size > 0, size, 1), initial=0.0)))
        error, norm = error + float(np.sum(lost * lost)), norm + float(np.sum(exact * exact))
    return stored, np.array([largest, (error / norm) ** 0.5 if norm else 0.0])
