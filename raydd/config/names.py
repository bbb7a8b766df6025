"""The names that settings may have, known without loading PyTorch.

The rows behind the names are in the packages that implement them. A wrong name must be refused before those are
imported, so the names that ship are listed here; a test compares each list with its table.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from raydd import plugins

_LAYERS = "NN|BN|LN|IN|GN|AS|AR|AL|NP|MP|AP"
_NETWORK = rf"timm:.*|ConvNet([WD]\d+|{_LAYERS})+|(AlexNet|(VGG11|ResNet10|ResNet18)(BN)?|DenseNet121)W[1-9]\d*"
_NETWORKS = f"ConvNet with any of W<width>, D<depth>, {_LAYERS.replace('|', ', ')}, others with W<width>, timm:<name>"


class Table(NamedTuple):
    """A table of names.

    Attributes:
        noun: What one name stands for.
        rows: Module and attribute that hold the rows, such as ``raydd.methods:METHODS``.
        shipped: The names that ship, separated by spaces.
        pattern: A regular expression of further names.
        files: The suffixes of a file that may stand for a name; ``*`` allows any path.
        other: What may be given besides a name, as an error message says it.
    """

    noun: str
    rows: str
    shipped: str
    pattern: str = ""
    files: tuple[str, ...] = ()
    other: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that ship."""
        return tuple(self.shipped.split())


_CORESETS = "random kmeans herding kcenter forgetting glister"
TABLES = {
    "method": Table(
        "method",
        "raydd.methods:METHODS",
        "mtt ftd tesla datm dpd ast mct haba dc dsa dm tgdd tgdd_adam dance idm m3d datadam dsdm ncfm idc bptt ratbptt "
        f"atbptt frepo kip rcig cafe rded sre2l dream {_CORESETS}",
    ),
    "dataset": Table(
        "data set",
        "raydd.data.datasets:DATASETS",
        "digits mnist fashion_mnist svhn cifar10 cifar100 tiny_imagenet imagenet_nette imagenet_woof imagenet_fruit "
        "imagenet_meow imagenet_squawk imagenet_yellow",
        files=("*",),
        other="a path to a folder of Parquet, an ImageFolder or an .npz",
    ),
    "network": Table(
        "network",
        "raydd.models.zoo:NETWORKS",
        "ConvNet MLP LeNet AlexNet VGG11 VGG11BN ResNet10 ResNet10BN ResNet18 ResNet18BN DenseNet121",
        pattern=_NETWORK,
        other=_NETWORKS,
    ),
    "protocol": Table(
        "protocol",
        "raydd.evaluation.protocols:PROTOCOLS",
        "mtt datm ast dm dcbench tgdd ncfm sre2l rded",
        files=(".yaml", ".yml"),
        other="a YAML file",
    ),
    "architectures": Table(
        "space",
        "raydd.models.spaces:SPACES",
        "convnet720 nasbench201",
        files=(".yaml", ".yml"),
        other="a YAML file of rows",
    ),
    "coreset": Table("baseline", "raydd.selection.coresets:CORESETS", _CORESETS),
    "layout": Table("layout", "raydd.interop.layouts:LAYOUTS", "dcbench datm mtt ddranking tgdd dc hf png"),
    "expert layout": Table("layout", "raydd.interop.expert_files:FORMATS", "mtt tgdd"),
    "score": Table("score", "raydd.evaluation.robust:SCORES", "lrs ars hlr ior"),
    "device": Table("device", "", "auto cpu cuda"),
    "ablation": Table("ablation", "raydd.api.ablation:ABLATIONS", "tgdd ast datm dpd mct"),
}
"""By kind."""


class Named(str):
    """Metadata of a setting, a key of `TABLES`: its value, or each of its values, is a name of that table."""


