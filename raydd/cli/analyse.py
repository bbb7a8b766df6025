"""The commands that measure properties of experts and runs: a table, a figure and its numbers."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from raydd.cli.flags import AsJson, Device, Flags, command, whole_numbers
from raydd.cli.output import files_of, show
from raydd.cli.paths import check_buffers, check_paths, out_file
from raydd.config.fields import configure
from raydd.config.parsing import Tree
from raydd.config.placement import Where
from raydd.config.schema import DataConfig

app = typer.Typer(
    help="Measure properties of experts and runs: tables, figures and their numbers.", no_args_is_help=True
)

Out = Annotated[
    Path | None,
    typer.Option(help="PNG file or folder; the numbers go beside it as JSON. By default beside the input, or here."),
]
Buffers = Annotated[list[str], typer.Argument(metavar="BUFFER...", help="Buffers: folders or URIs.")]
Run = Annotated[Path, typer.Argument(help="Run folder of `raydd distill`.")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of `raydd distill`.")]
Waypoints = Annotated[
    str, typer.Option(help="Epochs that the convexified trajectory passes between the first and the last, with commas.")
]
Synsets = Annotated[list[Path], typer.Argument(metavar="SYNSET...", help="Files synset.arrow.")]
Buffer = Annotated[str, typer.Option(help="Buffer with a snapshot an epoch: a folder or a URI.")]
Epochs = Annotated[str, typer.Option(help="Epochs of the experts, with commas; every snapshot by default.")]
Images = Annotated[int, typer.Option(help="Largest number of real training images a class.")]
Real = Annotated[Tree, Flags(DataConfig, "dataset size", unlike={"dataset": None}, settable=False)]
ExpertNumber = Annotated[int, typer.Option(help="Number of the expert.")]

# By name: what measures, what makes the table, and what draws the figure.
ANALYSES = {
    "experts": ("raydd.analysis.buffers:experts", "experts_table", "raydd.figures.curves:draw_experts"),
    "landscape": ("raydd.analysis.landscape:landscape", "landscape_table", "raydd.figures.landscape:draw_landscape"),
    "storage": ("raydd.analysis.buffers:storage", "storage_table", "raydd.figures.bars:draw_storage"),
    "matching": ("raydd.analysis.runs:matching", "matching_table", "raydd.figures.curves:draw_matching"),
    "labels": ("raydd.analysis.runs:labels", "labels_table", "raydd.figures.curves:draw_labels"),
    "memory": ("raydd.analysis.runs:memory", "memory_table", "raydd.figures.curves:draw_memory"),
    "similarity": ("raydd.analysis.features:similarity", "similarity_table", "raydd.figures.stages:draw_similarity"),
    "separability": (
        "raydd.analysis.features:separability",
        "separability_table",
        "raydd.figures.stages:draw_separability",
    ),
    "activation": (
        "raydd.analysis.activation:activation",
        "activation_table",
        "raydd.figures.activation:draw_activation",
    ),
    "embedding": ("raydd.analysis.features:embedding", "embedding_table", "raydd.figures.embedding:draw_embedding"),
}


@command(app, "raydd analyse experts buffers/sgd buffers/gsam --out experts.png")
def experts(buffers: Buffers, out: Out = None, as_json: AsJson = False) -> None:
    """Compare how smooth and how accurate experts are: Avg_Var, and curves by epoch."""
    folders = _folders(buffers, as_json)
    _analyse("experts", folders, out, as_json, lambda measure: measure(folders))


@command(app, "raydd analyse landscape buffers/sgd --expert 0 --waypoints 6,25")
def landscape(
    buffer: Annotated[str, typer.Argument(help="Buffer: a folder or a URI.")],
    real: Real,
    where: Device,
    expert: ExpertNumber = 0,
    waypoints: Waypoints = "",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Draw an expert's trajectory and its convexified form on the surface of validation accuracy."""
    points = whole_numbers(waypoints, "--waypoints")
    configure(DataConfig, real)
    (folder,) = _folders([buffer], as_json)

    def call(measure: Any) -> Any:
        place = _place(where, as_json)
        return measure(folder, expert, points, images=real, device=place.device, screen=place.screen)

    _analyse("landscape", [folder], out, as_json, call)


@command(app, "raydd analyse storage buffers/sgd --waypoints 6,25")
def storage(buffers: Buffers, waypoints: Waypoints = "", out: Out = None, as_json: AsJson = False) -> None:
    """Compare the disk space of experts with that of their convexified form."""
    points, folders = whole_numbers(waypoints, "--waypoints"), _folders(buffers, as_json)
    _analyse("storage", folders, out, as_json, lambda measure: measure(folders, points))


@command(app, "raydd analyse matching runs/digits")
def matching(run: Run, out: Out = None, as_json: AsJson = False) -> None:
    """Draw the matching loss by start epoch, for a run with --set probe_every=10."""
    check_paths([run], "name a run folder of `raydd distill`")
    _analyse("matching", [run], out, as_json, lambda measure: measure(run))


