"""Commands that look into files and write them anew: datasets, export, import, buffer."""

from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.options import (
    AsJson,
    DatasetOption,
    Settings,
    dataset_word,
    given,
    out_file,
    printer,
    show_document,
    whole_numbers,
)

BufferArgument = Annotated[str, typer.Argument(help="A buffer: a folder or an URI such as s3://bucket/folder.")]

app = typer.Typer()
buffer_app = typer.Typer(help="Look into trajectory buffers.", no_args_is_help=True)
app.add_typer(buffer_app, name="buffer")


@app.command(epilog="Example: raydd datasets digits")
def datasets(
    name: Annotated[str | None, typer.Argument(help="A name or path to load and describe; none lists names.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List the known data sets, or load one and describe it."""
    from raydd.config.parsing import build, parse_settings
    from raydd.config.schema import ExpertsConfig
    from raydd.data.datasets import DATASETS
    from raydd.data.mirroring import flips
    from raydd.data.workspace import load_images
    from raydd.io.console import Screen

    if name is None:
        listed = {
            key: {"classes": row.classes, "channels": row.channels, "size": row.size, "flip": row.flip}
            for key, row in DATASETS.load().items()
        }
        lines = [
            f"{key:20} {row.classes:4} classes, {row.channels} x {row.size} x {row.size}, "
            f"{'mirrored in training' if row.flip else 'never mirrored unless data.flip=true'}"
            for key, row in DATASETS.items()
        ]
        Screen(as_json).result({"datasets": listed}, lambda console: console.print("\n".join(lines)))
        return
    config = build(ExpertsConfig, {"data": {"dataset": name}}, parse_settings(settings or ())).data
    data = load_images(config)
    document = {
        "name": data.name,
        "classes": list(data.classes),
        "channels": data.channels,
        "size": data.size,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "flip": flips(config),
        "fingerprint": data.fingerprint,
        "note": data.note,
    }
    Screen(as_json).result(document, printer(document))


@app.command(epilog="Example: raydd export runs/digits --format mtt --out digits-mtt")
def export(
    synset: Annotated[Path, typer.Argument(help="A synset.arrow, a run folder, or a set that raydd exported.")],
    out: Annotated[Path, typer.Option(help="The folder to write; empty or new.")],
    format: Annotated[str, typer.Option(help="mtt, datm, tgdd, dc, dcbench, ddranking, hf or png.")] = "png",
    hard: Annotated[bool, typer.Option("--hard", help="Of soft labels, keep the class of the largest logit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a synthetic set as another project keeps it, or as pictures."""
    from raydd.interop.layouts import layout_row
    from raydd.interop.reading import read_synset
    from raydd.interop.writing import write_synset
    from raydd.io.console import Screen
    from raydd.io.lock import alone

    screen = Screen(as_json)
    layout_row(format)
    read = read_synset(synset)
    with alone(out, "raydd export", screen.note, beside=True):
        paths, images, notes = write_synset(read.synset, out, format, hard=hard)
    for note in (*read.notes, *notes):
        screen.note(note)
    outputs = {"folder": str(out), "images": images}
    document = {"format": format, "outputs": outputs, "notes": [*read.notes, *notes]}
    line = f"wrote {images} images to {out} ({format}, {len(paths)} files)"
    screen.result(document, lambda console: console.print(line, markup=False))


@app.command("import", epilog="Example: raydd import logged_files/CIFAR10/run --dataset cifar10 --out synset.arrow")
def import_(  # noqa: PLR0913, PLR0917 - one a flag
    path: Annotated[Path, typer.Argument(help="A folder or file of another project.")],
    out: Annotated[Path, typer.Option(help="The synset.arrow to write, a new file; or a folder that exists.")],
    format: Annotated[str | None, typer.Option(help="As in `raydd export`; none finds out.")] = None,
    dataset: DatasetOption = None,
    preprocessing: Annotated[str | None, typer.Option(help="normalise, zca or raw01: the images' space.")] = None,
    lr: Annotated[float | None, typer.Option(help="The students' step size.")] = None,
    factor: Annotated[int | None, typer.Option(help="Images are mosaics of N x N (tgdd).", metavar="N")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Read a set of another project into a synset.arrow; what its files do not say is given here."""
    from raydd.config.parsing import build, parse_settings
    from raydd.config.schema import ExpertsConfig
    from raydd.interop.layouts import OURS, detect
    from raydd.interop.reading import read_synset
    from raydd.io.console import Screen

    out = out_file(out, "synset.arrow")
    if out.exists():
        raise ValueError(f"{out} exists already; name another --out")
    if out.suffix != ".arrow":
        raise ValueError(f"--out {out} does not end in .arrow, and would not be found again: name {out}.arrow")
    said = {"dataset": dataset, "preprocessing": preprocessing, "lr": lr, "factor": factor, "set": settings or None}
    if (spare := given(**said)) and detect(path.expanduser(), format)[0] == OURS:
        words = ", ".join(f"--{name}" for name in spare)
        raise ValueError(f"{path} is a set of raydd's own, which says all of itself: leave out {words}")
    flags = {"data": given(dataset=dataset and dataset_word(dataset), preprocessing=preprocessing)}
    data = build(ExpertsConfig, flags, parse_settings(settings or ())).data
    read = read_synset(path, layout=format, data=data if data.model_fields_set else None, lr=lr, formation=factor)
    read.synset.save(out)
    screen = Screen(as_json)
    for note in read.notes:
        screen.note(note)
    document = read.document() | {"outputs": {"synset": str(out)}}
    show_document(screen, document)


@buffer_app.command(
    "import",
    epilog="Example: raydd buffer import theirs --dataset cifar10 --network ConvNet --preprocessing zca --out ours",
)
def buffer_import(  # noqa: PLR0913, PLR0917 - one a flag
    paths: Annotated[list[Path], typer.Argument(help="Folders or files with experts of another project.")],
    out: Annotated[str, typer.Option(help="The buffer's folder or URI; again goes on where it stopped.")],
    dataset: DatasetOption = None,
    network: Annotated[str | None, typer.Option(help="The experts' network.")] = None,
    preprocessing: Annotated[str | None, typer.Option(help="normalise, zca or raw01: of the experts' images.")] = None,
    format: Annotated[str | None, typer.Option(help="mtt or tgdd; none finds out.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Make a buffer of experts that another project trained; what its files do not say is given here."""
    from raydd.config.parsing import merged, parse_settings
    from raydd.interop.expert_import import describe_import, import_experts
    from raydd.io.console import Screen
    from raydd.io.filesystem import public_uri

    data = given(dataset=dataset and dataset_word(dataset), preprocessing=preprocessing)
    said = merged({"data": data, "experts": given(network=network)}, parse_settings(settings or ()))
    screen = Screen(as_json)
    imported = import_experts(paths, out, said, layout=format, screen=screen)
    show_document(screen, describe_import(imported, public_uri(out)))


@buffer_app.command("info", epilog="Example: raydd buffer info runs/quickstart/buffer")
def buffer_info(folder: BufferArgument, as_json: AsJson = False) -> None:
    """Say what a buffer holds."""
    from raydd.buffer.describe import describe
    from raydd.buffer.mirror import local_folder
    from raydd.io.console import Screen

    screen = Screen(as_json)
    show_document(screen, describe(local_folder(folder, screen.note)))


@buffer_app.command("verify", epilog="Example: raydd buffer verify runs/quickstart/buffer")
def buffer_verify(folder: BufferArgument, as_json: AsJson = False) -> None:
    """Read every byte of a buffer; exit code 1 when something is wrong."""
    from raydd.buffer.arrow_buffer import verify
    from raydd.buffer.mirror import local_folder
    from raydd.io.console import Screen
    from raydd.io.filesystem import public_uri

    screen = Screen(as_json)
    problems = [problem._asdict() for problem in verify(local_folder(folder, screen.note, anew=True))]
    lines = [f"{problem['file']}: {problem['what']}" for problem in problems] or [f"{public_uri(folder)}: whole"]
    screen.result({"problems": problems}, lambda console: console.print("\n".join(lines), markup=False))
    if problems:
        raise typer.Exit(1)


@buffer_app.command("convexify", epilog="Example: raydd buffer convexify runs/buffer runs/straight --waypoints 6,25")
def buffer_convexify(
    buffer: Annotated[str, typer.Argument(help="A buffer with a snapshot an epoch: a folder or an URI.")],
    out: Annotated[str, typer.Argument(help="The folder or URI to write.")],
    waypoints: Annotated[str, typer.Option(help="Epochs to keep beside the first and the last: 6,25.")] = "",
    as_json: AsJson = False,
) -> None:
    """Write a buffer's convexified form (MCT): a few snapshots an expert; again goes on where it stopped."""
    from raydd.buffer.convexified import convexify
    from raydd.buffer.mirror import local_folder, written_folder
    from raydd.io.console import Screen
    from raydd.io.filesystem import public_uri

    screen, epochs = Screen(as_json), whole_numbers(waypoints, "--waypoints")
    full = local_folder(buffer, screen.note)
    with written_folder(out, screen.note) as folder:
        experts, kept, before, after = convexify(full, folder, epochs)
    sizes = {"before": before, "after": after, "ratio": after / before}
    document = {"experts": experts, "kept": [*kept], "bytes": sizes, "outputs": {"folder": public_uri(out)}}
    said = f"{public_uri(out)}: {experts} experts at epochs {', '.join(map(str, kept))}"
    line = f"{said}; {before:,} bytes are now {after:,}, {100 * after / before:.1f} % of them"
    screen.result(document, lambda console: console.print(line, markup=False))


@buffer_app.command("copy", epilog="Example: raydd buffer copy runs/quickstart/buffer s3://bucket/digits")
def buffer_copy(
    source: BufferArgument,
    target: Annotated[str, typer.Argument(help="The folder or URI to write; another buffer there is refused.")],
    as_json: AsJson = False,
) -> None:
    """Copy a buffer to another place, such as an object store; again goes on where it stopped."""
    from raydd.buffer.mirror import copy_buffer, mirror
    from raydd.io.console import Screen
    from raydd.io.filesystem import is_uri, open_store, public_uri
    from raydd.io.lock import alone

    screen = Screen(as_json)
    folder = (open_store(target).local or mirror(target)) if is_uri(target) else Path(target)
    with alone(folder, "raydd buffer copy", screen.note):
        sizes = copy_buffer(source, target, screen.note)
    document = {"files": len(sizes), "bytes": sum(sizes.values()), "outputs": {"buffer": public_uri(target)}}
    line = f"{public_uri(target)}: copied {len(sizes)} files, {sum(sizes.values()):,} bytes, and the manifest"
    screen.result(document, lambda console: console.print(line, markup=False))
