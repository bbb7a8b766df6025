"""The methods: the only place that knows their names.

A method is a file with one row, `METHOD`. Settings of its row fill what neither a preset nor the user sets, and every
part can be used without the others, or with another method: ``--method mtt --set pruning.rate=0.1``.

Differs, in all of them: the papers train experts, and choose images, from all training images. Here 10 % are held out
for validation; ``data.validation`` = 0 is the papers' split.
"""

from importlib import import_module
from pkgutil import iter_modules

from raydd.config.parsing import build
from raydd.config.schema import DistillConfig
from raydd.methods.method import Method
from raydd.plugins import Table

_FAMILIES = ("trajectories", "statistics", "loss", "kernel", "nothing")


def _shipped() -> dict[str, Method]:
    """Return the row of every file of this package, by family and name."""
    names = sorted(module.name for module in iter_modules(__path__) if module.name != "method")
    rows: list[Method] = [import_module(f"{__name__}.{name}").METHOD for name in names]
    return {row.name: row for row in sorted(rows, key=lambda row: _FAMILIES.index(row.match))}


METHODS: Table[Method] = Table("METHODS", Method, _shipped())
"""The methods by name, as ``DistillConfig.method`` takes them; a script may add a row of its own."""


def find_method(name: str) -> Method:
    """Return a method by name.

    >>> find_method("mtt").summary
    'Matching Training Trajectories: students walk as experts do.'
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; use one of {', '.join(METHODS)}")
    return METHODS[name]


def complete(config: DistillConfig, *, partial: bool = False) -> DistillConfig:
    """Return the configuration with the method's own values where nobody set any.

    >>> complete(DistillConfig(method="dpd")).pruning.rate, complete(DistillConfig()).pruning.rate
    (0.1, 0.0)
    >>> complete(DistillConfig(method="tgdd", ipc=20)).lr.images
    0.2
    """
    row, scaled = find_method(config.method), {}
    if rates := row.image_rates:
        rate = rates.get(config.data.dataset, rates[""])
        scaled = {"lr": {"images": round(rate * config.ipc, 12)}}  # 0.3, not 0.30000000000000004
    user = config.model_dump(exclude_unset=True)
    return build(DistillConfig, {"match": row.match}, row.defaults, scaled, user, partial=partial)
