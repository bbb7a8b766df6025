"""The command that takes a method apart."""

from pathlib import Path
from typing import Annotated

import typer

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
    show_scores,
)

app = typer.Typer()


@app.command(epilog="Example: raydd ablate --method tgdd --dataset digits --ipc 10 --out runs/ablation")
def ablate(  # noqa: PLR0913, PLR0917 - one a flag
    method: Annotated[str, typer.Option(help="tgdd or ast.")] = "tgdd",
    dataset: DatasetOption = None,
    network: Annotated[str | None, typer.Option(help="The experts' network.")] = None,
    ipc: Annotated[int, typer.Option(help="Synthetic images a class.")] = 1,
    buffer: Annotated[
        str | None, typer.Option(help="Experts: a folder or an URI; none uses or makes the cache's.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A shipped preset such as cifar10/tgdd, or a YAML file.")] = None,
    seeds: Annotated[int, typer.Option(help="Fresh networks a row.")] = 5,
    protocol: Annotated[str, typer.Option(help="mtt, datm, ast, dm, dcbench or tgdd.")] = "mtt",
    epochs: Annotated[int | None, typer.Option(help="Epochs on a synthetic set; none takes the protocol's.")] = None,
    real_epochs: Annotated[int | None, typer.Option(help="Epochs on the whole data.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder; again goes on where it stopped.")] = None,
    num_workers: Workers = None,
    seed: Seed = 0,
    settings: Settings = None,
    address: Address = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Distill a method part by part, as its paper's ablation does, and score every row alike."""
    from raydd.api.ablation import ablate as take_apart
    from raydd.config.parsing import build, parse_settings
    from raydd.config.placement import Where
    from raydd.config.presets import preset_layers
    from raydd.config.schema import DistillConfig, EvaluateConfig
    from raydd.io.console import Screen

    flags = {"method": method, "ipc": ipc, "seed": seed}
    flags |= {"data": given(dataset=dataset and dataset_word(dataset)), "experts": given(network=network)}
    config = build(DistillConfig, *preset_layers(preset, flags, parse_settings(settings or ())))
    scoring = {"seeds": seeds, "protocol": protocol, "epochs": epochs, "real_epochs": real_epochs}
    evaluation = build(EvaluateConfig, scoring)
    folder = out or Path("runs") / f"{Path(config.data.dataset).name}-{config.method}-ipc{config.ipc}-ablation"
    screen, where = Screen(as_json), Where(num_workers, address, known_device(device))
    scores = take_apart(config, folder, evaluation, buffer=buffer, where=where, screen=screen)
    show_scores(screen, scores, {name: str(folder / name) for name in ("ablation.png", "ablation.json")})
