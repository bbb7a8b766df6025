"""Commands that look into experts and runs: a table, a figure and its numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from raydd.cli.options import (
    AsJson,
    DatasetOption,
    DeviceOption,
    Seed,
    dataset_word,
    given,
    known_device,
    out_file,
    whole_numbers,
)

app = typer.Typer(help="Look into experts and runs: tables, figures and their numbers.", no_args_is_help=True)

Out = Annotated[
    Path | None,
    typer.Option(
        help="The PNG, or a folder for it; its numbers go beside it as JSON. None: beside the input, or here."
    ),
]
Buffers = Annotated[list[str], typer.Argument(metavar="BUFFER...", help="Buffers: folders or URIs.")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of `raydd distill`.")]
Waypoints = Annotated[
    str, typer.Option(help="Epochs that the convexified trajectory passes between the first and the last, with commas.")
]


Synsets = Annotated[list[Path], typer.Argument(metavar="SYNSET...", help="Files synset.arrow.")]
Buffer = Annotated[str, typer.Option(help="A buffer with a snapshot an epoch: a folder or an URI.")]
Epochs = Annotated[str, typer.Option(help="Epochs of the experts, with commas; none: every snapshot.")]
Images = Annotated[int, typer.Option(help="Real training images a class, at most.")]
Size = Annotated[int | None, typer.Option(help="Side in pixels that the images were resized to, if so.")]


@app.command(epilog="Example: raydd analyse experts buffers/sgd buffers/gsam --out experts.png")
def experts(buffers: Buffers, out: Out = None, as_json: AsJson = False) -> None:
    """How smooth experts are and how accurate: Avg_Var, and curves by epoch."""
    from raydd.analysis.buffers import experts as measure
    from raydd.figures.analysis_tables import experts_table
    from raydd.figures.curves import draw_experts

    folders = [_here(buffer, as_json) for buffer in buffers]
    _show("experts", folders, out, as_json, lambda: measure(folders), (experts_table, draw_experts))


@app.command(epilog="Example: raydd analyse landscape buffers/sgd --expert 0 --waypoints 6,25")
def landscape(  # noqa: PLR0913, PLR0917 - one a flag
    buffer: Annotated[str, typer.Argument(help="A buffer: a folder or an URI.")],
    expert: Annotated[int, typer.Option(help="The expert's number.")] = 0,
    waypoints: Waypoints = "",
    dataset: DatasetOption = None,
    size: Size = None,
    device: DeviceOption = "auto",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """A trajectory and its convexified form in the plane that shows most, with validation accuracy."""
    from raydd.analysis.landscape import landscape as measure
    from raydd.data.workspace import resolve_device
    from raydd.figures.analysis_tables import landscape_table
    from raydd.figures.landscape import draw_landscape
    from raydd.io.console import Screen

    folder = _here(buffer, as_json)
    images = given(dataset=dataset and dataset_word(dataset), size=size)
    points, where, screen = (
        whole_numbers(waypoints, "--waypoints"),
        resolve_device(known_device(device)),
        Screen(as_json),
    )
    _show(
        "landscape",
        [folder],
        out,
        as_json,
        lambda: measure(folder, expert, points, images=images, device=where, screen=screen),
        (landscape_table, draw_landscape),
    )


@app.command(epilog="Example: raydd analyse storage buffers/sgd --waypoints 6,25")
def storage(buffers: Buffers, waypoints: Waypoints = "", out: Out = None, as_json: AsJson = False) -> None:
    """What experts take on disk, and what their convexified form takes."""
    from raydd.analysis.buffers import storage as measure
    from raydd.figures.analysis_tables import storage_table
    from raydd.figures.bars import draw_storage

    points = whole_numbers(waypoints, "--waypoints")
    folders = [_here(buffer, as_json) for buffer in buffers]
    _show("storage", folders, out, as_json, lambda: measure(folders, points), (storage_table, draw_storage))


@app.command(epilog="Example: raydd analyse matching runs/digits")
def matching(
    run: Annotated[Path, typer.Argument(help="A folder of `raydd distill`.")], out: Out = None, as_json: AsJson = False
) -> None:
    """The matching loss by start epoch, over a run that was probed (--set probe_every=10)."""
    from raydd.analysis.runs import matching as measure
    from raydd.figures.analysis_tables import matching_table
    from raydd.figures.curves import draw_matching

    _show("matching", [run], out, as_json, lambda: measure(run), (matching_table, draw_matching))


@app.command(epilog="Example: raydd analyse labels runs/digits-datm-ipc1 runs/digits-datm-ipc10")
def labels(runs: Runs, out: Out = None, as_json: AsJson = False) -> None:
    """How far soft labels spread over the classes, over runs that were probed."""
    from raydd.analysis.runs import labels as measure
    from raydd.figures.analysis_tables import labels_table
    from raydd.figures.curves import draw_labels

    _show("labels", runs, out, as_json, lambda: measure(runs), (labels_table, draw_labels))


@app.command(epilog="Example: raydd analyse memory runs/digits-datm runs/digits-dpd")
def memory(runs: Runs, out: Out = None, as_json: AsJson = False) -> None:
    """The memory that runs held, over their outer steps (a device: the most so far)."""
    from raydd.analysis.runs import memory as measure
    from raydd.figures.analysis_tables import memory_table
    from raydd.figures.curves import draw_memory

    _show("memory", runs, out, as_json, lambda: measure(runs), (memory_table, draw_memory))


@app.command(epilog="Example: raydd analyse similarity runs/a/synset.arrow runs/b/synset.arrow --buffer buffers/sgd")
def similarity(  # noqa: PLR0913, PLR0917 - one a flag
    synsets: Synsets,
    buffer: Buffer,
    epochs: Epochs = "",
    images: Images = 256,
    dataset: DatasetOption = None,
    size: Size = None,
    device: DeviceOption = "auto",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """How alike synthetic and real images are to experts, by stage of training."""
    from raydd.analysis.features import similarity as measure
    from raydd.figures.analysis_tables import similarity_table
    from raydd.figures.curves import draw_similarity

    stages, place = whole_numbers(epochs, "--epochs"), _place(device, as_json, dataset, size)
    _show(
        "similarity",
        _bare(synsets),
        out,
        as_json,
        lambda: measure(synsets, _here(buffer, as_json), stages, images, place=place),
        (similarity_table, draw_similarity),
    )


@app.command(epilog="Example: raydd analyse separability runs/a/synset.arrow --buffer buffers/sgd --epochs 0,5,20")
def separability(
    synsets: Synsets,
    buffer: Buffer,
    epochs: Epochs = "",
    device: DeviceOption = "auto",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """How well experts classify synthetic images, by stage of training."""
    from raydd.analysis.features import separability as measure
    from raydd.figures.analysis_tables import separability_table
    from raydd.figures.curves import draw_separability

    stages, place = whole_numbers(epochs, "--epochs"), _place(device, as_json)
    views = separability_table, draw_separability
    _show(
        "separability",
        _bare(synsets),
        out,
        as_json,
        lambda: measure(synsets, _here(buffer, as_json), stages, place=place),
        views,
    )


@app.command(epilog="Example: raydd analyse activation runs/a/synset.arrow runs/b/synset.arrow --buffer buffers/sgd")
def activation(
    synsets: Synsets, buffer: Buffer, device: DeviceOption = "auto", out: Out = None, as_json: AsJson = False
) -> None:
    """How many of the experts' neurons synthetic images activate: an image, and the whole set."""
    from raydd.analysis.activation import activation as measure
    from raydd.figures.analysis_tables import activation_table
    from raydd.figures.bars import draw_activation

    place, views = _place(device, as_json), (activation_table, draw_activation)
    _show(
        "activation", _bare(synsets), out, as_json, lambda: measure(synsets, _here(buffer, as_json), place=place), views
    )


