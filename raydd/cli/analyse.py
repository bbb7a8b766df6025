"""The commands that measure properties of experts and runs: a table, a figure and its numbers."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydd.cli.commands import Group
from raydd.cli.flags import Device, Flags, Output, command, whole_numbers
from raydd.cli.output import files_of, show
from raydd.cli.paths import each, existing_buffer, existing_result, existing_set, local_paths, out_location
from raydd.config.fields import configure
from raydd.config.parsing import Tree
from raydd.config.placement import Where
from raydd.config.schema import DataConfig
from raydd.io.uri import is_uri

if TYPE_CHECKING:
    from raydd.io.console import Screen

_HELP = "Measure properties of experts and runs: tables, figures and their numbers."
app = typer.Typer(name="analyse", cls=Group, help=_HELP)


def _numbers(flag: str, text: str) -> Any:
    return typer.Option(help=text, callback=partial(whole_numbers, flag=flag))


_OUT = "PNG file, a folder or a URI; the numbers go beside it as JSON. By default beside the input, or here."
Out = Annotated[str | None, typer.Option(help=_OUT)]
_BUFFERS = typer.Argument(metavar="BUFFER...", help="Buffers: folders or URIs.", callback=each(existing_buffer))
Buffers = Annotated[list[str], _BUFFERS]
_RUNS = typer.Argument(
    metavar="RUN...", help="Run folders of `raydd distill`, or URIs.", callback=each(existing_result)
)
Runs = Annotated[list[str], _RUNS]
_SETS = typer.Argument(metavar="SYNSET...", help="synset.arrow files, or URIs.", callback=each(existing_set))
Synsets = Annotated[list[str], _SETS]
_BUFFER = "Buffer that stores every epoch (not convexified): a folder or a URI."
Buffer = Annotated[str, typer.Option(help=_BUFFER, callback=existing_buffer)]
_WAYPOINTS = "Epochs that the convexified trajectory passes between the first and the last, comma-separated."
Waypoints = Annotated[str, _numbers("--waypoints", _WAYPOINTS)]
_EPOCHS = "Epochs of the experts, comma-separated; every snapshot by default."
_STAGES = "Epochs of the expert, comma-separated; the first, the middle and the last by default."
Images = Annotated[int, typer.Option(help="Largest number of real training images per class.")]
Real = Annotated[Tree, Flags(DataConfig, "dataset size", {"dataset": None}, settable=False)]
ExpertNumber = Annotated[int, typer.Option(help="Index of the expert, from 0.")]

# By name: the module of raydd.analysis that measures, and the module of raydd.figures that draws.
ANALYSES = {
    "experts": ("buffers", "curves"),
    "landscape": ("buffers", "landscape"),
    "storage": ("buffers", "bars"),
    "matching": ("runs", "curves"),
    "labels": ("runs", "curves"),
    "memory": ("runs", "curves"),
    "convergence": ("runs", "curves"),
    "cost": ("runs", "bars"),
    "similarity": ("features", "curves"),
    "separability": ("features", "curves"),
    "activation": ("features", "bars"),
    "embedding": ("features", "embedding"),
}
OF_ONE = {"landscape", "matching", "embedding"}
"""Analyses of one input; the others take several."""


@command(app, "raydd analyse experts buffers/sgd buffers/gsam --out experts.png")
def experts(buffers: Buffers, screen: Output, out: Out = None) -> None:
    """Compare how smooth experts are (average variation of the weights, Avg_Var) and how accurate, by epoch."""
    _analyse("experts", buffers, screen, out)


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
    _analyse("landscape", [buffer], screen, out, where, real=real, expert=expert, waypoints=waypoints)


@command(app, "raydd analyse storage buffers/sgd --waypoints 6,25")
def storage(buffers: Buffers, screen: Output, waypoints: Waypoints = "", out: Out = None) -> None:
    """Compare the disk space of experts with that of their straight-line version (MCT)."""
    _analyse("storage", buffers, screen, out, waypoints=waypoints)


@command(app, "raydd analyse matching runs/digits")
def matching(
    run: Annotated[str, typer.Argument(help="Run folder of `raydd distill`, or a URI.", callback=existing_result)],
    screen: Output,
    out: Out = None,
) -> None:
    """Draw the matching loss by start epoch; the run must have been distilled with --set probe_every=10."""
    _analyse("matching", [run], screen, out)


@command(app, "raydd analyse labels runs/digits-datm-ipc1 runs/digits-datm-ipc10")
def labels(runs: Runs, screen: Output, out: Out = None) -> None:
    """Draw how far soft labels spread over the classes; the runs must have been distilled with --set probe_every=10."""
    _analyse("labels", runs, screen, out)


@command(app, "raydd analyse memory runs/digits-datm runs/digits-dpd")
def memory(runs: Runs, screen: Output, out: Out = None) -> None:
    """Draw the memory of runs over their outer steps; on a GPU it is the peak so far."""
    _analyse("memory", runs, screen, out)


@command(app, "raydd analyse convergence runs/digits-mtt runs/digits-ast --out convergence.png")
def convergence(runs: Runs, screen: Output, out: Out = None) -> None:
    """Draw the accuracy of runs by outer step, and tell how soon each came within 2 % of its best.

    The runs must have been distilled with --set evaluate_every=100.
    """
    _analyse("convergence", runs, screen, out)


@command(app, "raydd analyse cost runs/digits-mtt runs/digits-dm --out cost.png")
def cost(runs: Runs, screen: Output, out: Out = None) -> None:
    """Compare what runs took: seconds of an outer step and of all, peak memory, and the accuracy that they end at."""
    _analyse("cost", runs, screen, out)


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
    epochs: Annotated[str, _numbers("--epochs", _EPOCHS)] = "",
    images: Images = 256,
    out: Out = None,
) -> None:
    """Measure how similar synthetic and real images look to experts, by training epoch."""
    _analyse("similarity", synsets, screen, out, where, buffer, real, epochs=epochs, images=images)


@command(app, "raydd analyse separability runs/a/synset.arrow --buffer buffers/sgd --epochs 0,5,20")
def separability(
    synsets: Synsets,
    buffer: Buffer,
    where: Device,
    screen: Output,
    epochs: Annotated[str, _numbers("--epochs", _EPOCHS)] = "",
    out: Out = None,
) -> None:
    """Measure how well experts classify synthetic images, by training epoch."""
    _analyse("separability", synsets, screen, out, where, buffer, epochs=epochs)


@command(app, "raydd analyse activation runs/a/synset.arrow runs/b/synset.arrow --buffer buffers/sgd")
def activation(synsets: Synsets, buffer: Buffer, where: Device, screen: Output, out: Out = None) -> None:
    """Measure how many neurons of the experts synthetic images activate, by image and as a set."""
    _analyse("activation", synsets, screen, out, where, buffer)


@command(
    app, "raydd analyse embedding runs/a/synset.arrow --buffer buffers/sgd --epochs 0,5,20", main="buffer epochs images"
)
def embedding(  # noqa: PLR0913, PLR0917 - one a flag
    synset: Annotated[str, typer.Argument(help="A file synset.arrow, or a URI.", callback=existing_set)],
    buffer: Buffer,
    real: Real,
    where: Device,
    screen: Output,
    epochs: Annotated[str, _numbers("--epochs", _STAGES)] = "",
    images: Images = 100,
    expert: ExpertNumber = 0,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    out: Out = None,
) -> None:
    """Draw real and synthetic images as points in the plane, placed by an expert's features (t-SNE)."""
    options = {"epochs": epochs, "images": images, "expert": expert, "seed": seed}
    _analyse("embedding", [synset], screen, out, where, buffer, real, **options)


