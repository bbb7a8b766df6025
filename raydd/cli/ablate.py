"""The command that measures what each part of a method adds."""

from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import Buffer, Flags, Output, Preset, TrainingMachine, command
from raydd.cli.output import end, show_scores, with_missing
from raydd.cli.paths import output, writable
from raydd.config.fields import configure
from raydd.config.names import TABLES
from raydd.config.parsing import Tree
from raydd.config.presets import preset_layers
from raydd.config.schema import DistillConfig, EvaluateConfig

app = typer.Typer()
TGDD = {"method": "tgdd"}
WHOLE = Flags(DistillConfig, "method data.dataset ipc experts.network seed", TGDD, tables={"method": "ablation"})
SCORING = Flags(EvaluateConfig, "seeds protocol epochs real_epochs", settable=False)
_OUT = "Folder or URI of the runs; the same command again continues them."


@command(app, "raydd ablate --method tgdd --dataset digits --ipc 10 --out runs/ablation", main="method dataset ipc")
def ablate(
    values: Annotated[Tree, WHOLE],
    scoring: Annotated[Tree, SCORING],
    where: TrainingMachine,
    screen: Output,
    buffer: Buffer = None,
    preset: Preset = None,
    out: Annotated[str | None, typer.Option(help=_OUT, callback=writable)] = None,
) -> None:
    """Distill with the parts of a method added one by one, as in its paper, and score each step.

    Ablations of tgdd, ast, datm, dpd and mct are known.
    """
    config = configure(DistillConfig, *preset_layers(preset, values))
    if config.method not in (known := TABLES["ablation"].names):
        raise ValueError(f"--method {config.method}: no ablation is known; use one of {', '.join(known)}")
    evaluation = configure(EvaluateConfig, scoring)
    place = out or f"runs/{Path(config.data.dataset).name}-{config.method}-ipc{config.ipc}-ablation"
    from raydd.api.ablation import ablate as score_parts

    scores, missing = with_missing(
        lambda: score_parts(config, place, evaluation, buffer=buffer, where=where, screen=screen)
    )
    outputs = {name: output(place, name) for name in ("ablation.png", "ablation.json")}
    show_scores(screen, scores, outputs, {"missing": [one.to_document() for one in missing]} if missing else None)
    end(screen, missing)