@app.command(epilog="Example: raydd analyse embedding runs/a/synset.arrow --buffer buffers/sgd --epochs 0,5,20")
def embedding(  # noqa: PLR0913, PLR0917 - one a flag
    synset: Annotated[Path, typer.Argument(help="A file synset.arrow.")],
    buffer: Buffer,
    epochs: Annotated[
        str, typer.Option(help="Epochs of the expert, with commas; none: the first, the middle and the last.")
    ] = "",
    images: Images = 100,
    expert: Annotated[int, typer.Option(help="The expert's number.")] = 0,
    seed: Seed = 0,
    dataset: DatasetOption = None,
    size: Size = None,
    device: DeviceOption = "auto",
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Real and synthetic images as an expert sees them, in one plane (t-SNE), a panel a stage."""
    from raydd.analysis.features import embedding as measure
    from raydd.figures.analysis_tables import embedding_table
    from raydd.figures.embedding import draw_embedding

    stages, place = whole_numbers(epochs, "--epochs"), _place(device, as_json, dataset, size)
    _show(
        "embedding",
        _bare([synset]),
        out,
        as_json,
        lambda: measure(synset, _here(buffer, as_json), stages, images, place=place, expert=expert, seed=seed),
        (embedding_table, draw_embedding),
    )


def _place(device: str, as_json: bool, dataset: str | None = None, size: int | None = None) -> Any:
    """Where networks run, progress is told and real images are found, by the flags."""
    from raydd.analysis.stages import Place
    from raydd.data.workspace import resolve_device
    from raydd.io.console import Screen

    images = given(dataset=dataset and dataset_word(dataset), size=size)
    return Place(resolve_device(known_device(device)), Screen(as_json), images)


def _here(place: str, as_json: bool) -> Path:
    """A buffer's folder on this node."""
    from raydd.buffer.mirror import local_folder
    from raydd.io.console import Screen

    return local_folder(place, Screen(as_json).note)


def _bare(files: list[Path]) -> list[Path]:
    """Files without their suffix, which a figure beside them is named after."""
    return [path.with_suffix("") for path in files]


def _show(
    name: str,
    inputs: list[Path],
    out: Path | None,
    as_json: bool,
    measure: Callable[[], dict[str, Any]],
    views: tuple[Callable[[dict[str, Any]], Any], Callable[[dict[str, Any]], Any]],
) -> None:
    """Measure, write figure and numbers, and print the table."""
    from raydd.analysis.document import check_out, default_out, save
    from raydd.io.console import Screen

    tabulate, draw = views
    usual = default_out(inputs, name)
    target = out_file(out or usual, usual.name)
    check_out(target, name)
    numbers = measure()
    outputs = save(numbers, draw, target)

    def show(console: Any) -> None:
        console.print(tabulate(numbers))
        for kind, path in outputs.items():
            console.print(f"{kind}: {path}", markup=False)

    Screen(as_json).result(numbers | {"outputs": outputs}, show)