def _analyse(
    name: str,
    inputs: Sequence[str],
    screen: "Screen",
    out: str | None,
    where: Where | None = None,
    buffer: str | None = None,
    real: Tree | None = None,
    **options: Any,
) -> None:
    """Measure, write figure and numbers, and print the table."""
    configure(DataConfig, real or {})
    from raydd.analysis.document import check_out, default_out, save
    from raydd.run.storage import open_file

    folders = local_paths(inputs, screen.note)
    usual = default_out([path.with_suffix("") if path.is_file() else path for path in folders], name)
    if any(map(is_uri, inputs)):  # the cache is no place for figures
        usual = Path(f"{name}.png")
    place = out_location(out or str(usual), usual.name)
    if not is_uri(place):
        check_out(Path(place), name)
    if buffer is not None:
        (options["folder"],) = local_paths([buffer], screen.note)
    if where is not None:
        from raydd.analysis.expert_networks import AnalysisContext
        from raydd.data.workspace import resolve_device

        options["context"] = AnalysisContext(resolve_device(where.device), screen, real or {})
    measure, draw = ANALYSES[name]
    with open_file(place, f"raydd analyse {name}", screen.note) as (storage, target):
        check_out(target, name)
        numbers = _load(f"analysis.{measure}", name)(folders[0] if name in OF_ONE else folders, **options)
        files = save(numbers, _load(f"figures.{draw}", f"draw_{name}"), target)
        outputs = {key: storage.output(file) for key, file in files.items()}
    table = _load("figures.analysis_tables", f"{name}_table")(numbers)
    show(screen, numbers | {"outputs": outputs}, files_of(outputs), [table])


def _load(module: str, name: str) -> Any:
    return getattr(import_module(f"raydd.{module}"), name)
