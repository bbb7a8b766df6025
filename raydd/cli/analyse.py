"""The commands that measure properties of experts and runs: a table, a figure and its numbers."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from raydd.cli.flags import Device, Flags, Output, command, whole_numbers
from raydd.cli.output import files_of, show
from raydd.cli.paths import (
    existing_buffer,
    existing_buffers,
    existing_runs,
    existing_set,
    existing_sets,
    local_paths,
    out_file,
)
from raydd.config.fields import configure
from raydd.config.parsing import Tree
from raydd.config.placement import Where
from raydd.config.schema import DataConfig
from raydd.io.console import Screen

_HELP = "Measure properties of experts and runs: tables, figures and their numbers."
app = typer.Typer(help=_HELP, no_args_is_help=True)

_OUT = "PNG file or folder; the numbers go beside it as JSON. By default beside the input, or here."
Out = Annotated[Path | None, typer.Option(help=_OUT)]
_BUFFERS = typer.Argument(metavar="BUFFER...", help="Buffers: folders or URIs.", callback=existing_buffers)
Buffers = Annotated[list[str], _BUFFERS]
_RUNS = typer.Argument(metavar="RUN...", help="Run folders of `raydd distill`, or URIs.", callback=existing_runs)
Runs = Annotated[list[str], _RUNS]
_WAYPOINTS = "Epochs that the convexified trajectory passes between the first and the last, comma-separated."
Waypoints = Annotated[str, typer.Option(help=_WAYPOINTS)]
_SYNSETS = typer.Argument(metavar="SYNSET...", help="synset.arrow files, or URIs.", callback=existing_sets)
Synsets = Annotated[list[str], _SYNSETS]
_BUFFER = "Buffer that stores every epoch (not convexified): a folder or a URI."
Buffer = Annotated[str, typer.Option(help=_BUFFER, callback=existing_buffer)]
Epochs = Annotated[str, typer.Option(help="Epochs of the experts, comma-separated; every snapshot by default.")]
Images = Annotated[int, typer.Option(help="Largest number of real training images per class.")]
Real = Annotated[Tree, Flags(DataConfig, "dataset size", {"dataset": None}, settable=False)]
ExpertNumber = Annotated[int, typer.Option(help="Index of the expert, from 0.")]
Call = Callable[[Any], dict[str, Any]]

# By name: what measures, what makes the table, and what draws the figure.
ANALYSES = {
    "experts": ("raydd.analysis.buffers:experts", "experts_table", "raydd.figures.curves:draw_experts"),
    "landscape": ("raydd.analysis.landscape:landscape", "landscape_table", "raydd.figures.landscape:draw_landscape"),
    "storage": ("raydd.analysis.buffers:storage", "storage_table", "raydd.figures.bars:draw_storage"),
    "matching": ("raydd.analysis.runs:matching", "matching_table", "raydd.figures.curves:draw_matching"),
    "labels": ("raydd.analysis.runs:labels", "labels_table", "raydd.figures.curves:draw_labels"),
    "memory": ("raydd.analysis.runs:memory", "memory_table", "raydd.figures.curves:draw_memory"),
    "similarity": ("raydd.analysis.features:similarity", "similarity_table", "raydd.figures.curves:draw_similarity"),
    "separability": (
        "raydd.analysis.features:separability",
        "separability_table",
        "raydd.figures.curves:draw_separability",
    ),
    "activation": ("raydd.analysis.activation:activation", "activation_table", "raydd.figures.bars:draw_activation"),
    "embedding": ("raydd.analysis.features:embedding", "embedding_table", "raydd.figures.embedding:draw_embedding"),
}


@command(app, "raydd analyse experts buffers/sgd buffers/gsam --out experts.png")
def experts(buffers: Buffers, screen: Output, out: Out = None) -> None:
    """Compare how smooth experts are (average variation of the weights, Avg_Var) and how accurate, by epoch."""
    folders = [_folder(buffer, screen) for buffer in buffers]
    _analyse("experts", folders, out, screen, lambda measure: measure(folders))


@command(app, "raydd analyse landscape buffers/sgd --expert 0 --waypoints 6,25")
def landscape(
    buffer: Annotated[str, typer.Argument(help="Buffer: a folder or a URI.", callback=existing_buffer)],
    real: Real,
    where: Device,
    screen: Output,
    expert: ExpertNumber = 0,
    waypoints: Waypoints = "",
    out: Out = None,
) -> None:
    """Draw an expert's trajectory and its straight-line version (MCT) on a map of validation accuracy."""
    points, folder = whole_numbers(waypoints, "--waypoints"), _folder(buffer, screen)
    configure(DataConfig, real)

    def call(measure: Any) -> Any:
        return measure(folder, expert, points, context=_context(where, screen, real))

    _analyse("landscape", [folder], out, screen, call)


@command(app, "raydd analyse storage buffers/sgd --waypoints 6,25")
def storage(buffers: Buffers, screen: Output, waypoints: Waypoints = "", out: Out = None) -> None:
    """Compare the disk space of experts with that of their straight-line version (MCT)."""
    points, folders = whole_numbers(waypoints, "--waypoints"), [_folder(buffer, screen) for buffer in buffers]
    _analyse("storage", folders, out, screen, lambda measure: measure(folders, points))


@command(app, "raydd analyse matching runs/digits")
def matching(
    run: Annotated[str, typer.Argument(help="Run folder of `raydd distill`, or a URI.")],
    screen: Output,
    out: Out = None,
) -> None:
    """Draw the matching loss by start epoch; the run must have been distilled with --set probe_every=10."""
    folders = local_paths(existing_runs([run]), screen.note)
    _analyse("matching", folders, out or _here([run], "matching"), screen, lambda measure: measure(folders[0]))


