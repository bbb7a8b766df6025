"""Whether training mirrors images left and right: if the user asks for it, or if it changes no class.

A mirrored photograph of a dog shows a dog; a mirrored letter or traffic sign is another one, or none.
"""

from collections.abc import Mapping
from typing import Any

from raydd.config.parsing import Tree
from raydd.config.schema import DataConfig, DistillConfig
from raydd.data.datasets import DATASETS


def flips(data: DataConfig) -> bool:
    """Return whether images may be mirrored: ``data.flip``, else the row of a named data set; else no."""
    if data.flip is not None:
        return data.flip
    return data.dataset in DATASETS and DATASETS[data.dataset].flip


def mirrors(data: DataConfig) -> bool:
    """Return whether the data's augmentation mirrors images."""
    return data.augment != "none" and flips(data)


def distillation_mirrors(config: DistillConfig) -> bool:
    """Return whether a distillation mirrors images: of students, of scores, of compared statistics, or of its set."""
    chosen = config.statistic
    compared = config.match == "statistics" and chosen.augment != "none" and "flip" in chosen.strategy.split("_")
    solved = config.match == "kernel" and config.kernel.of == "linearised" and config.kernel.mirror
    return mirrors(config.data) or ((compared or solved) and flips(config.data))


def mirroring_note(name: str) -> str:
    """Return the note on a data set whose images are mirrored."""
    return f"{name}: training mirrors images at random (data.flip = true)"


def _without_field(dataset: str) -> bool:
    """Return the value of files without the field: versions without it mirrored all data of users."""
    return DATASETS[dataset].flip if dataset in DATASETS else True


def stored_settings(data: Mapping[str, Any]) -> Tree:
    """Return a file's settings of data, with the value of ``flip`` that a file without it implies.

    >>> stored_settings({"dataset": "digits"}), stored_settings({"dataset": "runes/"})
    ({'flip': False, 'dataset': 'digits'}, {'flip': True, 'dataset': 'runes/'})
    """
    return {"flip": _without_field(str(data.get("dataset", DataConfig().dataset))), **data}


def data_recipe(data: DataConfig) -> Tree:
    """Return a buffer's record of the settings of data, with ``flip`` only if its absence would imply another value."""
    recipe: Tree = {"augment": data.augment, "validation": data.validation}
    flip = flips(data)
    return recipe if data.augment == "none" or flip == _without_field(data.dataset) else recipe | {"flip": flip}


def check_mirroring(place: object, recipe: Mapping[str, Any], data: DataConfig) -> None:
    """Refuse a buffer's experts that were trained with mirror images where the settings want none, or the reverse."""
    flip = bool(recipe.get("flip", _without_field(data.dataset)))
    if recipe.get("augment") != "none" and flip != flips(data):
        own, other = str(flip).lower(), str(not flip).lower()
        what = f"{place} holds experts trained with data.flip={own}, not {other}"
        raise ValueError(f"{what}; use --set data.flip={own}, or another buffer")