@command(app, "raydd analyse labels runs/digits-datm-ipc1 runs/digits-datm-ipc10")
def labels(runs: Runs, out: Out = None, as_json: AsJson = False) -> None:
    """Draw how far soft labels spread over the classes, for runs with --set probe_every=10."""
    check_paths(runs, "name a run folder of `raydd distill`")
    _analyse("labels", runs, out, as_json, lambda measure: measure(runs))


@command(app, "raydd analyse memory runs/digits-datm runs/digits-dpd")
def memory(runs: Runs, out: Out = None, as_json: AsJson = False) -> None:
    """Draw the memory of runs over their outer steps; on a GPU it is the peak so far."""
    check_paths(runs, "name a run folder of `raydd distill`")
    _analyse("memory", runs, out, as_json, lambda measure: measure(runs))


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
    epochs: Epochs = "",
    images: Images = 256,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Measure how similar synthetic and real images look to experts, by training epoch."""
    stages = whole_numbers(epochs, "--epochs")
    configure(DataConfig, real)
    check_paths(synsets)
    check_buffers([buffer])

    def call(measure: Any) -> Any:
        (folder,) = _folders([buffer], as_json)
        return measure(synsets, folder, stages, images, place=_place(where, as_json, real))

    _analyse("similarity", _bare(synsets), out, as_json, call)


@command(app, "raydd analyse separability runs/a/synset.arrow --buffer buffers/sgd --epochs 0,5,20")
def separability(
    synsets: Synsets, buffer: Buffer, where: Device, epochs: Epochs = "", out: Out = None, as_json: AsJson = False
) -> None:
    """Measure how well experts classify synthetic images, by training epoch."""
    stages = whole_numbers(epochs, "--epochs")
    check_paths(synsets)
    check_buffers([buffer])

    def call(measure: Any) -> Any:
        return measure(synsets, *_folders([buffer], as_json), stages, place=_place(where, as_json))

    _analyse("separability", _bare(synsets), out, as_json, call)


@command(app, "raydd analyse activation runs/a/synset.arrow runs/b/synset.arrow --buffer buffers/sgd")
def activation(synsets: Synsets, buffer: Buffer, where: Device, out: Out = None, as_json: AsJson = False) -> None:
    """Measure how many neurons of the experts synthetic images activate, by image and as a set."""
    check_paths(synsets)
    check_buffers([buffer])

    def call(measure: Any) -> Any:
        return measure(synsets, *_folders([buffer], as_json), place=_place(where, as_json))

    _analyse("activation", _bare(synsets), out, as_json, call)


@command(
    app, "raydd analyse embedding runs/a/synset.arrow --buffer buffers/sgd --epochs 0,5,20", main="buffer epochs images"
)
def embedding(  # noqa: PLR0913, PLR0917 - one a flag
    synset: Annotated[Path, typer.Argument(help="A file synset.arrow.")],
    buffer: Buffer,
    real: Real,
    where: Device,
    epochs: Annotated[
        str, typer.Option(help="Epochs of the expert, with commas; the first, the middle and the last by default.")
    ] = "",
    images: Images = 100,
    expert: ExpertNumber = 0,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Draw real and synthetic images as points in the plane, placed by an expert's features (t-SNE)."""
    stages = whole_numbers(epochs, "--epochs")
    configure(DataConfig, real)
    check_paths([synset])
    check_buffers([buffer])

    def call(measure: Any) -> Any:
        (folder,), place = _folders([buffer], as_json), _place(where, as_json, real)
        return measure(synset, folder, stages, images, place=place, expert=expert, seed=seed)

    _analyse("embedding", _bare([synset]), out, as_json, call)


def _place(where: Where, as_json: bool, real: Tree | None = None) -> Any:
    from raydd.analysis.stages import Place
    from raydd.data.workspace import resolve_device
    from raydd.io.console import Screen

    return Place(resolve_device(where.device), Screen(as_json), real or {})


def _folders(buffers: Sequence[str], as_json: bool) -> list[Path]:
    """Return the folders of buffers on this machine; those at a URI are fetched."""
    from raydd.io.filesystem import is_uri

    check_buffers(buffers)
    if not any(map(is_uri, buffers)):
        return [Path(buffer) for buffer in buffers]
    from raydd.buffer.mirror import local_folder
    from raydd.io.console import Screen

    return [local_folder(buffer, Screen(as_json).note) for buffer in buffers]


def _bare(files: list[Path]) -> list[Path]:
    """Return files without their suffix, which the names of figures are made from."""
    return [path.with_suffix("") for path in files]


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _analyse(
    name: str, inputs: list[Path], out: Path | None, as_json: bool, call: Callable[[Any], dict[str, Any]]
) -> None:
    """Measure, write figure and numbers, and print the table."""
    from raydd.analysis.document import check_out, default_out, save
    from raydd.io.console import Screen

    usual = default_out(inputs, name)
    target = out_file(out or usual, usual.name)
    check_out(target, name)
    measure, table, draw = ANALYSES[name]
    numbers = call(_load(measure))
    outputs = save(numbers, _load(draw), target)
    tables = [_load(f"raydd.figures.tables:{table}")(numbers)]
    show(Screen(as_json), numbers | {"outputs": outputs}, files_of(outputs), tables)