@command(app, "raydd analyse labels runs/digits-datm-ipc1 runs/digits-datm-ipc10")
def labels(runs: Runs, screen: Output, out: Out = None) -> None:
    """Draw how far soft labels spread over the classes; the runs must have been distilled with --set probe_every=10."""
    folders = local_paths(runs, screen.note)
    _analyse("labels", folders, out or _here(runs, "labels"), screen, lambda measure: measure(folders))


@command(app, "raydd analyse memory runs/digits-datm runs/digits-dpd")
def memory(runs: Runs, screen: Output, out: Out = None) -> None:
    """Draw the memory of runs over their outer steps; on a GPU it is the peak so far."""
    folders = local_paths(runs, screen.note)
    _analyse("memory", folders, out or _here(runs, "memory"), screen, lambda measure: measure(folders))


@command(
    app,
    "raydd analyse similarity runs/a/synset.arrow runs/b/synset.arrow --buffer buffers/sgd",
    main="buffer epochs images",
)
def similarity(  # noqa: PLR0913, PLR0917 - one a flag
    synsets: Synsets,
    buffer: Buffer,
    real: Real,
    where: Device,
    screen: Output,
    epochs: Epochs = "",
    images: Images = 256,
    out: Out = None,
) -> None:
    """Measure how similar synthetic and real images look to experts, by training epoch."""
    stages = whole_numbers(epochs, "--epochs")
    configure(DataConfig, real)
    paths = local_paths(synsets, screen.note)

    def call(measure: Any) -> Any:
        return measure(paths, _folder(buffer, screen), stages, images, context=_context(where, screen, real))

    _analyse("similarity", _bare(paths), out or _here(synsets, "similarity"), screen, call)


@command(app, "raydd analyse separability runs/a/synset.arrow --buffer buffers/sgd --epochs 0,5,20")
def separability(
    synsets: Synsets, buffer: Buffer, where: Device, screen: Output, epochs: Epochs = "", out: Out = None
) -> None:
    """Measure how well experts classify synthetic images, by training epoch."""
    stages = whole_numbers(epochs, "--epochs")
    paths = local_paths(synsets, screen.note)

    def call(measure: Any) -> Any:
        return measure(paths, _folder(buffer, screen), stages, context=_context(where, screen))

    _analyse("separability", _bare(paths), out or _here(synsets, "separability"), screen, call)


@command(app, "raydd analyse activation runs/a/synset.arrow runs/b/synset.arrow --buffer buffers/sgd")
def activation(synsets: Synsets, buffer: Buffer, where: Device, screen: Output, out: Out = None) -> None:
    """Measure how many neurons of the experts synthetic images activate, by image and as a set."""
    paths = local_paths(synsets, screen.note)

    def call(measure: Any) -> Any:
        return measure(paths, _folder(buffer, screen), context=_context(where, screen))

    _analyse("activation", _bare(paths), out or _here(synsets, "activation"), screen, call)


_STAGES = "Epochs of the expert, comma-separated; the first, the middle and the last by default."


@command(
    app, "raydd analyse embedding runs/a/synset.arrow --buffer buffers/sgd --epochs 0,5,20", main="buffer epochs images"
)
def embedding(  # noqa: PLR0913, PLR0917 - one a flag
    synset: Annotated[str, typer.Argument(help="A file synset.arrow, or a URI.", callback=existing_set)],
    buffer: Buffer,
    real: Real,
    where: Device,
    screen: Output,
    epochs: Annotated[str, typer.Option(help=_STAGES)] = "",
    images: Images = 100,
    expert: ExpertNumber = 0,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    out: Out = None,
) -> None:
    """Draw real and synthetic images as points in the plane, placed by an expert's features (t-SNE)."""
    stages = whole_numbers(epochs, "--epochs")
    configure(DataConfig, real)
    path = local_paths([synset], screen.note)[0]

    def call(measure: Any) -> Any:
        folder, context = _folder(buffer, screen), _context(where, screen, real)
        return measure(path, folder, stages, images, context=context, expert=expert, seed=seed)

    _analyse("embedding", _bare([path]), out or _here([synset], "embedding"), screen, call)


def _context(where: Where, screen: Screen, real: Tree | None = None) -> Any:
    from raydd.analysis.expert_networks import AnalysisContext
    from raydd.data.workspace import resolve_device

    return AnalysisContext(resolve_device(where.device), screen, real or {})


def _folder(buffer: str, screen: Screen) -> Path:
    """Return the folder of a buffer on this machine; one at a URI is fetched."""
    from raydd.io.filesystem import is_uri

    if not is_uri(buffer):
        return Path(buffer)
    from raydd.buffer.mirror import local_folder

    return local_folder(buffer, screen.note)


def _here(locations: list[str], name: str) -> Path | None:
    """Return a figure in the current folder for what was fetched from a URI; None for paths."""
    return Path(f"{name}.png") if any("://" in location for location in locations) else None


def _bare(files: list[Path]) -> list[Path]:
    """Return files without their suffix, which the names of figures are made from."""
    return [path.with_suffix("") for path in files]


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _analyse(name: str, inputs: list[Path], out: Path | None, screen: Screen, call: Call) -> None:
    """Measure, write figure and numbers, and print the table."""
    from raydd.analysis.document import check_out, default_out, save

    usual = default_out(inputs, name)
    target = out_file(out or usual, usual.name)
    check_out(target, name)
    measure, table, draw = ANALYSES[name]
    numbers = call(_load(measure))
    outputs = save(numbers, _load(draw), target)
    tables = [_load(f"raydd.figures.analysis_tables:{table}")(numbers)]
    show(screen, numbers | {"outputs": outputs}, files_of(outputs), tables)
