"""The command that measures what each part of a method adds."""

from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import AsJson, Buffer, Flags, Machine, Preset, command
from raydd.cli.output import show_scores
from raydd.cli.paths import check_buffers, check_folders
from raydd.config.fields import configure
from raydd.config.names import TABLES
from raydd.config.parsing import Tree
from raydd.config.presets import preset_layers
from raydd.config.schema import DistillConfig, EvaluateConfig

app = typer.Typer()


@command(app, "raydd ablate --method tgdd --dataset digits --ipc 10 --out runs/ablation", main="method dataset ipc")
def ablate(
    said: Annotated[
        Tree,
        Flags(
            DistillConfig,
            "method data.dataset ipc experts.network seed",
            unlike={"method": "tgdd"},
            tables={"method": "ablation"},
        ),
    ],
    scoring: Annotated[Tree, Flags(EvaluateConfig, "seeds protocol epochs real_epochs", settable=False)],
    where: Machine,
    buffer: Buffer = None,
    preset: Preset = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; the same command again continues them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Distill with the parts of a method added one by one, as in its paper, and score each step.

    Ablations of tgdd and ast are known.
    """
    config = configure(DistillConfig, *preset_layers(preset, said))
    if config.method not in (known := TABLES["ablation"].names):
        raise ValueError(f"--method {config.method}: no ablation is known; use one of {', '.join(known)}")
    evaluation = configure(EvaluateConfig, scoring)
    folder = out or Path("runs") / f"{Path(config.data.dataset).name}-{config.method}-ipc{config.ipc}-ablation"
    check_folders(folder)
    check_buffers([buffer])
    from raydd.api.ablation import ablate as score_parts
    from raydd.io.console import Screen

    screen = Screen(as_json)
    scores = score_parts(config, folder, evaluation, buffer=buffer, where=where, screen=screen)
    show_scores(screen, scores, {name: str(folder / name) for name in ("ablation.png", "ablation.json")})
