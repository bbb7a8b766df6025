"""Sets as folders of pictures, one folder a class."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raydd.data.decode import Blob, decoder
from raydd.data.folder_reader import blobs, labelled_files, subfolders
from raydd.data.image_source import Form
from raydd.interop.foreign import Foreign, Outgoing, name_of
from raydd.io.files import write_atomic

_NUMBERED = re.compile(r"\d+_(.*)")


def read_pictures(root: Path, classes: tuple[str, ...]) -> Foreign:
    """Read ``root/<class>/*``, in the order of classes and names; a folder has its class's name, or ``003_<class>``.

    If all folders are numbers, and no class has such a name, the numbers are the labels.
    """
    folders = [folder.name for folder in subfolders(root)]
    labels = {name: _label(name, classes) for name in folders}
    notes: tuple[str, ...] = ()
    if folders and all(name.isdecimal() and label is None for name, label in labels.items()):
        labels = {name: int(name) if int(name) < len(classes) else None for name in folders}
        notes = ("folders are called by numbers, taken for labels",)
    strange = [name for name, label in labels.items() if label is None]
    if strange:
        raise ValueError(
            f"{root / strange[0]} is a class that the data set does not have (it has {', '.join(classes[:10])}"
            f"{', ...' if len(classes) > 10 else ''}): name the right --dataset, or rename the folder"
        )
    pairs = labelled_files(root, sorted(folders, key=lambda name: labels[name] or 0))
    order = [labels[path.relative_to(root).parts[0]] for path, _ in pairs]
    images, decoder_notes = decode_pictures(blobs(pairs))
    return Foreign(images, torch.tensor(order), notes=notes + decoder_notes)


def _label(folder: str, classes: Sequence[str]) -> int | None:
    """Return the class of a folder's name, plain or numbered as `write_pictures` does."""
    safe = [name.replace("/", "_").replace("\0", "_") for name in classes]
    if folder in safe:
        return safe.index(folder)
    if (match := _NUMBERED.fullmatch(folder)) and (number := int(folder.split("_")[0])) < len(safe):
        return number if safe[number] == match[1] else None
    return None


def decode_pictures(pictures: Sequence[Blob]) -> tuple[Tensor, tuple[str, ...]]:
    """Decode pictures to uint8 (N, C, H, W), and return notes; C is 1 if all are grey."""
    plan = decoder(pictures, Form())
    images = torch.from_numpy(np.concatenate(list(plan.chunks(pictures))))
    note = plan.findings.finish()
    return images, (note,) if note else ()


def write_pictures(out: Outgoing, folder: Path) -> list[Path]:
    """Write ``folder/<number>_<class>/<index>.png``; refuse a class whose name is too long for a folder."""
    labels, classes = out.synset.labels.tolist(), out.synset.classes
    folders = [name_of(f"{label:03d}_{name}") for label, name in enumerate(classes)]
    encoded = [encode(image) for image in out.images]
    counts = [0] * len(classes)
    digits = max(4, len(str(len(labels))))
    paths = []
    for data, label in zip(encoded, labels, strict=True):
        paths.append(write_atomic(folder / folders[label] / f"{counts[label]:0{digits}d}.png", data))
        counts[label] += 1
    return paths


def encode(pixels: Tensor) -> bytes:
    """Return a PNG of uint8 pixels (C, H, W); refuse other channels than 1 or 3."""
    array = pixels.permute(1, 2, 0).numpy()
    if array.shape[2] not in (1, 3):
        raise ValueError(f"an image has {array.shape[2]} channels, a PNG holds 1 or 3: use --format mtt or datm")
    data = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(data, format="PNG")
    return data.getvalue()
