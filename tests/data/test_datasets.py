import gzip
import os
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from raydd.data import named_sets as loaders
from raydd.data.datasets import DATASETS, Dataset, Split, load_dataset
from raydd.data.named_sets import SUBSETS
from raydd.data.preprocessing import Transform
from raydd.data.workspace import Feed
from raydd.numerics.rng import generator

REAL = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg"
RNG = np.random.default_rng(0)


def pictures(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write_idx(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIII", 0x803, *images.shape)
    (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + labels.tobytes())


def write_mnist(root: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = pictures(40, 28, 28), (np.arange(40) % 10).astype(np.uint8)
    write_idx(root, "train", images, labels)
    write_idx(root, "t10k", images[:10], labels[:10])
    return images, labels


def write_jpegs(folder: Path, count: int, side: tuple[int, int] = (20, 30)) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(pictures(*side, 3)).save(folder / f"{i}.JPEG")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def whole(dataset: Dataset) -> np.ndarray:
    return np.asarray(dataset.train.images)


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_dataset("digits", cache=tmp_path)
    assert (digits.channels, digits.size, len(digits.classes)) == (1, 8, 10)
    assert len(digits.train) + len(digits.validation) + len(digits.test) == 1797
    assert not digits.flip
    bunch = load_digits()
    known = {
        (bytes(np.round(image * 255 / 16).astype(np.uint8)), int(label))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    for split in (digits.train, digits.validation, digits.test):
        for image, label in zip(split.take(torch.arange(len(split))).numpy(), split.targets.tolist(), strict=True):
            assert (bytes(image), label) in known


def test_digits_statistics_are_those_of_its_images(tmp_path: Path) -> None:
    digits = load_dataset("digits", cache=tmp_path)
    pixels = whole(digits) / 255
    assert digits.mean[0] == pytest.approx(pixels.mean(), abs=1e-3)
    assert digits.std[0] == pytest.approx(pixels.std(), abs=1e-3)


@pytest.mark.parametrize("fraction", [0.1, 0.25])
def test_validation_is_stratified_disjoint_and_fixed(tmp_path: Path, fraction: float) -> None:
    first = load_dataset("digits", cache=tmp_path / "a", validation=fraction)
    torch.manual_seed(99)
    second = load_dataset("digits", cache=tmp_path / "b", validation=fraction)
    assert np.array_equal(first.validation.index, second.validation.index)
    assert not set(first.train.index) & set(first.validation.index)
    assert len(first.train) + len(first.validation) == len(first.train.images)
    held = torch.bincount(first.validation.targets)
    total = torch.bincount(torch.from_numpy(first.train.labels))
    assert bool(((held - fraction * total).abs() <= 0.5).all())


def test_no_validation_is_an_empty_split(tmp_path: Path) -> None:
    digits = load_dataset("digits", cache=tmp_path, validation=0)
    assert len(digits.validation) == 0
    assert digits.validation.targets.dtype == torch.int64
    assert digits.validation.take(torch.arange(0)).shape == (0, 1, 8, 8)
    assert len(digits.train) == len(digits.train.images)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_wrong_validation_fraction_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match=r"^validation = "):
        load_dataset("digits", cache=tmp_path, validation=fraction)


def test_take_copies_rows_of_the_split(tmp_path: Path) -> None:
    split = load_dataset("digits", cache=tmp_path).validation
    rows = torch.tensor([3, 0, 3])
    taken = split.take(rows)
    assert taken.dtype == torch.uint8
    for image, row in zip(taken, rows, strict=True):
        assert np.array_equal(image.numpy(), split.images[split.index[row]])
        assert split.targets[row] == split.labels[split.index[row]]
    taken.zero_()
    assert split.take(rows.numpy()).any()
    with pytest.raises(IndexError):
        split.take(torch.tensor([len(split)]))


def test_images_are_a_read_only_memory_map(tmp_path: Path) -> None:
    images = load_dataset("digits", cache=tmp_path).train.images
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable


def test_a_size_resizes(tmp_path: Path) -> None:
    digits = load_dataset("digits", cache=tmp_path, size=12)
    assert digits.size == 12
    assert digits.fingerprint != load_dataset("digits", cache=tmp_path).fingerprint
    assert len(list((tmp_path / "datasets").iterdir())) == 2


def test_mnist_from_files_on_disk(tmp_path: Path) -> None:
    images, labels = write_mnist(tmp_path / "raw")
    mnist = load_dataset("mnist", root=tmp_path / "raw", cache=tmp_path / "cache", validation=0.25)
    assert np.array_equal(whole(mnist)[:, 0], images)
    assert np.array_equal(mnist.train.labels, labels)
    assert np.array_equal(np.asarray(mnist.test.images)[:, 0], images[:10])
    assert mnist.classes == tuple("0123456789")
    assert (mnist.mean, mnist.std, mnist.flip) == ((0.1307,), (0.3081,), False)
    assert (len(mnist.train), len(mnist.validation), len(mnist.test)) == (30, 10, 10)


def test_the_environment_names_both_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "raw")
    monkeypatch.setenv("RAYDD_DATA", str(tmp_path / "raw"))
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    assert load_dataset("mnist").channels == 1
    assert len(list((tmp_path / "cache" / "datasets").glob("mnist-*"))) == 1


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    before = load_dataset("mnist", root=tmp_path, cache=tmp_path / "cache")
    images, _ = write_mnist(tmp_path)
    os.utime(tmp_path / "MNIST/raw/train-images-idx3-ubyte", ns=(1, 1))
    after = load_dataset("mnist", root=tmp_path, cache=tmp_path / "cache")
    assert after.fingerprint != before.fingerprint
    assert np.array_equal(whole(after)[:, 0], images)


def test_a_download_lands_whole_in_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    source = tmp_path / "mirror"
    images, _ = write_mnist(source)
    resources = []
    for name, _ in torchvision.datasets.MNIST.resources:
        packed = gzip.compress((source / "MNIST/raw" / name.removesuffix(".gz")).read_bytes())
        (source / name).write_bytes(packed)
        resources.append((name, None))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(source))) as server:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        mnist = load_dataset("mnist", root=tmp_path / "raw", cache=tmp_path / "cache")
        server.shutdown()
        thread.join()
    assert np.array_equal(whole(mnist)[:, 0], images)
    found = sorted(path.name for path in (tmp_path / "raw").rglob("*") if path.is_file())
    assert found == sorted(name.removesuffix(".gz") for name, _ in resources)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "svhn", "cifar10", "cifar100"])
