"""The command `raydd try`."""

from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import Flags, Output, SharedMachine, command
from raydd.cli.output import show
from raydd.cli.paths import output, writable
from raydd.config.fields import configure
from raydd.config.parsing import Tree
from raydd.config.schema import ExpertsConfig
from raydd.figures.cells import spread

app = typer.Typer()
_OUT = "Folder or URI; by default a folder below runs/."
_MINUTES = "Time to aim at on this machine, in minutes; what is begun is finished."
_DATA = Flags(ExpertsConfig, "data.dataset data.size seed", settable=False)


@command(app, "raydd try --dataset ./photos --minutes 5", name="try", main="dataset minutes")
def try_(
    values: Annotated[Tree, _DATA],
    where: SharedMachine,
    screen: Output,
    minutes: Annotated[float, typer.Option(help=_MINUTES)] = 5.0,
    out: Annotated[str | None, typer.Option(help=_OUT, callback=writable)] = None,
) -> None:
    """Find out in a few minutes whether distillation pays off on your own images, and what to run next.

    Distills with two methods, compares their test accuracy with that of randomly chosen images and of k-means, and
    writes a report. A folder of images has one folder per class.
    """
    config = configure(ExpertsConfig, values)
    place = out or f"runs/{Path(config.data.dataset).name}-try"
    from raydd.api.first_answer import first_answer
    from raydd.buffer.local_path import local_path
    from raydd.report.build import write_report

    answer = first_answer(config.data, minutes, place, seed=config.seed, where=where, screen=screen)
    with screen.doing("writing the report"):
        write_report([local_path(place)], output(place, "report.html"), [place])
    lines = [f"{name:8} {spread(row['mean'], row['std'])} %" for name, row in answer["accuracy"].items()]
    lines = ["test accuracy of networks trained on " + f"{answer['ipc']} image(s) a class:", *lines]
    lines += [f"best on held-out images: {answer['best']}", "next:", *(f"  {words}" for words in answer["next"])]
    outputs = {"report": output(place, "report.html"), "tables": output(place, "campaign.json")}
    show(screen, answer | {"outputs": outputs}, [*lines, f"open {outputs['report']}"])
