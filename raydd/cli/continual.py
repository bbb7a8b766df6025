"""The command that scores synthetic sets as memories of class-incremental learning."""

from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import AsJson, Flags, Fresh, Machine, Sets, command, whole_numbers
from raydd.cli.output import files_of, show
from raydd.cli.paths import check_buffers, check_folders, check_paths, row_names
from raydd.config.fields import configure
from raydd.config.parsing import Tree
from raydd.config.schema import EvaluateConfig

app = typer.Typer()


@command(
    app, "raydd continual runs/cifar100/synset.arrow --steps 5,10 --nets ConvNet --protocol dm", main="steps nets seeds"
)
def continual(  # noqa: PLR0913, PLR0917 - one a flag
    synsets: Sets,
    said: Annotated[
        Tree,
        Flags(
            EvaluateConfig,
            "dataset networks=nets seeds protocol baselines preprocessing lr layout=format seed",
            unlike={"baselines": ("random", "herding")},
        ),
    ],
    where: Machine,
    steps: Annotated[str, typer.Option(help="Numbers of steps in which the classes come, with commas.")] = "5,10",
    buffer: Annotated[
        str | None, typer.Option(help="Buffer of experts that choose herding, kcenter and forgetting.")
    ] = None,
    fresh: Fresh = False,
    out: Annotated[Path, typer.Option(help="Folder for continual.json and continual.png.")] = Path("runs/continual"),
    as_json: AsJson = False,
) -> None:
    """Score synthetic sets as memories of continual learning, where classes come in steps.

    After each step a fresh network is trained on the synthetic images of all classes so far.
    """
    counts, config = whole_numbers(steps, "--steps"), configure(EvaluateConfig, said)
    check_paths(synsets)
    check_buffers([buffer])
    check_folders(out)
    from raydd.api.continual import evaluate_continual
    from raydd.figures.continual import continual_tables
    from raydd.interop.layouts import detect
    from raydd.io.console import Screen

    screen = Screen(as_json)
    for path in synsets:
        detect(path, config.layout)
    document = evaluate_continual(
        synsets,
        config,
        out,
        steps=counts,
        names=None if len(synsets) == 1 else row_names(synsets),
        buffer=buffer,
        where=where,
        screen=screen,
        fresh=fresh,
    )
    outputs = {name: str(out / name) for name in ("continual.png", "continual.json")}
    show(screen, document | {"outputs": outputs}, files_of(outputs), continual_tables(document))