def test_no_network_gives_the_way_to_get_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*args: object, **options: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("urllib.request.urlopen", closed)
    with pytest.raises(ValueError, match=f"{name} is missing and could not be downloaded") as caught:
        load_dataset(name, root=tmp_path / "raw", cache=tmp_path / "cache")
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "raw" / loaders.TORCHVISION[name].files[0]) in message
    assert "or give a path" in message
    assert not list(tmp_path.iterdir())


def test_a_damaged_mnist_is_one_line(tmp_path: Path) -> None:
    write_mnist(tmp_path / "raw")
    broken = tmp_path / "raw/MNIST/raw/train-images-idx3-ubyte"
    broken.write_bytes(broken.read_bytes()[:1000])
    with pytest.raises(ValueError, match="mnist is damaged") as caught:
        load_dataset("mnist", root=tmp_path / "raw", cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_tiny_imagenet_as_its_archive_unpacks(tmp_path: Path) -> None:
    home = tmp_path / "tiny-imagenet-200"
    for wnid in ("n02", "n01"):
        write_jpegs(home / "train" / wnid / "images", 3, (64, 64))
        (home / "train" / wnid / f"{wnid}_boxes.txt").write_text("x\t0\t0\t1\t1\n")
    write_jpegs(home / "val" / "images", 2, (64, 64))
    (home / "val" / "val_annotations.txt").write_text("1.JPEG\tn01\t0\t0\t9\t9\n0.JPEG\tn02\t0\t0\t9\t9\n")
    (home / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\tother\n")
    tiny = load_dataset("tiny_imagenet", root=tmp_path, cache=tmp_path / "cache")
    assert tiny.classes == ("goldfish", "bullfrog")
    assert whole(tiny).shape == (6, 3, 64, 64)
    assert tiny.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert tiny.test.labels.tolist() == [0, 1]


def test_an_imagenet_subset_is_resized_and_cropped_in_the_papers_order(tmp_path: Path) -> None:
    for part, count in (("train", 2), ("val", 1)):
        for wnid, _ in SUBSETS["imagenet_squawk"]:
            write_jpegs(tmp_path / "imagenet" / part / wnid, count)
    birds = load_dataset("imagenet_squawk", root=tmp_path, cache=tmp_path / "cache", validation=0.5)
    assert (birds.channels, birds.size) == (3, 128)
    assert birds.classes[0] == "peacock"
    assert birds.train.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert (len(birds.train), len(birds.validation), len(birds.test)) == (10, 10, 10)


def test_subsets_have_ten_classes_of_their_own() -> None:
    assert len(SUBSETS) == 6
    for rows in SUBSETS.values():
        assert len({wnid for wnid, _ in rows}) == len({name for _, name in rows}) == 10
        assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid, _ in rows)
    names = {}
    for wnid, name in (pair for rows in SUBSETS.values() for pair in rows):
        assert names.setdefault(wnid, name) == name  # one name a synset, in all subsets


@pytest.mark.parametrize("name", ["tiny_imagenet", "imagenet_nette"])
def test_data_to_place_by_hand_says_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} .*RAYDD_DATA.*give a path") as caught:
        load_dataset(name, root=tmp_path / "raw", cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "raw") in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_rows_are_consistent() -> None:
    for name, row in DATASETS.items():
        assert len(row.mean) == len(row.std) == row.channels, name
        assert min(row.std) > 0
    assert {name for name, row in DATASETS.items() if not row.flip} == {"digits", "mnist", "svhn"}
    assert DATASETS["cifar100"].mean == DATASETS["cifar10"].mean == (0.4914, 0.4822, 0.4465)


