"""The commands that search settings: tune, spaces."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydd.cli.flags import Buffer, Flags, Machine, Output, command, offer
from raydd.cli.output import files_of, lines_of, show
from raydd.cli.paths import fetched, writable
from raydd.config.fields import configure
from raydd.config.names import PLUGIN_SPACES, find_space, search_spaces
from raydd.config.parsing import Tree
from raydd.config.schema import DistillConfig, EvaluateConfig

if TYPE_CHECKING:
    from raydd.io.console import Screen

app = typer.Typer()
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
SCORING = Flags(EvaluateConfig, "seeds protocol epochs real_epochs", {"real_epochs": 0}, settable=False)
_SPACE = typer.Option(
    help="Name that `raydd spaces` lists, or a YAML file or its URI.",
    autocompletion=offer(search_spaces),
    callback=fetched,
)
_SAMPLES = typer.Option(min=1, help="Total number of trials, with those done; the space's own number by default.")
_OUT = typer.Option(help="Folder or URI of the search; by default a folder below runs/.", callback=writable)
_CONCURRENT = typer.Option(min=1, help="Trials at the same time; by default as many as fit.")


@command(app, "raydd tune --space datm_digits --num-samples 8 --out runs/tune", main="space num_samples out")
def tune(  # noqa: PLR0913, PLR0917 - one a flag
    values: Annotated[Tree, Flags(DistillConfig, "data.dataset experts.network seed")],
    scoring: Annotated[Tree, SCORING],
    where: Machine,
    screen: Output,
    space: Annotated[str | None, _SPACE] = None,
    num_samples: Annotated[int | None, _SAMPLES] = None,
    out: Annotated[str | None, _OUT] = None,
    max_concurrent: Annotated[int | None, _CONCURRENT] = None,
    time_budget: Annotated[str | None, typer.Option(help="Stop after this long, such as 900, 15m or 2h.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the search in --out.")] = False,
    buffer: Buffer = None,
    gpus_per_trial: Annotated[float | None, typer.Option(help="GPUs per trial, such as 0.25.")] = None,
    mlflow: Annotated[str | None, typer.Option(help="MLflow address or folder that gets the results too.")] = None,
    wandb: Annotated[str | None, typer.Option(help="Weights & Biases project that gets the results too.")] = None,
) -> None:
    """Search for the best settings of a method: many trials on Ray Tune, scored on validation images.

    The best trial is scored on the test images.
    """
    configure(DistillConfig, values, partial=True)
    if not (scored := scoring.get("seeds") != 0):
        del scoring["seeds"]
    evaluation = configure(EvaluateConfig, scoring)
    if space is not None:
        find_space(space)
    elif not resume or out is None or ("://" not in out and not (Path(out) / "space.yaml").exists()):
        raise ValueError("--space is missing: name one, such as datm_digits, or --resume with the --out of one")
    local = Path(out) if out is not None and "://" not in out else None  # a URI is asked later
    if local and not resume and any((local / name).exists() for name in ("space.yaml", "study.journal")):
        raise ValueError(f"{out} holds a search already; go on with --resume, or name another --out")
    options: dict[str, Any] = {
        "num_samples": num_samples,
        "max_concurrent": max_concurrent,
        "time_budget": None if time_budget is None else seconds_of(time_budget),
        "gpus_per_trial": gpus_per_trial,
        "mlflow": mlflow,
        "wandb": wandb,
        "buffer": buffer,
        "settings": values,
    }
    options = {key: value for key, value in options.items() if value is not None}
    options["evaluation"] = evaluation if scored else None
    from raydd.api.tune import tune as search

    show_results(screen, search(space, out, resume=resume, where=where, screen=screen, **options))


@command(app, "raydd spaces")
def spaces(screen: Output) -> None:
    """List the search spaces of raydd and of plugins, and the settings that each searches."""
    from raydd.tuning.space_files import load_space

    document = {name: list(load_space(name).domains) for name in [*search_spaces(), *PLUGIN_SPACES.load()]}
    lines = lines_of({f"{name:26}": ", ".join(keys) for name, keys in document.items()})
    show(screen, {"spaces": document}, lines)


def show_results(screen: "Screen", results: Any) -> None:
    """Show the best trial, its scores, and where everything is."""
    from raydd.figures.score_tables import matrix_table
    from raydd.figures.trial_tables import settings_text

    outputs = {name: str(path) for name, path in results.outputs.items()}
    best, trials = results.best, results.trials
    counts = {state: sum(trial.state == state for trial in trials) for state in sorted({t.state for t in trials})}
    record = None if best is None else {"trial": best.number, "values": best.values, "validation": best.metrics}
    document = {
        "trials": counts,
        "best": record,
        "scores": [score.to_document() for score in results.scores],
        "outputs": outputs,
    }
    lines = [", ".join(f"{count} {state}" for state, count in counts.items())]
    if best is not None:
        accuracy = f"{100 * best.metrics['accuracy']:.1f} % on validation images"
        lines.append(f"best: trial {best.number}, {accuracy}: {settings_text(best.values)}")
    tables = [matrix_table(list(results.scores))] if results.scores else []
    show(screen, document, lines + files_of(outputs), tables)


def seconds_of(text: str) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: The text is no duration.

    >>> seconds_of("90"), seconds_of("15m"), seconds_of("1.5h")
    (90.0, 900.0, 5400.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise ValueError(f"--time-budget {text!r} is no duration; use seconds, or such as 15m or 2h")
    return float(match[1]) * UNITS[match[2]]
