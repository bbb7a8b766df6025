"""The command that searches settings."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from raydd.cli.options import (
    Address,
    AsJson,
    DatasetOption,
    DeviceOption,
    Settings,
    Workers,
    dataset_word,
    given,
    known_device,
)

app = typer.Typer()
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@app.command(epilog="Example: raydd tune --space datm_digits --num-samples 8 --out runs/tune")
def tune(  # noqa: PLR0913, PLR0917 - one a flag
    space: Annotated[str | None, typer.Option(help="A name of `raydd spaces`, or a YAML file.")] = None,
    num_samples: Annotated[int | None, typer.Option(help="Trials in the end; the space's own number if none.")] = None,
    max_concurrent: Annotated[int | None, typer.Option(help="Trials at once; as many as fit if none.")] = None,
    time_budget: Annotated[str | None, typer.Option(help="Stop after this long, such as 900, 15m or 2h.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in --out.")] = False,
    dataset: DatasetOption = None,
    network: Annotated[str | None, typer.Option(help="The experts' network.")] = None,
    buffer: Annotated[
        str | None, typer.Option(help="Experts: a folder or an URI; none uses or makes the cache's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The search folder.")] = None,
    seed: Annotated[int | None, typer.Option(help="Every draw comes from it; the space's own if none.")] = None,
    settings: Settings = None,
    gpus_per_trial: Annotated[float | None, typer.Option(help="GPUs a trial, such as 0.25.")] = None,
    num_workers: Workers = None,
    seeds: Annotated[int, typer.Option(help="Fresh networks that score the best on the test images; 0: none.")] = 5,
    protocol: Annotated[str, typer.Option(help="mtt, datm, ast, dm, dcbench or tgdd, of that score.")] = "mtt",
    epochs: Annotated[int | None, typer.Option(help="Epochs of that score; the protocol's if none.")] = None,
    real_epochs: Annotated[int, typer.Option(help="Epochs on the whole data beside it; 0 leaves it out.")] = 0,
    mlflow: Annotated[str | None, typer.Option(help="Send results to this MLflow address or folder too.")] = None,
    wandb: Annotated[str | None, typer.Option(help="Send results to this Weights & Biases project too.")] = None,
    address: Address = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Search a method's settings on validation images with Ray Tune, and score the best on the test images."""
    from raydd.api.tune import tune as search
    from raydd.config.parsing import build, merge, parse_settings
    from raydd.config.placement import Where
    from raydd.config.schema import EvaluateConfig
    from raydd.io.console import Screen

    said: dict[str, Any] = given(seed=seed)
    said |= {"data": given(dataset=dataset and dataset_word(dataset)), "experts": given(network=network)}
    merge(said, parse_settings(settings or ()))
    scoring = {"seeds": seeds, "protocol": protocol, "epochs": epochs, "real_epochs": real_epochs}
    options = given(
        num_samples=num_samples,
        max_concurrent=max_concurrent,
        time_budget=None if time_budget is None else seconds_of(time_budget),
        gpus_per_trial=gpus_per_trial,
        mlflow=mlflow,
        wandb=wandb,
        buffer=buffer,
        settings={key: value for key, value in said.items() if value != {}},
    )
    screen, where = Screen(as_json), Where(num_workers, address, known_device(device))
    options["evaluation"] = build(EvaluateConfig, scoring) if seeds else None
    show_results(screen, search(space, out, resume=resume, where=where, screen=screen, **options))


@app.command(epilog="Example: raydd spaces")
def spaces(as_json: AsJson = False) -> None:
    """List the search spaces that are shipped."""
    from raydd.cli.options import printer
    from raydd.io.console import Screen
    from raydd.tuning.space_files import PLUGIN_SPACES, load_space, shipped_spaces

    document = {name: list(load_space(name).domains) for name in [*shipped_spaces(), *PLUGIN_SPACES.load()]}
    lines = {f"{name:26}": ", ".join(keys) for name, keys in document.items()}
    Screen(as_json).result({"spaces": document}, printer(lines))


def show_results(screen: Any, results: Any) -> None:
    """The best trial, its scores, and where everything is."""
    from raydd.figures.score_tables import score_table
    from raydd.figures.trial_tables import settings_text

    outputs = {name: str(path) for name, path in results.outputs.items()}
    best, trials = results.best, results.trials
    counts = {state: sum(trial.state == state for trial in trials) for state in sorted({t.state for t in trials})}
    found = None if best is None else {"trial": best.number, "values": best.values, "validation": best.metrics}
    document = {
        "trials": counts,
        "best": found,
        "scores": [score.to_document() for score in results.scores],
        "outputs": outputs,
    }

    def show(console: Any) -> None:
        console.print(", ".join(f"{count} {state}" for state, count in counts.items()), markup=False)
        if best is not None:
            found = f"{100 * best.metrics['accuracy']:.1f} % on validation images"
            console.print(f"best: trial {best.number}, {found}: {settings_text(best.values)}", markup=False)
        if results.scores:
            console.print(score_table(list(results.scores)))
        for name, path in outputs.items():
            console.print(f"{name}: {path}", markup=False)

    screen.result(document, show)


def seconds_of(text: str) -> float:
    """A duration in seconds.

    Raises:
        ValueError: If it is none.

    >>> seconds_of("90"), seconds_of("15m"), seconds_of("1.5h")
    (90.0, 900.0, 5400.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise ValueError(f"--time-budget {text!r} is no duration; use seconds, or such as 15m or 2h")
    return float(match[1]) * UNITS[match[2]]
