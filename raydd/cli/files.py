"""The commands that read data sets and convert synthetic sets: datasets, export, import."""

from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import SET, Flags, Output, command, named
from raydd.cli.output import show
from raydd.cli.paths import existing_buffer, existing_set, local_paths, out_location
from raydd.config.fields import configure
from raydd.config.names import TABLES, absolute_dataset, check_name
from raydd.config.parsing import Tree, parse_settings
from raydd.config.schema import EvaluateConfig, ExpertsConfig
from raydd.io.paths import check_local

app = typer.Typer()
_EXPERTS = "Buffer of experts, a folder or a URI, trained on the same data set with the same preprocessing."
_EPOCH = "Use the expert's weights after this epoch; by default after the last."
_LAYOUTS = f"Layout of the files: one of {', '.join(TABLES['layout'].names)}."
_FORMAT = typer.Option(help=_LAYOUTS, autocompletion=named("layout"))
_NAME = typer.Argument(help="Name or path to load and describe.", autocompletion=named("dataset"))
_SYNSET = typer.Argument(
    help="A synset.arrow, a run folder or its URI, or a folder of `raydd export`.", callback=existing_set
)


@command(app, "raydd datasets digits")
def datasets(
    screen: Output,
    name: Annotated[str | None, _NAME] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help=SET)] = None,
) -> None:
    """List the named data sets, or load one and describe it."""
    data = {} if name is None else {"data": {"dataset": absolute_dataset(name)}}
    config = configure(ExpertsConfig, data, parse_settings(settings or ())).data
    from raydd.data.datasets import DATASETS
    from raydd.data.mirroring import flips
    from raydd.data.workspace import load_images

    if name is None:
        rows = {
            key: {"classes": row.classes, "channels": row.channels, "size": row.size, "flip": row.flip}
            for key, row in DATASETS.load().items()
        }
        lines = [
            f"{key:20} {row.classes:4} classes, {row.channels} x {row.size} x {row.size}, "
            f"{'mirrored in training' if row.flip else 'never mirrored unless data.flip=true'}"
            for key, row in DATASETS.items()
        ]
        show(screen, {"datasets": rows}, lines)
        return
    images = load_images(config)
    document = {
        "name": images.name,
        "classes": list(images.classes),
        "channels": images.channels,
        "size": images.size,
        "train": len(images.train),
        "validation": len(images.validation),
        "test": len(images.test),
        "flip": flips(config),
        "fingerprint": images.fingerprint,
        "note": images.note,
    }
    show(screen, document)


@command(app, "raydd export runs/digits --format mtt --out digits-mtt")
def export(
    synset: Annotated[str, _SYNSET],
    out: Annotated[Path, typer.Option(help="Folder to write; empty or new.")],
    screen: Output,
    format: Annotated[str, _FORMAT] = "png",
    hard: Annotated[
        bool, typer.Option("--hard", help="Replace soft labels, and targets of a regression, by their largest class.")
    ] = False,
) -> None:
    """Write a synthetic set in another project's file format, or as pictures."""
    check_name("layout", format)
    if check_local(out).is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not an empty folder; name another --out")
    from raydd.interop.reading import read_synset
    from raydd.interop.writing import write_synset
    from raydd.io.lock import alone

    read = read_synset(local_paths([synset], screen.note)[0])
    with alone(out, "raydd export", screen.note, beside=True):
        paths, images, notes = write_synset(read.synset, out, format, hard=hard)
    for note in (*read.notes, *notes):
        screen.note(note)
    outputs = {"folder": str(out), "images": images}
    document = {"format": format, "outputs": outputs, "notes": [*read.notes, *notes]}
    show(screen, document, [f"wrote {images} images to {out} ({format}, {len(paths)} files)"])


