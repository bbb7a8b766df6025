"""The command that scores synthetic sets as memories of class-incremental learning."""

from typing import Annotated

import typer

from raydd.cli.flags import Flags, Fresh, Output, Sets, TrainingMachine, command, whole_numbers
from raydd.cli.output import end, files_of, show, with_missing
from raydd.cli.paths import existing_buffer, local_paths, output, row_names, writable
from raydd.config.fields import configure
from raydd.config.parsing import Tree
from raydd.config.schema import EvaluateConfig

app = typer.Typer()


CONTINUAL = "dataset networks=nets seeds protocol baselines preprocessing lr layout=format seed"
_STEPS = "Into how many steps the classes are split; several, comma-separated."
_BUFFER = "Buffer of experts that choose herding, kcenter and forgetting."
_OUT = "Folder or URI for continual.json and continual.png."


@command(
    app, "raydd continual runs/cifar100/synset.arrow --steps 5,10 --nets ConvNet --protocol dm", main="steps nets seeds"
)
def continual(  # noqa: PLR0913, PLR0917 - one a flag
    synsets: Sets,
    values: Annotated[Tree, Flags(EvaluateConfig, CONTINUAL, {"baselines": ("random", "herding")})],
    where: TrainingMachine,
    screen: Output,
    steps: Annotated[str, typer.Option(help=_STEPS)] = "5,10",
    buffer: Annotated[str | None, typer.Option(help=_BUFFER, callback=existing_buffer)] = None,
    fresh: Fresh = False,
    out: Annotated[str, typer.Option(help=_OUT, callback=writable)] = "runs/continual",
) -> None:
    """Score synthetic sets as replay memory for class-incremental learning.

    After each step a fresh network is trained on the synthetic images of all classes so far.
    """
    counts, config = whole_numbers(steps, "--steps"), configure(EvaluateConfig, values)
    from raydd.api.continual import evaluate_continual
    from raydd.figures.continual import continual_tables
    from raydd.interop.layouts import detect

    paths = local_paths(synsets, screen.note)
    for path in paths:
        detect(path, config.layout)
    names = None if len(synsets) == 1 else row_names(synsets)
    document, missing = with_missing(
        lambda: evaluate_continual(
            paths, config, out, steps=counts, names=names, buffer=buffer, where=where, screen=screen, fresh=fresh
        )
    )
    outputs = {name: output(out, name) for name in ("continual.png", "continual.json")}
    show(screen, document | {"outputs": outputs}, files_of(outputs), continual_tables(document))
    end(screen, missing)
