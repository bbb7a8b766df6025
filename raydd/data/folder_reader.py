"""Readers of image folders: ``root/<class>/*`` and ``root/train|test/<class>/*``."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from raydd.data.decode import Blob, decoder
from raydd.data.image_source import Content, Form, Labels, Source, holdout
from raydd.data.labels import check_labels
from raydd.data.picture import read_file

TEST_SHARE = 0.2
TEST_NOTE = "no test images are given: a fixed stratified 20 % of the images is the test split"
SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
"""Files that operating systems put beside those of users, in lower case; hidden files are ignored, too."""

Labelled = list[tuple[Path, int]]


def find_folder(root: Path, name: str) -> Source:
    """Find an image folder: ``root/train/<class>/*`` with ``root/test`` (or ``val``), or ``root/<class>/*``.

    Without test images a fixed stratified 20 % of the images is the test split; the content's note says so. Hidden
    files, those of `SYSTEM`, and files beside class folders are ignored.
    """
    split = (root / "train").is_dir()
    train_root = root / "train" if split else root
    folders = subfolders(train_root)
    if not folders:
        raise ValueError(
            f"{train_root} has no class folders: put images into {train_root / '<class>'}/, one folder a class"
        )
    if outer := [each for each in folders if train_root.resolve().is_relative_to(each.resolve())]:
        raise ValueError(f"{outer[0]} is a link to a folder that it lies in, not a class: remove it")
    classes = [class_name(folder) for folder in folders]
    train = labelled_files(train_root, [folder.name for folder in folders])
    test_root = next((root / part for part in ("test", "val", "validation") if (root / part).is_dir()), None)
    if not split or test_root is None:
        splits = test_split(labels_of(train), name, name, "folder")
        remaining, test = ([train[row] for row in rows] for rows in splits)
        return source_of(name, classes, remaining, test, TEST_NOTE)
    tests = subfolders(test_root)
    extra = [folder for folder in tests if class_name(folder) not in classes]
    if extra:
        raise ValueError(f"{extra[0]} is a class that {train_root} does not have: rename or remove it")
    test = labelled_files(test_root, [folder.name for folder in tests], [folder.name for folder in folders])
    if not test:
        raise ValueError(f"{test_root} has no class folders: put test images there, or remove it to hold out 20 %")
    return source_of(name, classes, train, test)


def class_name(folder: Path) -> str:
    """Return a folder's name as text; bytes that are no UTF-8 become escapes."""
    return os.fsencode(folder.name).decode("utf-8", "backslashreplace")


def is_visible(name: str) -> bool:
    """Return whether a name is neither hidden nor one of `SYSTEM`."""
    return not name.startswith(".") and name.casefold() not in SYSTEM


def subfolders(root: Path) -> list[Path]:
    """Return the visible folders directly in a folder, by name."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and is_visible(path.name))


def files_below(folder: Path) -> list[Path]:
    """Return all visible files of a folder and the folders in it, by path."""
    files: list[Path] = []
    for parent, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if is_visible(name)]
        files += [Path(parent, name) for name in names if is_visible(name)]
    return sorted(files)


def labelled_files(root: Path, folders: Sequence[str], classes: Sequence[str] | None = None) -> Labelled:
    """Return the files of class folders, none empty, with their labels: positions among ``classes``."""
    order = {name: label for label, name in enumerate(classes or folders)}
    pairs: Labelled = []
    for name in folders:
        files = files_below(root / name)
        if not files:
            raise ValueError(f"{root / name} has no images: add some, or remove the empty folder")
        pairs += [(path, order[name]) for path in files]
    return pairs


def test_split(labels: Labels, name: str, origin: str, other: str) -> tuple[Labels, Labels]:
    """Return the rows of a fixed stratified split into training and test images.

    The split depends on the ``name``; ``other`` is what could hold test images instead: ``test`` and this word.
    """
    remaining, held = holdout(labels, TEST_SHARE, "test", name)
    if not held.size:
        what = f"{origin} has too few images for a test split"
        raise ValueError(f"{what}: give at least 3 images a class, or a test {other}")
    return remaining, held


def source_of(name: str, classes: Sequence[str], train: Labelled, test: Labelled, note: str = "") -> Source:
    """Return a source of image files with their labels."""

    def read(form: Form) -> Content:
        check_labels(labels_of(train), len(classes), name, every=True)
        plan = decoder(blobs(train), form)
        first, second = (plan.part(labels_of(pairs), partial(blobs, pairs)) for pairs in (train, test))
        return Content(tuple(classes), first, second, note, plan.findings)

    return Source(name, tuple(path for path, _ in train + test), read)


def labels_of(pairs: Labelled) -> Labels:
    """Return the labels (n,) of labelled files."""
    return np.array([label for _, label in pairs], dtype=np.int64)


def blobs(pairs: Labelled) -> list[Blob]:
    """Return labelled files as encoded images."""
    return [Blob(str(path), partial(read_file, path)) for path, _ in pairs]