def check_name(kind: str, name: str) -> None:
    """Refuse a name that no row has.

    The rows themselves decide where their module is loaded, since a script may have added some, and where a plugin is
    installed, since only loading it tells its rows.

    Args:
        kind: A key of `TABLES`.
        name: The name, or a path where the table takes files.

    Raises:
        ValueError: The name is unknown, or its file does not exist; the message says what is near.
    """
    table = TABLES[kind]
    if name in table.names or (table.pattern and re.fullmatch(table.pattern, name)):
        return
    if table.files and (_is_path(name, table) or Path(name).suffix in table.files):
        if not Path(name).expanduser().exists():
            known = ", ".join(table.names)
            raise ValueError(f"{table.noun} {name} does not exist: give {table.other}, or one of the names {known}")
        return
    if (rows := _loaded(table)) is not None:
        if name in rows:
            return
    elif plugins.installed():
        return
    raise ValueError(unknown(table.noun, name, rows or table.names, table.other))


def _loaded(table: Table) -> Any:
    """Return the rows where their module is loaded, else None."""
    module, _, attribute = table.rows.partition(":")
    return getattr(sys.modules.get(module), attribute, None)


def absolute_dataset(name: str) -> str:
    """Return a data set's name as it is, and an existing path made absolute, since Ray's workers run elsewhere.

    >>> absolute_dataset("digits"), absolute_dataset("/tmp/../tmp") == str(Path("/tmp").resolve())
    ('digits', True)
    """
    table, path = TABLES["dataset"], Path(name).expanduser()
    registered = name in (_loaded(table) or table.names)
    return name if registered or not path.exists() else str(path.resolve())


def _is_path(name: str, table: Table) -> bool:
    """Whether a word is a path rather than a misspelled name."""
    if "*" not in table.files:
        return False
    return os.sep in name or name.startswith(("~", ".")) or Path(name).suffix != "" or Path(name).exists()


MOST_LISTED = 30
"""Names that a message lists beside near ones."""


def unknown(noun: str, name: str, known: Iterable[str], other: str = "") -> str:
    """Return the line that refuses an unknown name.

    >>> unknown("protocol", "dmm", ["dm", "mtt"], "a YAML file")
    "unknown protocol 'dmm': did you mean dm? Use one of dm, mtt, or a YAML file"

    Of many names only the near ones are listed, if there are any.
    """
    spelled = {word.lower(): word for word in known}
    near = difflib.get_close_matches(name.lower(), spelled, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(spelled[word] for word in near)}?"
    if near and len(spelled) > MOST_LISTED:
        return f"unknown {noun} {name!r}: {meant}{f' Or use {other}' if other else ''}"
    hint = f"{meant} Use" if near else "use"
    return f"unknown {noun} {name!r}: {hint} one of {', '.join(spelled.values())}{f', or {other}' if other else ''}"


def presets() -> list[str]:
    """Return the names of the shipped presets, as ``--preset`` takes them."""
    home = Path(str(resources.files("raydd"))) / "presets"
    return sorted(path.relative_to(home).with_suffix("").as_posix() for path in home.glob("*/*.yaml"))


def space_folder() -> Path:
    """Return the folder of the shipped search spaces: in the package, or beside it in a source tree."""
    package = Path(str(resources.files("raydd")))
    return next((path for path in [package / "tune_spaces"] if path.is_dir()), package.parent / "tune_spaces")


def search_spaces() -> list[str]:
    """Return the names of the shipped search spaces."""
    return sorted(path.stem for path in space_folder().glob("*.yaml"))


PLUGIN_SPACES: plugins.Table[dict[str, Any]] = plugins.Table("SPACES", dict)
"""The search spaces of plugins: the values of a YAML file, by name."""


def find_space(name: str | Path) -> Path | None:
    """Return the file of a search space: a shipped one by name, or a path; None for the space of a plugin.

    Raises:
        ValueError: There is no such space.
    """
    path = space_folder() / f"{name}.yaml"
    if not str(name).isidentifier() or not path.is_file():
        path = Path(name)
    if path.is_file():
        return path
    if str(name) in PLUGIN_SPACES:
        return None
    known = [*search_spaces(), *PLUGIN_SPACES]
    near = difflib.get_close_matches(str(name), known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"shipped spaces are {', '.join(known)}"
    raise ValueError(f"--space {str(name)!r} is neither a shipped space nor a YAML file; {hint}")
