"""The command that scores synthetic sets as memories of class-incremental learning."""

from pathlib import Path
from typing import Annotated, Any

import typer

from raydd.cli.evaluate import Fresh, Layout, Sets, Space, StepSize
from raydd.cli.options import (
    Address,
    AsJson,
    DatasetOption,
    DeviceOption,
    Seed,
    Settings,
    Workers,
    dataset_word,
    given,
    known_device,
    listed,
    row_names,
    whole_numbers,
)

app = typer.Typer()


@app.command(epilog="Example: raydd continual runs/cifar100/synset.arrow --steps 5,10 --nets ConvNet --protocol dm")
def continual(  # noqa: PLR0913, PLR0917 - one a flag
    synsets: Sets,
    steps: Annotated[str, typer.Option(help="In how many steps the classes come; several with commas.")] = "5,10",
    dataset: DatasetOption = None,
    nets: Annotated[str | None, typer.Option(help="Networks, with commas; none takes the experts'.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs, each with a class order and networks of its own.")] = 5,
    protocol: Annotated[
        str, typer.Option(help="mtt, datm, ast, dm, dcbench, tgdd, or a YAML file of a protocol's fields.")
    ] = "mtt",
    baselines: Annotated[
        str, typer.Option(help="Selections beside the sets, with commas, or none.")
    ] = "random,herding",
    buffer: Annotated[str | None, typer.Option(help="Experts: herding and k-center by features; forgetting.")] = None,
    preprocessing: Space = None,
    lr: StepSize = None,
    format: Layout = None,
    fresh: Fresh = False,
    seed: Seed = 0,
    settings: Settings = None,
    num_workers: Workers = None,
    out: Annotated[Path, typer.Option(help="A folder for continual.json and continual.png.")] = Path("runs/continual"),
    address: Address = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Let classes come in steps; train a fresh network a step on the synthetic images of all classes seen."""
    from raydd.api.continual import evaluate_continual
    from raydd.config.parsing import build, parse_settings
    from raydd.config.placement import Where
    from raydd.config.schema import EvaluateConfig
    from raydd.interop.layouts import detect
    from raydd.io.console import Screen

    screen, counts = Screen(as_json), whole_numbers(steps, "--steps")
    for path in synsets:
        detect(path, format)
    flags = given(dataset=dataset and dataset_word(dataset), baselines=listed(baselines))
    flags |= given(preprocessing=preprocessing, lr=lr, layout=format)
    flags |= {"networks": listed(nets) or (), "seeds": seeds, "seed": seed, "protocol": protocol}
    document = evaluate_continual(
        synsets,
        build(EvaluateConfig, flags, parse_settings(settings or ())),
        out,
        steps=counts,
        names=None if len(synsets) == 1 else row_names(synsets),
        buffer=buffer,
        where=Where(num_workers, address, known_device(device)),
        screen=screen,
        fresh=fresh,
    )
    show_continual(screen, document, out)


def show_continual(screen: Any, document: dict[str, Any], out: Path) -> None:
    """A table a number of steps, and where everything is."""
    from raydd.figures.continual import continual_tables

    outputs = {name: str(out / name) for name in ("continual.png", "continual.json")}

    def show(console: Any) -> None:
        for table in continual_tables(document):
            console.print(table)
        for name, path in outputs.items():
            console.print(f"{name}: {path}", markup=False)

    screen.result(document | {"outputs": outputs}, show)
