"""The commands that read and convert trajectory buffers."""

from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.commands import Group
from raydd.cli.flags import Flags, Output, command, named, whole_numbers
from raydd.cli.output import show
from raydd.cli.paths import existing, existing_buffer, writable
from raydd.config.fields import configure
from raydd.config.names import check_name
from raydd.config.parsing import Tree
from raydd.config.schema import ExpertsConfig
from raydd.io.filesystem import open_store
from raydd.io.uri import is_uri, public_uri

_ABOUT = "Inspect, check, convert and copy buffers: folders of experts' weights."
app = typer.Typer(name="buffer", cls=Group, help=_ABOUT)
_HELP = "Buffer: a folder or a URI such as s3://bucket/folder."
Source = Annotated[str, typer.Argument(help=_HELP, callback=existing_buffer)]
Target = Annotated[
    str, typer.Argument(help="Folder or URI to write; another buffer there is refused.", callback=writable)
]
_OUT = typer.Option(help="Buffer to write, a folder or a URI; a second import continues.", callback=writable)
_FORMAT = typer.Option(help="Layout: mtt or tgdd; detected by default.", autocompletion=named("expert layout"))
_EXPERTS = "data.dataset experts.network data.preprocessing"
_UNSAID = {"data.dataset": None, "experts.network": None, "data.preprocessing": None}


@command(
    app,
    "raydd buffer import theirs --dataset cifar10 --network ConvNet --preprocessing zca --out ours",
    name="import",
    main="out dataset network",
)
def buffer_import(
    paths: Annotated[list[Path], typer.Argument(help="Folders or files with experts of another project.")],
    values: Annotated[Tree, Flags(ExpertsConfig, _EXPERTS, _UNSAID)],
    out: Annotated[str, _OUT],
    screen: Output,
    format: Annotated[str | None, _FORMAT] = None,
) -> None:
    """Convert experts that another project trained into a buffer.

    Flags give what its files do not say.
    """
    configure(ExpertsConfig, values)
    for path in paths:
        existing(path, "name a folder of experts or such files")
    if format is not None:
        check_name("expert layout", format)
    from raydd.interop.expert_import import describe_import, import_experts

    imported = import_experts(paths, out, values, layout=format, screen=screen)
    show(screen, describe_import(imported, public_uri(out)))


@command(app, "raydd buffer info runs/quickstart/buffer", name="info")
def buffer_info(folder: Source, screen: Output) -> None:
    """Describe a buffer: its data, network, experts and their accuracy."""
    from raydd.buffer.describe import describe
    from raydd.buffer.mirror import local_folder

    show(screen, describe(local_folder(folder, screen.note)))


@command(app, "raydd buffer verify runs/quickstart/buffer", name="verify")
def buffer_verify(folder: Source, screen: Output) -> None:
    """Read every byte of a buffer and compare checksums; exit code 1 when something is wrong."""
    from raydd.buffer.mirror import local_folder
    from raydd.buffer.verification import verify

    problems = [problem._asdict() for problem in verify(local_folder(folder, screen.note, anew=True))]
    lines = [f"{problem['file']}: {problem['what']}" for problem in problems] or [f"{public_uri(folder)}: whole"]
    show(screen, {"problems": problems}, lines)
    if problems:
        raise typer.Exit(1)


@command(app, "raydd buffer convexify runs/buffer runs/straight --waypoints 6,25", name="convexify")
def buffer_convexify(
    buffer: Source,
    out: Target,
    screen: Output,
    waypoints: Annotated[str, typer.Option(help="Epochs to keep beside the first and the last, such as 6,25.")] = "",
) -> None:
    """Write a small copy of a buffer that keeps a few snapshots per expert, joined by straight lines (MCT).

    The same command again continues where it stopped.
    """
    epochs = whole_numbers(waypoints, "--waypoints")
    from raydd.buffer.convexified import convexify
    from raydd.buffer.mirror import local_folder, written_folder

    full = local_folder(buffer, screen.note)
    with written_folder(out, screen.note) as folder:
        experts, snapshots, before, after = convexify(full, folder, epochs)
    sizes = {"before": before, "after": after, "ratio": after / before}
    document = {"experts": experts, "kept": [*snapshots], "bytes": sizes, "outputs": {"folder": public_uri(out)}}
    epochs_kept = ", ".join(map(str, snapshots))
    line = f"{public_uri(out)}: {experts} experts at epochs {epochs_kept}; {before:,} bytes are now {after:,}"
    show(screen, document, [f"{line}, {100 * after / before:.1f} % of them"])


@command(app, "raydd buffer copy runs/quickstart/buffer s3://bucket/digits", name="copy")
def buffer_copy(source: Source, target: Target, screen: Output) -> None:
    """Copy a buffer to another folder or to an object store.

    The same command again continues where it stopped.
    """
    from raydd.buffer.mirror import copy_buffer, mirror
    from raydd.io.lock import alone

    folder = (open_store(target).local or mirror(target)) if is_uri(target) else Path(target)
    with alone(folder, "raydd buffer copy", screen.note):
        sizes = copy_buffer(source, target, screen.note)
    document = {"files": len(sizes), "bytes": sum(sizes.values()), "outputs": {"buffer": public_uri(target)}}
    line = f"{public_uri(target)}: copied {len(sizes)} files, {sum(sizes.values()):,} bytes, and the manifest"
    show(screen, document, [line])