@command(app, "raydd relabel runs/quickstart --experts runs/quickstart/buffer --epoch 10 --out soft.arrow")
def relabel(
    synset: Annotated[str, _SYNSET],
    experts: Annotated[str, typer.Option(help=_EXPERTS, callback=existing_buffer)],
    out: Annotated[str, typer.Option(help="Path or URI of the synset.arrow to write, which must not exist yet.")],
    screen: Output,
    epoch: Annotated[int | None, typer.Option(help=_EPOCH)] = None,
    expert: Annotated[int, typer.Option(help="Index of the expert in the buffer, from 0.")] = 0,
) -> None:
    """Replace a finished set's labels by soft labels: an expert's logits on its images, which stay as they are."""
    out = new_set(out)
    from raydd.buffer.arrow_buffer import ArrowBuffer
    from raydd.buffer.mirror import local_folder
    from raydd.evaluation.relabel import relabel as relabel_set
    from raydd.interop.reading import read_synset
    from raydd.run.storage import open_file

    read = read_synset(local_paths([synset], screen.note)[0])
    labelled = relabel_set(read.synset, ArrowBuffer(local_folder(experts, screen.note)), epoch, expert)
    with open_file(out, "raydd relabel", screen.note) as (storage, file):
        if file.exists():
            raise ValueError(f"{file} exists already; name another --out")
        labelled.save(file)
    agree = float((labelled.labels.argmax(dim=1) == read.synset.hard_labels).float().mean())
    document = {"images": len(labelled.images), "agree": agree, "outputs": {"synset": storage.output(file)}}
    words = f"wrote {storage.output(file)}: the expert agrees with {agree:.1%} of the classes"
    show(screen, document, [words])


@command(
    app,
    "raydd import logged_files/CIFAR10/run --dataset cifar10 --out synset.arrow",
    name="import",
    main="out dataset format",
)
def import_(
    path: Annotated[str, typer.Argument(help="A folder or file of another project.", callback=existing_set)],
    values: Annotated[Tree, Flags(ExpertsConfig, "data.dataset data.preprocessing", {"data.preprocessing": None})],
    reading: Annotated[Tree, Flags(EvaluateConfig, "layout=format lr", settable=False)],
    out: Annotated[str, typer.Option(help="The synset.arrow to write, a new file; a folder that exists, or a URI.")],
    screen: Output,
    factor: Annotated[int | None, typer.Option(help="Images are mosaics of N x N (tgdd).", metavar="N")] = None,
) -> None:
    """Convert another project's synthetic set to raydd's format, a synset.arrow.

    Flags give what its files do not say.
    """
    out = new_set(out)
    data, files = configure(ExpertsConfig, values).data, configure(EvaluateConfig, reading)
    from raydd.interop.layouts import OURS, detect
    from raydd.interop.reading import read_synset
    from raydd.run.storage import open_file

    words = [f"--{name}" for name in ("dataset", "preprocessing") if name in values.get("data", {})]
    words += [f"--{name}" for name, value in (("lr", files.lr), ("factor", factor)) if value is not None]
    words += ["--set"] if values and not words else []
    local = local_paths([path], screen.note)[0]
    if words and detect(local.expanduser(), files.layout)[0] == OURS:
        raise ValueError(f"{local} is a set of raydd's own, which says all of itself: leave out {', '.join(words)}")
    given = data if data.model_fields_set else None
    with open_file(out, "raydd import", screen.note) as (storage, file):
        if file.exists():
            raise ValueError(f"{file} exists already; name another --out")
        read = read_synset(local, layout=files.layout, data=given, lr=files.lr, formation=factor)
        read.synset.save(file)
    for note in read.notes:
        screen.note(note)
    show(screen, read.document() | {"outputs": {"synset": storage.output(file)}})


def new_set(out: str) -> str:
    """Return where a new set is written, a file or a URI; refuse one that exists, or would not be found again."""
    out = out_location(out, "synset.arrow")
    if "://" not in out and Path(out).exists():
        raise ValueError(f"{out} exists already; name another --out")
    if "://" not in out and not out.endswith(".arrow"):
        raise ValueError(f"--out {out} does not end in .arrow, and would not be found again: name {out}.arrow")
    return out
