"""The command that ranks architectures by proxy sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydd.cli.flags import Flags, Fresh, Output, Sets, TrainingMachine, command
from raydd.cli.output import end, files_of, show, with_missing
from raydd.cli.paths import existing_or_uri, local_paths, output, row_names, writable
from raydd.config.fields import configure
from raydd.config.nas import NasConfig
from raydd.config.parsing import Tree
from raydd.config.schema import EvaluateConfig

if TYPE_CHECKING:
    from raydd.io.console import Screen

app = typer.Typer()


NAS = "space sample real_epochs cells seeds top protocol epochs real split baselines"
MORE = "asha first_rung reduction dataset seed"
_OUT = "Folder or URI for the numbers and the figure; by default a folder below runs/."


@command(
    app,
    "raydd nas runs/digits/synset.arrow --space convnet720 --sample 60 --real-epochs 10",
    main="space sample real_epochs",
)
def nas(
    synsets: Sets,
    values: Annotated[Tree, Flags(NasConfig, f"{NAS} {MORE}")],
    reading: Annotated[Tree, Flags(EvaluateConfig, "preprocessing lr layout=format", settable=False)],
    where: TrainingMachine,
    screen: Output,
    fresh: Fresh = False,
    out: Annotated[str | None, typer.Option(help=_OUT, callback=writable)] = None,
) -> None:
    """Rank network architectures by training them on synthetic sets, and compare with their ranking on real images."""
    config = configure(NasConfig, values)
    files = configure(EvaluateConfig, reading, {"dataset": config.dataset} if config.dataset else {})
    if config.real not in (None, "none"):
        existing_or_uri(config.real, "--real takes a real.json, or a CSV of architecture,accuracy")
    from raydd.api.evaluate import load_set
    from raydd.api.nas import rank_architectures
    from raydd.interop.layouts import detect

    paths = local_paths(synsets, screen.note)
    for path in paths:
        detect(path, files.layout)
    loaded = [load_set(path, files, screen).synset for path in paths]
    stem = f"{Path(config.dataset or loaded[0].dataset).name}-{Path(config.space).stem}-nas"
    place = out or f"runs/{stem}"
    names = None if len(loaded) == 1 else row_names(synsets)
    document, missing = with_missing(
        lambda: rank_architectures(loaded, config, place, names=names, fresh=fresh, where=where, screen=screen)
    )
    show_ranking(screen, document, place)
    end(screen, missing)


def show_ranking(screen: "Screen", document: dict[str, Any], place: str) -> None:
    """Show the table, each proxy's winner, and where everything is."""
    from raydd.figures.cells import percent, rows_table
    from raydd.figures.ranking import agreement_rows, agreement_title
    from raydd.io.console import clock

    files = ["nas.json", "ranking.csv", *(["nas.png"] if document["real"] else [])]
    files += ["real.json"] if document["real_epochs"] else []
    outputs = {name: output(place, name) for name in files}
    lines = []
    for proxy in document["proxies"]:
        best, stopped = proxy["winner"], len(proxy["stopped"])
        line = f"{proxy['name']}: the best is {best['architecture']}, {percent(best['accuracy'])} %"
        if document["real"]:
            short = f"{percent(best['regret'])} below the best of all"
            line += f"; trained on real data {percent(best['real_accuracy'])} %, {short}"
        lines.append(line + (f"; {stopped} of {document['architectures']} stopped early" if document["rungs"] else ""))
    if document["real"]:
        name, value = max(document["real"].items(), key=lambda item: item[1])
        seconds = document["real_seconds"]
        time = "" if seconds is None else f"; all took {clock(seconds)}"
        lines.append(f"real data: the best is {name}, {percent(value)} %{time}")
    rows = agreement_rows(document)
    tables = [rows_table(agreement_title(document), rows, upright=True)] if rows else []
    show(screen, document | {"outputs": outputs}, lines + files_of(outputs), tables)
