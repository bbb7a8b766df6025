"""Whether training mirrors images left and right: where it is asked for, or known to change no class.

A photograph of a dog is of a dog in the mirror too; a letter or a traffic sign is another one, or none.
"""

from collections.abc import Mapping
from typing import Any

from raydd.config.parsing import Tree
from raydd.config.schema import DataConfig, DistillConfig
from raydd.data.datasets import DATASETS


def flips(data: DataConfig) -> bool:
    """Whether images may be mirrored: ``data.flip``, else the row of a named data set; a path's are not."""
    if data.flip is not None:
        return data.flip
    return data.dataset in DATASETS and DATASETS[data.dataset].flip


def mirrors(data: DataConfig) -> bool:
    """Whether the data's augmentation mirrors images."""
    return data.augment != "none" and flips(data)


def run_mirrors(config: DistillConfig) -> bool:
    """Whether a distillation mirrors images: in its students, its scores, or what it compares."""
    chosen = config.statistic
    compared = config.match == "statistics" and chosen.augment != "none" and "flip" in chosen.strategy.split("_")
    return mirrors(config.data) or (compared and flips(config.data))


def words(name: str) -> str:
    """What is said where images are mirrored."""
    return f"{name}: training mirrors images at random (data.flip = true)"


def _unsaid(dataset: str) -> bool:
    """What a file without the field means: versions that did not have it mirrored all data of one's own."""
    return DATASETS[dataset].flip if dataset in DATASETS else True


def recorded(data: Mapping[str, Any]) -> Tree:
    """Settings of data that a file holds, with the mirroring that a file without the field was made with.

    >>> recorded({"dataset": "digits"}), recorded({"dataset": "runes/"})
    ({'flip': False, 'dataset': 'digits'}, {'flip': True, 'dataset': 'runes/'})
    """
    return {"flip": _unsaid(str(data.get("dataset", DataConfig().dataset))), **data}


def data_recipe(data: DataConfig) -> Tree:
    """What a buffer's recipe keeps of the settings of data; of ``flip`` only what its absence would not say."""
    found: Tree = {"augment": data.augment, "validation": data.validation}
    flip = flips(data)
    return found if data.augment == "none" or flip == _unsaid(data.dataset) else found | {"flip": flip}


def assumed(dataset: str) -> Tree:
    """Settings of experts that another project trained on data of one's own: all of these projects mirror them."""
    return {} if dataset in DATASETS else {"data": {"flip": True}}


def check_buffer(place: object, recipe: Mapping[str, Any], data: DataConfig) -> None:
    """Refuse experts that were trained with mirror images where the settings want none, or the reverse.

    Args:
        place: What the buffer is called.
        recipe: Its own.
        data: What is asked for.

    Raises:
        ValueError: Naming both values and the remedy.
    """
    there, wanted = bool(recipe.get("flip", _unsaid(data.dataset))), flips(data)
    if recipe.get("augment") != "none" and there != wanted:
        there_, wanted_ = str(there).lower(), str(wanted).lower()
        raise ValueError(
            f"{place} holds experts trained with data.flip={there_}, not {wanted_}; "
            f"use --set data.flip={there_}, or another buffer"
        )
