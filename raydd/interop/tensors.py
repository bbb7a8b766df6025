"""Sets as tensors in files of `torch.save`: MTT, DATM, TGDD and IDC, the DC family, DC-BENCH, DD-Ranking."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raydd.data.synset import SyntheticSet
from raydd.interop.foreign import Foreign, Outgoing, name_of
from raydd.interop.torchfile import as_tensor, describe_value, load, load_number, load_tensor, save

OFFICIAL = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "tiny_imagenet": "TinyImageNet",
}
"""The DC family's names of data sets."""
BEST = "{}_best.pt"
"""The pattern of the file names of trajectory matching."""
LONGEST = 150
"""Bytes of a file's name; the temporary name is longer."""
PARTS = 5
"""Files of 50 images a class of Tiny ImageNet in DC-BENCH."""
IPC = re.compile(r"IPC\d+")


def home_of(path: Path, *names: str, needed: str = "") -> Path | None:
    """Return the folder that holds one of the files, or the needed one, from itself or such a file; else None."""
    folder = path.parent if path.is_file() and path.name in names else path
    return folder if any((folder / name).is_file() for name in ([needed] if needed else names)) else None


def file_of(path: Path, *patterns: str) -> Path | None:
    """Return the first file of a folder that fits a pattern, or the file itself; refuse several of a pattern."""
    if path.is_file():
        return path if any(path.match(pattern) for pattern in patterns) else None
    for pattern in patterns:
        files = sorted(path.glob(pattern))
        if len(files) > 1:
            raise ValueError(f"{path} holds {files[0].name} and {files[1].name}: name one of the files")
        if files:
            return files[0]
    return None


def read_folder(home: Path, classes: tuple[str, ...], *, names: str = BEST) -> Foreign:
    """Read images, labels and learning rate from files of a pattern; `BEST` needs labels, others have them by position.

    There may be no learning rate.
    """
    lr, images = home / names.format("lr"), load_tensor(home / names.format("images"))
    labels, notes = home / names.format("labels"), tuple[str, ...]()
    if names == BEST or labels.exists():
        values = load_tensor(labels)
    elif len(images) % len(classes):
        raise ValueError(
            f"{home / 'images.pt'} has {len(images)} images, which {len(classes)} classes do not share evenly, "
            "and no labels.pt is beside it: save labels.pt too, or name the right --dataset"
        )
    else:
        each = len(images) // len(classes)
        values = torch.arange(len(classes)).repeat_interleave(each)
        notes = (f"no labels.pt: classes are by position, {each} images each",)
    return Foreign(images, values, load_number(lr) if lr.exists() else None, notes)


def write_folder(out: Outgoing, folder: Path, *, names: str = BEST, lr: bool = False) -> list[Path]:
    """Write images and labels, and the learning rate if asked for, to files of a pattern."""
    values = {"images": out.images, "labels": out.synset.labels} | ({"lr": out.synset.lr} if lr else {})
    return [save(folder / names.format(name), value) for name, value in values.items()]


def read_pair(path: Path, classes: tuple[str, ...]) -> Foreign:
    """Read one file with a list of images and classes."""
    return Foreign(*_pair(load(path), path))


def write_pair(out: Outgoing, folder: Path) -> list[Path]:
    """Write ``data_best.pt`` (TGDD) and the same as ``data.pt``, the name that IDC's own scripts open."""
    return [save(folder / name, [out.images, out.synset.labels]) for name in ("data_best.pt", "data.pt")]


def read_results(path: Path, classes: tuple[str, ...]) -> Foreign:
    """Read ``res_*.pt``: the last of the runs under ``data``."""
    value = load(path)
    runs = value.get("data") if isinstance(value, dict) else None
    if not isinstance(runs, list | tuple) or not runs:
        raise ValueError(f"{path} holds {describe_value(value)} where a dict with runs under 'data' is expected")
    images, labels = _pair(runs[-1], path)
    note = (f"the last of {len(runs)} runs is read",) if len(runs) > 1 else ()
    return Foreign(images, labels, notes=note)


def write_results(out: Outgoing, folder: Path) -> list[Path]:
    """Write ``res_<method>_<dataset>_ConvNet_<ipc>ipc.pt`` with one run and no accuracies."""
    method = str(out.synset.recipe.get("method", "")).upper()
    method = method if method in ("DC", "DSA", "DM") else "DM"
    name = name_of(f"res_{method}_{_official(out.synset)}_ConvNet_{_ipc(out.synset)}ipc.pt", LONGEST)
    return [save(folder / name, {"data": [[out.images, out.synset.labels]], "accs_all_exps": {}})]


def _pair(value: Any, path: Path) -> tuple[Tensor, Tensor]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{path} holds {describe_value(value)} where a pair of images and labels is expected")
    images, labels = value
    return as_tensor(images, path, "a tensor of images"), as_tensor(labels, path, "a tensor of labels")


def find_bench(path: Path) -> Path | None:
    """Find a folder ``TM/<dataset>/IPC<k>``, from itself or from one above it; refuse several."""
    first = ("images_best.pt", "images_best_0.pt")
    home = home_of(path, *first)
    if home is not None:
        folder = home.resolve()
        return home if IPC.fullmatch(folder.name) and folder.parent.parent.name == "TM" else None
    folders = [folder for folder in sorted(path.glob("TM/*/IPC*")) if home_of(folder, *first)]
    if len(folders) > 1:
        raise ValueError(f"{path} holds several sets, such as {folders[0]} and {folders[1]}: name one folder")
    return folders[0] if folders else None


def read_bench(home: Path, classes: tuple[str, ...]) -> Foreign:
    """Read as `read_folder`; or the parts ``images_best_0.pt`` on, and their labels."""
    if not (home / "images_best_0.pt").is_file():
        return read_folder(home, classes)
    count = len(list(home.glob("images_best_[0-9].pt")))
    images, labels = (
        [load_tensor(home / f"{name}_best_{part}.pt") for part in range(count)] for name in ("images", "labels")
    )
    shapes = {tuple(part.shape[1:]) for part in images}, {tuple(part.shape[1:]) for part in labels}
    if any(len(kinds) > 1 for kinds in shapes):
        raise ValueError(f"{home} holds parts of different shapes: copy images_best_*.pt and labels_best_*.pt again")
    return Foreign(torch.cat(images), torch.cat(labels))


def write_bench(out: Outgoing, folder: Path) -> list[Path]:
    """Write as `write_folder`; 50 images a class of Tiny ImageNet in five parts, as DC-BENCH reads them."""
    if (out.synset.dataset, _ipc(out.synset)) != ("tiny_imagenet", 50):
        return write_folder(out, folder)
    tensors = {"images": out.images, "labels": out.synset.labels}
    return [
        save(folder / f"{name}_best_{index}.pt", part.clone())  # a view would be saved with all of its storage
        for name, tensor in tensors.items()
        for index, part in enumerate(tensor.tensor_split(PARTS))
    ]


def bench_subfolder(synset: SyntheticSet) -> str:
    """Return the folder in which DC-BENCH looks for a set of trajectory matching."""
    name = "tinyimagenet" if synset.dataset == "tiny_imagenet" else _official(synset)
    return f"TM/{name}/IPC{_ipc(synset)}"


def _official(synset: SyntheticSet) -> str:
    return OFFICIAL.get(synset.dataset) or name_of(Path(synset.dataset).name)


def _ipc(synset: SyntheticSet) -> int:
    return max(1, round(synset.ipc))
