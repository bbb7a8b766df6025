"""What is read of a picture is what a viewer shows, in every reader; values, not only that it is read."""

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydd.data import picture
from raydd.data.datasets import Dataset, load_dataset
from raydd.data.picture import Unreadable, decoding, header, quiet
from raydd.interop.pictures import read_pictures

RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)
DEEP = RAMP * 257
COLOURS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(data: bytes, channels: int | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """The pixels (C, H, W), with the channels that the header says, and the notes."""
    with quiet():
        size, grey = header(data)
        with decoding(data, channels or (1 if grey else 3)) as (image, notes):
            pixels = np.array(image)
    assert pixels.shape[1::-1] == size
    return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), notes


def rgb(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(2, 0, 1)


def portable(pixels: np.ndarray) -> bytes:
    return b"P5\n16 16\n65535\n" + pixels.astype(">u2").tobytes()


@pytest.mark.rows(
    "data",
    [
        encoded(Image.fromarray(DEEP)),
        encoded(Image.fromarray(DEEP), "TIFF"),
        encoded(Image.frombytes("I;16B", (16, 16), DEEP.astype(">u2").tobytes()), "TIFF"),
        encoded(Image.fromarray(DEEP[::-1, ::-1].copy()), "TIFF", tiffinfo={262: 0}),  # 0 is white there
        encoded(Image.fromarray(DEEP), "JPEG2000", irreversible=False),
        portable(DEEP),
    ],
    ids=["png", "tiff", "big-endian tiff", "inverted tiff", "jpeg 2000", "pgm"],
)
def test_sixteen_bits_are_scaled_to_eight_and_stay_grey(data: bytes) -> None:
    pixels, notes = read(data)
    assert np.array_equal(pixels, RAMP[None])
    assert notes == ("16 bits a pixel are scaled to 8",)


def test_colours_of_sixteen_bits_are_scaled_too() -> None:
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOURS.astype(np.uint16) * 257)
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    pixels, notes = read(data)
    assert np.array_equal(pixels, rgb(COLOURS))
    assert notes == ("16 bits a pixel are scaled to 8",)


def test_twelve_bits_are_scaled_by_their_own_white() -> None:
    twelve = np.array([[0, 4095], [2048, 16]], np.uint16)
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10])  # two pixels in three bytes
    tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, 6)]
    entries = b"".join(tag.to_bytes(2, "little") + b"\3\0\1\0\0\0" + value.to_bytes(4, "little") for tag, value in tags)
    directory = len(tags).to_bytes(2, "little") + entries + bytes(4)
    data = b"II*\0" + (14).to_bytes(4, "little") + packed + directory
    pixels, _ = read(data)
    assert np.array_equal(pixels[0], np.round(twelve / 4095 * 255).astype(np.uint8))


