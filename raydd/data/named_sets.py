"""Finders of the named data sets: bundled, through torchvision, or placed by hand."""

import contextlib
import shutil
import socket
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from raydd.data.folder_reader import Labelled, labelled_files, source_of, subfolders
from raydd.data.image_source import Content, Form, Part, Source, from_array, holdout
from raydd.data.labels import check_labels, column

TIMEOUT_SECONDS = 20.0
ELSEWHERE = (
    "or set RAYDD_DATA to the folder that holds it, or give a path to a folder of Parquet, an ImageFolder or an .npz"
)


def find_digits(root: Path) -> Source:
    """Find scikit-learn's 8x8 digits; a fixed stratified 20 % is the test split."""

    def read(form: Form) -> Content:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
        labels = bunch.target.astype(np.int64)
        parts = [from_array(images[rows], labels[rows], form) for rows in holdout(labels, 0.2, "test", "digits")]
        return Content(tuple("0123456789"), parts[0], parts[1], "a fixed stratified 20 % is the test split")

    return Source("digits", (), read)


@dataclass(frozen=True)
class Torchvision:
    """A data set of torchvision: its class, and how that is called and read."""

    kind: str
    files: tuple[str, ...]  # what it reads, relative to the folder of raw data
    labels: str = "targets"  # the attribute with the labels
    chooser: tuple[str, object, object] = ("train", True, False)  # argument, and its values for train and test
    digits: bool = False  # whether the classes are the ten digits, and not those the data set names

    def open(self, root: Path, test: bool, *, download: bool = False) -> Any:
        """Return the data set as torchvision gives it; raise whatever its parts raise."""
        import torchvision.datasets

        argument, *values = self.chooser
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")  # torchvision's readers warn about numpy's deprecations
            return getattr(torchvision.datasets, self.kind)(str(root), download=download, **{argument: values[test]})


def idx(kind: str) -> tuple[str, ...]:
    """Return the four files of MNIST and its relatives."""
    return tuple(
        f"{kind}/raw/{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")
    )


TORCHVISION = {
    "mnist": Torchvision("MNIST", idx("MNIST"), digits=True),
    "fashion_mnist": Torchvision("FashionMNIST", idx("FashionMNIST")),
    "svhn": Torchvision(
        "SVHN", ("train_32x32.mat", "test_32x32.mat"), labels="labels", chooser=("split", "train", "test"), digits=True
    ),
    "cifar10": Torchvision(
        "CIFAR10",
        tuple(
            f"cifar-10-batches-py/{part}"
            for part in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
        ),
    ),
    "cifar100": Torchvision("CIFAR100", tuple(f"cifar-100-python/{part}" for part in ("train", "test", "meta"))),
}


def find_torchvision(root: Path, *, name: str) -> Source:
    """Find a data set that torchvision reads; it is downloaded into ``root`` if it is missing.

    A ValueError says how to get the data if they are neither on disk nor downloadable.
    """
    files = tuple(root / file for file in TORCHVISION[name].files)
    if not all(file.is_file() for file in files):
        _download(root, name)
    return Source(name, files, partial(_read_torchvision, root, name))


def _read_torchvision(root: Path, name: str, form: Form) -> Content:
    row, parts = TORCHVISION[name], list[Part]()
    try:
        train, test = (row.open(root, part) for part in (False, True))
    except Exception as error:  # torchvision raises whatever its parts raise
        raise ValueError(_how_to_get(name, root, "is damaged", error)) from error
    classes = tuple("0123456789") if row.digits else tuple(train.classes)
    for data, origin in ((train, f"{name} train"), (test, f"{name} test")):
        labels = column(np.asarray(getattr(data, row.labels)), origin).values
        check_labels(labels, len(classes), origin, every=data is train)
        images = _channels_last(data)
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(labels):
            wrong = ValueError(f"{images.dtype} images {images.shape} for {len(labels)} labels")
            raise ValueError(_how_to_get(name, root, "is damaged", wrong))
        parts.append(from_array(images, labels, form))
    return Content(classes, parts[0], parts[1])


def _channels_last(data: Any) -> Any:
    """Return images (n, H, W, C) uint8 of a torchvision data set, which holds NHW, NHWC or NCHW."""
    images = np.asarray(data.data)
    if images.ndim == 3:
        return images[..., None]
    return images if images.shape[-1] == 3 else images.transpose(0, 2, 3, 1)


def _download(root: Path, name: str) -> None:
    """Download elsewhere and move file by file, so that ``root`` never holds a half-written file."""
    row = TORCHVISION[name]
    before = socket.getdefaulttimeout()
    with tempfile.TemporaryDirectory(prefix="raydd-") as trial:
        socket.setdefaulttimeout(TIMEOUT_SECONDS)  # a closed network fails in seconds
        try:
            for test in (False, True):
                row.open(Path(trial), test, download=True)
        except Exception as error:
            raise ValueError(_how_to_get(name, root, "is missing and could not be downloaded", error)) from error
        finally:
            socket.setdefaulttimeout(before)
        for file in row.files:
            target = root / file
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(f"{target.name}.{Path(trial).name}.tmp")
            shutil.copyfile(Path(trial) / file, unfinished)
            unfinished.replace(target)


