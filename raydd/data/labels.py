"""Labels in files of users -> classes 0..K-1 and their names."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydd.data.image_source import Labels

MAX_NAME = 200
"""The most characters of a class name."""
ONE_LABEL = "give one label an image: a whole number 0..K-1, or a word"


class Column(NamedTuple):
    """The labels of a file, checked one by one."""

    origin: str
    values: NDArray[Any]  # whole numbers, int64 (n,), or words, objects (n,)

    @property
    def words(self) -> bool:
        """Whether they are words."""
        return self.values.dtype == object


def column(values: NDArray[Any], origin: str) -> Column:
    """Return labels (n,) or (n, 1) of any type as whole numbers or words.

    Booleans become the words ``false`` and ``true``; floating-point numbers must be whole.
    """
    if values.size == 0 or values.size != len(values):
        raise ValueError(f"{origin} has labels of type {values.dtype} and shape {values.shape}: {ONE_LABEL}")
    values = values.reshape(-1)
    kind = values.dtype.kind
    if kind == "b":
        return Column(origin, np.array(["false", "true"], dtype=object)[values.astype(int)])
    if kind in "iuf":
        if kind == "f":
            _refuse(~np.isfinite(values) | (values != np.round(values)), values, origin, "save whole numbers")
        _refuse((values < 0) | (values >= 2**63), values, origin, ONE_LABEL)
        return Column(origin, values.astype(np.int64))
    if kind in "US" or (kind == "O" and all(value is None or isinstance(value, str) for value in values)):
        return Column(origin, _words(values, origin))
    raise ValueError(f"{origin} has labels of type {values.dtype}: {ONE_LABEL}")


def _words(values: NDArray[Any], origin: str) -> NDArray[Any]:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "backslashreplace")
    try:
        words = values.astype(object)
    except (SystemError, ValueError):  # numbers that are no characters
        raise ValueError(f"{origin} has labels that are no text: save words again") from None
    wrong = np.array([word is None or not 0 < len(word) <= MAX_NAME for word in words])
    if wrong.any():
        row = int(wrong.argmax())
        label = f"a label of {len(words[row])} characters" if words[row] else "no label"
        raise ValueError(f"{origin} row {row} has {label}: give each image the name of its class, or remove the row")
    return words


def _refuse(wrong: NDArray[np.bool_], values: NDArray[Any], origin: str, remedy: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"{origin} row {row} has the label {values[row]}: {remedy}")


def join(columns: Sequence[Column]) -> Column:
    """Join the labels of several files of one split; refuse words beside numbers."""
    first = columns[0]
    other = next((one for one in columns if one.words != first.words), None)
    if other is not None:
        raise _mixed(first, other)
    return Column(first.origin, np.concatenate([one.values for one in columns]))


def _mixed(first: Column, other: Column) -> ValueError:
    words, numbers = (first, other) if first.words else (other, first)
    return ValueError(f"{words.origin} has words for labels and {numbers.origin} has numbers: use one of them in all")


def number_labels(
    train: Column, test: Column | None, names: Sequence[object] | None = None
) -> tuple[tuple[str, ...], Labels, Labels | None]:
    """Return class names, and the labels of both splits as numbers.

    Without the file's class ``names``, these are the distinct words in order, or the numbers. Each class must occur in
    the training labels.
    """
    if test is not None and test.words != train.words:
        raise _mixed(train, test)
    if names is not None:
        classes = check_names(names, train.origin)
    elif train.words:
        classes = tuple(sorted(set(train.values)))
    else:
        if (largest := int(train.values.max())) >= len(train.values):
            raise ValueError(
                f"{train.origin} has the label {largest} and {len(train.values)} images: "
                "number the classes 0..K-1 without a gap, with at least one training image each"
            )
        classes = tuple(str(label) for label in range(largest + 1))
    first = check_labels(class_numbers(train, classes), len(classes), train.origin, every=True)
    if test is None:
        return classes, first, None
    return classes, first, check_labels(class_numbers(test, classes), len(classes), test.origin, every=False)


def class_numbers(labels: Column, classes: tuple[str, ...]) -> NDArray[Any]:
    """Return words as positions among class names, and numbers as they are; refuse words that are no class name."""
    if not labels.words:
        return labels.values
    order = {name: label for label, name in enumerate(classes)}
    for row, word in enumerate(labels.values):
        if word not in order:
            names = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise ValueError(f"{labels.origin} row {row} has the label {word!r}, the classes are {names}: rename it")
    return np.array([order[word] for word in labels.values], dtype=np.int64)


def check_names(names: Sequence[object], origin: str) -> tuple[str, ...]:
    """Return class names as words; refuse empty, long and equal ones."""
    words = tuple(str(name) for name in names)
    for label, word in enumerate(words):
        if not 0 < len(word) <= MAX_NAME:
            raise ValueError(f"{origin} names class {label} with {len(word)} characters: use 1 to {MAX_NAME}")
    if len(set(words)) < len(words):
        twice = next(word for label, word in enumerate(words) if word in words[:label])
        raise ValueError(f"{origin} names two classes {twice!r}: give each class a name of its own")
    return words


def check_labels(values: Labels, classes: int, origin: str, *, every: bool) -> Labels:
    """Return labels (n,), each one of 0..K-1; ``every``: each class must occur, as in training labels."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(f"{origin} has the label {wrong}: labels must be 0..{classes - 1}, one of {classes} classes")
    if every and (absent := np.flatnonzero(np.bincount(values, minlength=classes) == 0)).size:
        raise ValueError(
            f"{origin} has no image of class {absent[0]}: number the classes 0..K-1 without a gap, "
            "with at least one training image each"
        )
    return values


def missing_classes(classes: tuple[str, ...], labels: Labels, split: str) -> str:
    """Return a note on the classes without an image in a split, or an empty text."""
    counts = np.bincount(labels, minlength=len(classes))
    names = [classes[label] for label in np.flatnonzero(counts == 0)]
    if not names:
        return ""
    if len(names) == len(classes):
        return f"the {split} split is empty: no class has images enough"
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"the {split} split has no image of {len(names)} of {len(classes)} classes ({some})"