@pytest.mark.rows("values", [np.ones((8, 8), np.float32), np.ones((8, 8), np.int32)], ids=["float", "int"])
def test_pixels_of_unknown_range_are_refused(values: np.ndarray) -> None:
    data = encoded(Image.fromarray(values), "TIFF")
    with pytest.raises(Unreadable, match=r"pixels of mode [FI], whose range is unknown; save 8 or 16 bits"):
        header(data)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as a camera stores them, which its orientation undoes: written from the EXIF table."""
    undone: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }
    return np.ascontiguousarray(undone[orientation](pixels))


@pytest.mark.rows("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.rows("orientation", range(1, 9))
def test_the_orientation_is_applied_to_pixels_and_size(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(turned(COLOURS[:10], orientation))
    extra = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif.tobytes()}
    data = encoded(stored, kind, **({"lossless": True} if kind == "WEBP" else {}), **extra)
    pixels, notes = read(data)
    assert header(data)[0] == (16, 10)
    assert np.array_equal(pixels, rgb(COLOURS[:10]))
    assert notes == ()


def test_a_damaged_orientation_is_none() -> None:
    data = encoded(Image.fromarray(COLOURS), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    pixels, _ = read(data)
    assert np.array_equal(pixels, rgb(COLOURS))


def layered(alpha: np.ndarray) -> np.ndarray:
    """Colours laid on white by the definition, halves rounded up."""
    share = alpha[..., None].astype(int)
    return ((COLOURS * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)


def test_alpha_is_laid_on_white() -> None:
    alpha = RAMP.astype(np.uint8)
    pixels, notes = read(encoded(Image.fromarray(np.dstack([COLOURS, alpha]))))
    assert np.array_equal(pixels, rgb(layered(alpha)))
    assert notes == ("transparent pixels are laid on white",)
    grey, notes = read(encoded(Image.fromarray(np.dstack([COLOURS[..., 0], alpha]))))
    assert np.array_equal(grey, layered(alpha)[None, ..., 0])
    assert notes == ("transparent pixels are laid on white",)
    opaque, notes = read(encoded(Image.fromarray(np.dstack([COLOURS, np.full_like(alpha, 255)]))))
    assert np.array_equal(opaque, rgb(COLOURS))
    assert notes == ()


def test_colours_that_stand_for_transparency_are_white() -> None:
    pixels, notes = read(encoded(Image.fromarray(COLOURS), transparency=tuple(COLOURS[3, 4].tolist())))
    expected = COLOURS.copy()
    expected[3, 4] = 255
    assert np.array_equal(pixels, rgb(expected))
    assert notes == ("transparent pixels are laid on white",)
    grey, _ = read(encoded(Image.fromarray(RAMP.astype(np.uint8)), transparency=7))
    assert np.array_equal(grey[0], np.where(RAMP == 7, 255, RAMP))
    deep, _ = read(encoded(Image.fromarray(DEEP), transparency=7 * 257))
    assert np.array_equal(deep[0], np.where(RAMP == 7, 255, RAMP))


@pytest.mark.rows("kind", ["PNG", "GIF"])
def test_palettes_are_their_colours(kind: str) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0, 0, 128, 7, 9, 9, 200])
    pixels, _ = read(encoded(image, kind))
    assert pixels.transpose(1, 2, 0).tolist() == [[[255, 0, 0], [0, 128, 7]], [[9, 9, 200], [0, 128, 7]]]
    clear, notes = read(encoded(image, kind, transparency=1))
    assert clear.transpose(1, 2, 0).tolist() == [[[255, 0, 0], [255] * 3], [[9, 9, 200], [255] * 3]]
    assert notes == ("transparent pixels are laid on white",)


def test_partly_transparent_palettes_are_laid_on_white() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([200, 0, 0, 0, 100, 0])
    pixels, _ = read(encoded(image, transparency=bytes([51, 255])))  # 51 is a fifth
    assert pixels.transpose(1, 2, 0).tolist() == [[[244, 204, 204], [0, 100, 0]]]


def test_a_palette_of_greys_is_grey_and_one_bit_is_black_and_white() -> None:
    image = Image.fromarray(RAMP.astype(np.uint8)).convert("P")
    assert np.array_equal(read(encoded(image))[0], RAMP[None])
    bits = RAMP % 3 == 0
    assert np.array_equal(read(encoded(Image.fromarray(bits)))[0], bits[None] * 255)


def test_other_colour_spaces_become_rgb() -> None:
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[..., 0], inks[..., 3] = 255, 51  # cyan, and a fifth of black
    pixels, notes = read(encoded(Image.fromarray(inks, "CMYK"), "TIFF"))
    assert pixels[:, 0, 0].tolist() == [0, 204, 204]
    assert notes == ("CMYK is converted to RGB without its colour profile",)
    lab = np.zeros((8, 8, 3), np.uint8)
    lab[..., 0] = 255
    pixels, _ = read(encoded(Image.fromarray(lab, "LAB"), "TIFF"))
    assert pixels.min() >= 250  # the lightest, without a hue
    luma = np.full((8, 8, 3), 128, np.uint8)
    pixels, _ = read(encoded(Image.fromarray(luma, "YCbCr"), "JPEG", quality=100))
    assert np.array_equal(pixels, np.full((3, 8, 8), 128))


def test_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200, 90)]
    pixels, notes = read(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert np.array_equal(pixels, np.full((1, 8, 8), 10))
    assert notes == ("of several frames the first is read",)


def test_colours_that_are_read_as_grey_are_said() -> None:
    alike = np.repeat(RAMP.astype(np.uint8)[..., None], 3, axis=2)
    assert read(encoded(Image.fromarray(alike)), channels=1)[1] == ()
    assert np.array_equal(read(encoded(Image.fromarray(alike)), channels=1)[0], RAMP[None])
    assert read(encoded(Image.fromarray(COLOURS)), channels=1)[1] == ("colours are read as grey",)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header names a size that its pixels do not have."""
    import struct
    import zlib

    data = bytearray(encoded(Image.fromarray(COLOURS)))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


