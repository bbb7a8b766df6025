"""Data and files of others on the command line: the shared cases and their relatives, each in under ten seconds."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raydd.cli import run
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet

ROOT = Path(__file__).parents[2]
MAKE = ROOT.parent / "shared" / "cases" / "make.py"
SECONDS = 10
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs one command in this process, in less than ten seconds of CPU; the machine may be busy."""

    def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        before = time.process_time()
        code = run([*map(str, words)])
        assert time.process_time() - before < SECONDS
        out, err = capsys.readouterr()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess([*words], code, out, err)

    return call


def described(here: Call, data: Path, *words: str) -> dict[str, Any]:
    done = here("datasets", data, "--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("raydd: ")
    assert all(word in done.stderr for word in words), done.stderr


def pixels(tmp_path: Path, part: str = "train") -> np.ndarray:
    """The stored images of the only data set in the cache."""
    (file,) = (tmp_path / "cache" / "datasets").glob(f"*/{part}_images.npy")
    return np.load(file)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not MAKE.is_file():
        pytest.skip(f"{MAKE} is not there")
    out = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, str(MAKE), str(out)], check=True, capture_output=True, timeout=60)
    return out


def test_deep_png(cases: Path, tmp_path: Path, here: Call) -> None:
    found = described(here, cases / "deep-png")
    assert found["channels"] == 1
    assert "16 bits a pixel are scaled to 8" in found["note"]
    for part in ("train", "test"):
        ramp = np.arange(256).reshape(16, 16)
        assert np.array_equal(pixels(tmp_path, part)[[0, 4], 0], [ramp, ramp[::-1]])


def test_turned_jpeg(cases: Path, tmp_path: Path, here: Call) -> None:
    assert described(here, cases / "turned-jpeg")["size"] == 16
    images = pixels(tmp_path)
    assert images[:, :, :, 9:].min() >= 250  # white above, turned by 90 degrees to the right
    assert images[:, :, :, :7].max() <= 5


def test_transparent_png(cases: Path, tmp_path: Path, here: Call) -> None:
    assert "transparent pixels are laid on white (16 images)" in described(here, cases / "transparent-png")["note"]
    images = pixels(tmp_path)
    assert images[0, :, 8, 8].tolist() == [200, 30, 30]
    assert images[4, :, 8, 8].tolist() == [30, 30, 200]
    assert (images[:, :, :4] == 255).all()


def test_string_labels(cases: Path, tmp_path: Path, here: Call) -> None:
    assert described(here, cases / "string-labels")["classes"] == ["cat", "dog", "owl"]
    (file,) = (tmp_path / "cache" / "datasets").glob("*/train_labels.npy")
    assert np.load(file).tolist() == [0, 1, 2] * 4


def test_huge_label(cases: Path, here: Call) -> None:
    refused(here("datasets", cases / "huge-label" / "set.npz"), "set.npz", "100000000", "4 images")


def test_aliases(cases: Path, tmp_path: Path, here: Call) -> None:
    file = cases / "aliases" / "preset.yaml"
    out = ("--out", tmp_path / "out")
    refused(here("distill", "--preset", file, *out), "preset.yaml", "aliases repeat")
    refused(here("tune", "--space", file, *out), "preset.yaml", "aliases repeat")
    assert not (tmp_path / "out").exists()


def test_every_shared_case_has_a_test(cases: Path) -> None:
    tested = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    assert {folder.name for folder in cases.iterdir()} <= tested


def write_folder(root: Path, draw: Callable[[int], bytes]) -> Path:
    for split in ("train", "test"):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for number in range(4):
                (root / split / label / f"{number}.img").write_bytes(draw(number))
    return root


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def write_table(root: Path, draw: Callable[[int], bytes]) -> Path:
    root.mkdir()
    for split in ("train", "test"):
        rows = [{"bytes": draw(number), "path": None} for number in range(8)]
        pq.write_table(
            pa.table({"image": rows, "label": [number % 2 for number in range(8)]}), root / f"{split}.parquet"
        )
    return root


UNKNOWN = {
    "float": lambda number: encoded(Image.fromarray(np.full((8, 8), number, np.float32)), "TIFF"),
    "32 bits": lambda number: encoded(Image.fromarray(np.full((8, 8), number, np.int32)), "TIFF"),
}


@pytest.mark.parametrize("draw", UNKNOWN.values(), ids=UNKNOWN)
@pytest.mark.parametrize("write", [write_folder, write_table])
def test_pixels_of_unknown_range_are_refused(
    write: Callable[..., Path], draw: Callable[[int], bytes], tmp_path: Path, here: Call
) -> None:
    root = write(tmp_path / "set", draw)
    refused(here("datasets", root), "images are not readable", f"{root}/t", "whose range is unknown")


def test_grey_stored_as_rgb(tmp_path: Path, here: Call) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    root = write_folder(tmp_path / "set", lambda number: encoded(Image.fromarray(grey).convert("RGB")))
    found = here("datasets", root, "--json", "--set", "data.channels=1")
    assert (found.returncode, json.loads(found.stdout)["channels"]) == (0, 1)
    assert np.array_equal(pixels(tmp_path)[0, 0], grey)
    refused(here("datasets", root, "--set", "data.channels=2"), "data.channels = 2")


def test_a_broken_folder_is_one_message(tmp_path: Path, here: Call) -> None:
    root = write_folder(tmp_path / "set", lambda number: encoded(Image.new("RGB", (8, 8))))
    for number, data in enumerate((b"", b"no picture", encoded(Image.new("RGB", (64, 64)))[:60])):
        (root / "train" / "a" / f"{number}.img").write_bytes(data)
    (root / "train" / "a" / "Thumbs.db").write_bytes(b"no picture")
    refused(here("datasets", root), "3 images are not readable", "0.img (empty)", "2.img (damaged")


SPACES = {
    "words": ("constraints: [\"'x' * 3000000000 == 'y'\"]", "cannot be computed"),
    "power": ('constraints: ["9**9**9 > 1"]', "is not allowed"),
    "listing": ('constraints: ["[1] * 3000000000 == 1"]', "cannot be computed"),
    "long": (f'constraints: ["{"(" * 3000}1{")" * 3000}"]', "more than 1000 characters"),
    "deep": ("set: " + "[" * 3000 + "]" * 3000, "nested more than 32 deep"),
    "wide": ("search: {algorithm: grid}", "the grid has more than 100000 points"),
}


@pytest.mark.parametrize(("line", "said"), SPACES.values(), ids=SPACES)
def test_spaces_without_a_bound_are_refused(line: str, said: str, tmp_path: Path, here: Call) -> None:
    domains = "{steps: {integer: [1, 1000000]}, span: {integer: [1, 2]}}"
    (tmp_path / "own.yaml").write_text(f"method: mtt\nbudget: {{samples: 2}}\ndomains: {domains}\n{line}\n")
    refused(here("tune", "--space", "own.yaml", "--out", "out"), "own.yaml", said)


def test_a_protocol_and_rows_without_a_bound_are_refused(tmp_path: Path, here: Call) -> None:
    given = torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), torch.tensor(0.01), Transform("raw01"), "digits"
    SyntheticSet(*given, ("0", "1")).save(tmp_path / "some.arrow")
    (tmp_path / "own.yaml").write_text("a: &a [*a]\n")
    refused(here("evaluate", "some.arrow", "--protocol", "own.yaml"), "own.yaml", "an alias stands inside")
    (tmp_path / "rows.yaml").write_text("- {width: 1000000000}\n")
    refused(here("nas", "some.arrow", "--space", "rows.yaml", "--out", "out"), "rows.yaml", "at most 4096")