@pytest.mark.integration
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real images beside the repository")
@pytest.mark.slow
def test_the_real_images_load(tmp_path: Path) -> None:
    cifar = load_dataset(REAL, cache=tmp_path)
    assert cifar.name == "cifar10-jpeg"
    assert cifar.train.images.shape == (50000, 3, 32, 32)
    assert (len(cifar.train), len(cifar.validation), len(cifar.test)) == (45000, 5000, 10000)
    assert torch.bincount(cifar.validation.targets).tolist() == [500] * 10
    assert cifar.classes[0] == "airplane"
    assert cifar.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=2e-3)


def anonymous_memory() -> int:
    """The bytes of this process that are of no file."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


def test_images_that_do_not_fit_in_memory_are_read_a_batch_at_a_time(tmp_path: Path) -> None:
    """300 MB in a mapped file; an epoch in random order takes a few batches of memory."""
    shape = (25_000, 3, 64, 64)
    np.lib.format.open_memmap(tmp_path / "images.npy", mode="w+", dtype=np.uint8, shape=shape).flush()
    images = np.lib.format.open_memmap(tmp_path / "images.npy", mode="r")
    split = Split(images, np.zeros(len(images), np.int64), np.arange(len(images)))
    feed, before, most = Feed(split, Transform("raw01"), torch.device("cpu")), anonymous_memory(), 0
    for number, (x, _) in enumerate(feed.shuffled(256, generator(0))):
        assert x.shape[1:] == shape[1:]
        if number % 20 == 0:
            most = max(most, anonymous_memory() - before)
    assert most < 120e6