@pytest.mark.rows("side", [9_000, 12_000, 40_000, 2**31 - 1])
def test_absurd_sizes_are_refused_by_the_header(side: int) -> None:
    with quiet(), pytest.raises(Unreadable, match="more than 64 million pixels"):
        header(bomb(side, side))


@pytest.mark.rows("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_pictures_are_refused(kind: str) -> None:
    data = encoded(Image.fromarray(COLOURS), kind)
    for length in (len(data) // 4, len(data) // 2, len(data) - 20):
        with pytest.raises(Unreadable, match=r"damaged|not a picture"):
            read(data[:length])


def test_a_changed_byte_of_a_png_is_refused() -> None:
    data = bytearray(encoded(Image.fromarray(COLOURS), compress_level=0))
    data[len(data) // 2] ^= 1
    with pytest.raises(Unreadable, match="damaged"):
        read(bytes(data))


@pytest.mark.rows(("data", "reason"), [(b"", "empty"), (b"%!PS-Adobe-3.0 EPSF-3.0", "not a picture")])
def test_what_is_no_picture_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        header(data)


def write_folder(root: Path, draw: Callable[[int], bytes], suffix: str = "png") -> Path:
    for split in ("train", "test"):
        for label in ("a", "b"):
            (root / split / label).mkdir(parents=True)
            for number in range(3):
                (root / split / label / f"{number}.{suffix}").write_bytes(draw(number))
    return root


def write_table(root: Path, draw: Callable[[int], bytes]) -> Path:
    root.mkdir()
    for split in ("train", "test"):
        rows = [{"bytes": draw(number % 3), "path": None} for number in range(6)]
        pq.write_table(pa.table({"image": rows, "label": [0, 0, 0, 1, 1, 1]}), root / f"{split}.parquet")
    return root


def ramp(number: int) -> bytes:
    return encoded(Image.fromarray(np.roll(DEEP, number)))


def faint(number: int) -> bytes:
    return encoded(Image.fromarray(np.dstack([COLOURS, np.full((16, 16), 51 * number, np.uint8)])))


def load(path: Path, **options: object) -> Dataset:
    return load_dataset(path, cache=path.parent / "cache", validation=0, **options)


@pytest.mark.parametrize("write", [write_folder, write_table])
def test_folders_and_parquet_share_the_boundary(write: Callable[..., Path], tmp_path: Path) -> None:
    deep = load(write(tmp_path / "deep", ramp))
    assert np.array_equal(deep.train.images[:3, 0], [np.roll(RAMP, number) for number in range(3)])
    assert deep.note == "16 bits a pixel are scaled to 8 (12 images)"
    clear = load(write(tmp_path / "clear", faint))
    assert np.array_equal(clear.test.images[1], rgb(layered(np.full((16, 16), 51, np.uint8))))
    assert clear.note == "transparent pixels are laid on white (12 images)"


def test_imported_pictures_share_the_boundary(tmp_path: Path) -> None:
    found = read_pictures(write_folder(tmp_path / "set", ramp) / "train", ("a", "b"))
    assert np.array_equal(found.images[:3, 0].numpy(), [np.roll(RAMP, number) for number in range(3)])
    assert found.notes == ("16 bits a pixel are scaled to 8 (6 images)",)


def test_grey_pictures_stored_as_rgb_are_read_as_grey_on_demand(tmp_path: Path) -> None:
    alike = encoded(Image.fromarray(np.repeat(RAMP.astype(np.uint8)[..., None], 3, axis=2)))
    root = write_folder(tmp_path / "set", lambda number: alike)
    assert load(root).channels == 3
    grey = load(root, channels=1)
    assert np.array_equal(grey.train.images[0], RAMP[None])
    assert grey.note == ""
    assert np.array_equal(load(root, channels=3).train.images[0], [RAMP] * 3)
    with pytest.raises(ValueError, match=r"channels = 2: input should be 1 or 3"):
        load(root, channels=2)


def test_named_data_sets_take_channels_too(tmp_path: Path) -> None:
    grey, rgb_ = (load_dataset("digits", cache=tmp_path, channels=channels) for channels in (None, 3))
    assert (rgb_.channels, len(rgb_.mean), len(rgb_.std)) == (3, 3, 3)
    assert np.array_equal(rgb_.train.images, grey.train.images.repeat(3, axis=1))


def test_all_unreadable_images_are_counted_in_one_message(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ramp)
    (root / "train" / "a" / "0.png").write_bytes(b"")
    (root / "train" / "b" / "1.png").write_bytes(b"no picture")
    (root / "train" / "b" / "2.png").write_bytes(bomb(40_000, 40_000))
    (root / "test" / "a" / "2.png").write_bytes(ramp(0)[:-20])
    with pytest.raises(ValueError, match="4 images are not readable") as caught:
        load(root)
    said = str(caught.value)
    assert said.startswith("4 images are not readable, such as ")
    assert f"{root}/train/a/0.png (empty), {root}/train/b/1.png (not a picture of a format that is read)" in said
    assert said.endswith(": repair or remove them")
    assert not (tmp_path / "cache").exists()


def test_a_pipe_among_the_images_does_not_hang(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ramp)
    os.mkfifo(root / "train" / "a" / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe.png is not a readable image \(not a regular file\)"):
        load(root)


def test_system_files_are_passed_over(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ramp)
    before = load(root).fingerprint
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", "THUMBS.DB"):
        (root / "train" / "a" / name).write_bytes(b"no picture")
    for folder in ("train/__MACOSX/a", "train/a/@eaDir"):
        (root / folder).mkdir(parents=True)
        (root / folder / "0.png").write_bytes(b"no picture")
    after = load(root)
    assert (after.fingerprint, after.classes) == (before, ("a", "b"))


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ramp)
    for split in ("train", "test"):
        os.rename(root / split / "b", os.fsencode(root / split) + b"/caf\xe9")
    (root / "train" / "a" / "0.png").rename(root / "train" / "a" / "\x1b[31m\n.png")
    assert load(root).classes == ("a", "caf\\xe9")


def test_long_and_narrow_images_do_not_fill_the_memory(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ramp)
    (root / "train" / "a" / "0.png").write_bytes(encoded(Image.new("L", (1, 60_000))))
    with pytest.raises(ValueError, match="1x60000, too long and narrow for size 64"):
        load(root, size=64)


def test_a_side_has_a_bound(tmp_path: Path) -> None:
    large = encoded(Image.new("L", (2049, 2049)))
    root = write_folder(tmp_path / "set", lambda number: large)
    with pytest.raises(ValueError, match="is 2049x2049, more than 2048 a side: give one size"):
        load(root)
    with pytest.raises(ValueError, match="size = 5000: input should be less than or equal to 2048"):
        load(root, size=5000)
    assert load(root, size=8).size == 8


def test_large_pictures_are_decoded_one_at_a_time() -> None:
    data = encoded(Image.new("L", (2100, 2100)))
    with decoding(data, 1):
        assert picture._ALONE.locked()
    assert not picture._ALONE.locked()
    with decoding(ramp(0), 1):
        assert not picture._ALONE.locked()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(depth: int, colour: int, row: bytes, clear: bytes) -> bytes:
    """A PNG of two pixels, written by hand, with a transparent colour in the file's own depth."""
    head = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    body = (
        chunk(b"IHDR", head) + chunk(b"tRNS", clear) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.rows(
    ("depth", "colour", "row", "clear", "expected"),
    [
        (1, 0, bytes([0b01000000]), b"\0\1", [0, 255]),
        (2, 0, bytes([0b01100000]), b"\0\1", [255, 170]),
        (4, 0, bytes([0x5A]), b"\0\5", [255, 170]),
        (8, 0, bytes([5, 10]), b"\0\5", [255, 10]),
        (16, 0, struct.pack(">HH", 0x1234, 0xABAB), struct.pack(">H", 0x1234), [255, 0xAB]),
        (8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">HHH", 1, 2, 3), [[255, 255, 255], [4, 5, 6]]),
        (
            16,
            2,
            struct.pack(">6H", 0xFFFF, 0, 0x1234, 0x0404, 0x0505, 0x0606),
            struct.pack(">3H", 0xFFFF, 0, 0x1234),
            [[255, 255, 255], [4, 5, 6]],
        ),
    ],
)
def test_a_transparent_colour_counts_in_every_depth(
    depth: int, colour: int, row: bytes, clear: bytes, expected: list[object]
) -> None:
    pixels, _ = read(png_of(depth, colour, row, clear))
    assert np.squeeze(pixels).tolist() == (expected if colour == 0 else np.array(expected).T.tolist())
