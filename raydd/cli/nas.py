"""The command that ranks architectures by proxy sets."""

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


@app.command(epilog="Example: raydd nas runs/digits/synset.arrow --space convnet720 --sample 60 --real-epochs 10")
def nas(  # noqa: PLR0913, PLR0917 - one a flag
    synsets: Sets,
    space: Annotated[str, typer.Option(help="convnet720, nasbench201, or a YAML file of rows.")] = "convnet720",
    cells: Annotated[int | None, typer.Option(help="Cells of a stage of nasbench201; 5 if none.")] = None,
    sample: Annotated[int | None, typer.Option(help="Architectures drawn from the space; all if none.")] = None,
    seeds: Annotated[int, typer.Option(help="Fresh networks an architecture and set.")] = 1,
    top: Annotated[str, typer.Option(help="Sizes of the tops, with commas.")] = "5,10,20",
    protocol: Annotated[str, typer.Option(help="mtt, datm, ast, dm, dcbench, tgdd, or a YAML file.")] = "dm",
    epochs: Annotated[int | None, typer.Option(help="Epochs on a proxy set; the protocol's if none.")] = None,
    real_epochs: Annotated[int | None, typer.Option(help="Epochs on the whole data; the protocol's if none.")] = None,
    real: Annotated[
        str | None, typer.Option(help="A real.json, or CSV of architecture,accuracy; none ranks by proxy alone.")
    ] = None,
    split: Annotated[str, typer.Option(help="Images the proxy sets rank on: validation or test.")] = "validation",
    baselines: Annotated[str, typer.Option(help="Selections of real images that rank too, or none.")] = "random",
    asha: Annotated[bool, typer.Option("--asha", help="Stop architectures early that are far from the best.")] = False,
    first_rung: Annotated[int | None, typer.Option(help="Epochs before the first are stopped.")] = None,
    reduction: Annotated[
        int | None, typer.Option(help="About one in so many goes on from each rung; 3 if none.")
    ] = None,
    dataset: DatasetOption = None,
    preprocessing: Space = None,
    lr: StepSize = None,
    format: Layout = None,
    fresh: Fresh = False,
    seed: Seed = 0,
    settings: Settings = None,
    num_workers: Workers = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the numbers and the figure.")] = None,
    address: Address = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Rank architectures by training them on synthetic sets, and compare with the ranking by real data."""
    from raydd.api.evaluate import opened
    from raydd.api.nas import rank_architectures
    from raydd.config.nas import NasConfig
    from raydd.config.parsing import build, parse_settings
    from raydd.config.placement import Where
    from raydd.config.schema import EvaluateConfig
    from raydd.interop.layouts import detect
    from raydd.io.console import Screen

    flags = given(dataset=dataset and dataset_word(dataset), cells=cells, sample=sample, real=real)
    flags |= given(epochs=epochs, real_epochs=real_epochs, first_rung=first_rung, reduction=reduction)
    flags |= {"space": space, "seeds": seeds, "seed": seed, "protocol": protocol, "split": split}
    flags |= {"baselines": listed(baselines), "asha": asha, "top": whole_numbers(top, "--top")}
    config = build(NasConfig, flags, parse_settings(settings or ()))
    reading = given(dataset=config.dataset, preprocessing=preprocessing, lr=lr, layout=format)
    screen, files = Screen(as_json), build(EvaluateConfig, reading)
    for path in synsets:
        detect(path, format)
    loaded = [opened(path, files, screen).synset for path in synsets]
    stem = f"{Path(config.dataset or loaded[0].dataset).name}-{Path(config.space).stem}-nas"
    document = rank_architectures(
        loaded,
        config,
        folder := out or Path("runs") / stem,
        names=None if len(loaded) == 1 else row_names(synsets),
        fresh=fresh,
        where=Where(num_workers, address, known_device(device)),
        screen=screen,
    )
    show_ranking(screen, document, folder)


def show_ranking(screen: Any, document: dict[str, Any], folder: Path) -> None:
    """The table, each proxy's winner, and where everything is."""
    from raydd.figures.ranking import ranking_table
    from raydd.figures.score_tables import percent

    files = ["nas.json", "ranking.csv", *(["nas.png"] if document["real"] else [])]
    files += ["real.json"] if document["real_epochs"] else []
    outputs = {name: str(folder / name) for name in files}

    def show(console: Any) -> None:
        if document["real"]:
            console.print(ranking_table(document))
        for proxy in document["proxies"]:
            best, stopped = proxy["winner"], len(proxy["stopped"])
            line = f"{proxy['name']}: the best is {best['architecture']}, {percent(best['accuracy'])} %"
            if document["real"]:
                short = f"{percent(best['regret'])} below the best of all"
                line += f"; trained on real data {percent(best['real_accuracy'])} %, {short}"
            ended = f"; {stopped} of {document['architectures']} stopped early" if document["rungs"] else ""
            console.print(line + ended, markup=False)
        if document["real"]:
            name, value = max(document["real"].items(), key=lambda found: found[1])
            console.print(f"real data: the best is {name}, {percent(value)} %", markup=False)
        for name, path in outputs.items():
            console.print(f"{name}: {path}", markup=False)

    screen.result(document | {"outputs": outputs}, show)
