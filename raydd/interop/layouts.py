"""The layouts by name, and their detection."""

from functools import partial
from pathlib import Path

from raydd.config.names import check_name
from raydd.data.parquet_reader import parquet_files
from raydd.data.run_progress import progress_of
from raydd.interop import parquet, pictures, tensors
from raydd.interop.foreign import Layout

OURS = "raydd"
_BOTH = ("normalise", "zca")
_DATM = ("images_best.pt", "labels_best.pt", "lr_best.pt")

LAYOUTS: dict[str, Layout] = {
    "dcbench": Layout(
        files="TM/<dataset>/IPC<k>/images_best.pt, labels_best.pt",
        find=tensors.find_bench,
        read=tensors.read_bench,
        write=tensors.write_bench,
        subfolder=tensors.bench_subfolder,
        scored=("normalise",),
    ),
    "datm": Layout(
        files=", ".join(_DATM),
        labels=("logits",),
        find=lambda path: tensors.home_of(path, *_DATM, needed="lr_best.pt"),
        read=tensors.read_folder,
        write=partial(tensors.write_folder, lr=True),
        scored=_BOTH,
    ),
    "mtt": Layout(
        files="images_best.pt, labels_best.pt",
        find=lambda path: tensors.home_of(path, "images_best.pt", "labels_best.pt"),
        read=tensors.read_folder,
        write=tensors.write_folder,
        scored=_BOTH,
    ),
    "ddranking": Layout(
        files="images.pt, labels.pt, lr.pt",
        labels=("hard", "logits"),
        find=lambda path: tensors.home_of(path, "images.pt"),
        read=partial(tensors.read_folder, names="{}.pt"),
        write=partial(tensors.write_folder, names="{}.pt", lr=True),
        together=True,
        scored=_BOTH,
    ),
    "tgdd": Layout(
        files="data_best.pt or data.pt",
        space="pixels",
        find=lambda path: tensors.file_of(path, "data_best.pt", "data.pt"),
        read=tensors.read_pair,
        write=tensors.write_pair,
        together=True,
        mosaics=True,
    ),
    "dc": Layout(
        files="res_*.pt",
        find=lambda path: tensors.file_of(path, "res_*.pt"),
        read=tensors.read_results,
        write=tensors.write_results,
        scored=("normalise",),
    ),
    "hf": Layout(
        files="*.parquet or data/*.parquet",
        labels=("hard", "logits"),
        find=lambda path: path if parquet_files(path) else None,
        read=parquet.read_parquet,
        write=parquet.write_parquet,
    ),
    "png": Layout(
        files="<class>/*.png",
        space="bytes",
        find=lambda path: path if path.is_dir() and any(path.glob("[!.]*/*.png")) else None,
        read=pictures.read_pictures,
        write=pictures.write_pictures,
        together=True,
    ),
}
"""By name; a path has the first layout that finds its files there."""


def layout_row(name: str) -> Layout:
    """Return the layout of a name; refuse an unknown one."""
    check_name("layout", name)
    return LAYOUTS[name]


def detect(path: Path, layout: str | None = None) -> tuple[str, Path]:
    """Return the layout of a path, and the file or folder to read: `OURS` for a synthetic set of raydd."""
    if layout is not None and layout != OURS:
        row = layout_row(layout)
        _exists(path)
        return layout, row.find(path) or path
    own = path / "synset.arrow" if path.is_dir() else path
    if own.suffix == ".arrow" and (own.is_file() or layout == OURS):
        return OURS, own
    if own.name == "synset.arrow" and (step := progress_of(own.parent)):
        raise ValueError(
            f"{own.parent} is unfinished, at {step}: continue it by its command and --resume, or make a set of its "
            f"present state: raydd finish {own.parent}"
        )
    _exists(path)
    for name, row in LAYOUTS.items():
        if home := row.find(path):
            return name, home
    files = "; ".join(f"{name}: {row.files}" for name, row in LAYOUTS.items())
    raise ValueError(f"{path} holds no synset.arrow and no files of a known layout ({files}): name one with --format")


def _exists(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{path} does not exist: name a synset.arrow, a run folder, or another project's files")