def _how_to_get(name: str, root: Path, trouble: str, error: Exception) -> str:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
    return (
        f"{name} {trouble} ({reason}): place torchvision's "
        f"{root / TORCHVISION[name].files[0]} and its other files there, {ELSEWHERE}"
    )


def find_tiny_imagenet(root: Path) -> Source:
    """Find Tiny ImageNet as its archive unpacks: ``tiny-imagenet-200/`` with wnids.txt, train and val.

    The 10,000 validation images are the test split, as in the papers; classes are in the order of their synset ids.
    """
    home = root / "tiny-imagenet-200"
    listing = home / "val" / "val_annotations.txt"
    wnids = [folder.name for folder in subfolders(home / "train")]
    if not wnids or not listing.is_file():
        raise ValueError(
            f"tiny_imagenet is not in {home}: unpack tiny-imagenet-200.zip (Stanford CS231n) into {root}, {ELSEWHERE}"
        )
    order = {wnid: label for label, wnid in enumerate(wnids)}
    test: Labelled = []
    for line in _lines(listing):
        image, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if "/" in image:
            raise ValueError(f"{listing} names the image {image!r}, which is outside: unpack the archive again")
        if wnid not in order:
            raise ValueError(
                f"{listing} names the class {wnid!r}, which {home / 'train'} lacks: unpack the archive again"
            )
        test.append((home / "val" / "images" / image, order[wnid]))
    train = [pair for pair in labelled_files(home / "train", wnids) if pair[0].suffix != ".txt"]
    return source_of("tiny_imagenet", _words(home, wnids), train, test)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="backslashreplace").splitlines()


def _words(home: Path, wnids: list[str]) -> list[str]:
    path = home / "words.txt"
    lines = _lines(path) if path.is_file() else []
    words = {wnid: text for wnid, _, text in (line.partition("\t") for line in lines)}
    return [words.get(wnid, wnid).partition(",")[0] for wnid in wnids]


_SUBSETS = {
    "imagenet_nette": """
        n01440764 tench; n02102040 English springer; n02979186 cassette player; n03000684 chain saw; n03028079 church;
        n03394916 French horn; n03417042 garbage truck; n03425413 gas pump; n03445777 golf ball; n03888257 parachute
    """,
    "imagenet_woof": """
        n02096294 Australian terrier; n02093754 Border terrier; n02111889 Samoyed; n02088364 beagle;
        n02086240 Shih-Tzu; n02089973 English foxhound; n02087394 Rhodesian ridgeback; n02115641 dingo;
        n02099601 golden retriever; n02105641 Old English sheepdog
    """,
    "imagenet_fruit": """
        n07753275 pineapple; n07753592 banana; n07745940 strawberry; n07747607 orange; n07749582 lemon;
        n07768694 pomegranate; n07753113 fig; n07720875 bell pepper; n07718472 cucumber; n07742313 Granny Smith
    """,
    "imagenet_meow": """
        n02123045 tabby; n02123159 tiger cat; n02123394 Persian cat; n02123597 Siamese cat; n02124075 Egyptian cat;
        n02129165 lion; n02129604 tiger; n02128925 jaguar; n02128757 snow leopard; n02127052 lynx
    """,
    "imagenet_squawk": """
        n01806143 peacock; n02007558 flamingo; n01818515 macaw; n02051845 pelican; n02056570 king penguin;
        n01614925 bald eagle; n01843383 toucan; n01518878 ostrich; n01860187 black swan;
        n01819313 sulphur-crested cockatoo
    """,
    "imagenet_yellow": """
        n02206856 bee; n12057211 yellow lady's slipper; n07753592 banana; n07749582 lemon; n12144580 corn;
        n04146614 school bus; n03530642 honeycomb; n02129165 lion; n01773157 black and gold garden spider;
        n01531178 goldfinch
    """,
}  # "tiger cat" is called Bengal cat in the paper

SUBSETS: dict[str, tuple[tuple[str, str], ...]] = {
    name: tuple((wnid, words) for wnid, _, words in (row.strip().partition(" ") for row in rows.split(";")))
    for name, rows in _SUBSETS.items()
}
"""The six ten-class ImageNet subsets of the trajectory-matching papers: synset ids and names, in the papers' order.

Reference: arXiv 2203.11932 (MTT), section 4.3; the class indices are those of its published code.
"""


def find_imagenet(root: Path, *, name: str) -> Source:
    """Find ten classes of ImageNet: ``imagenet/train/<wnid>/`` and ``imagenet/val/<wnid>/``.

    Differs: images keep their aspect (shorter side to 128, centre crop); the official code squashes them to 128 x 128.
    """
    home = root / "imagenet"
    wnids, words = zip(*SUBSETS[name], strict=True)
    for part in ("train", "val"):
        missing = [wnid for wnid in wnids if not (home / part / wnid).is_dir()]
        if missing:
            raise ValueError(
                f"{name} needs {home / part / missing[0]}: place ImageNet (ILSVRC 2012) as "
                f"{home}/train/<wnid>/ and {home}/val/<wnid>/, {ELSEWHERE}"
            )
    return source_of(name, words, labelled_files(home / "train", wnids), labelled_files(home / "val", wnids))
