"""The main job's commands: quickstart, experts, distill."""

from pathlib import Path
from typing import Annotated, Any

import typer

from raydd.cli.options import (
    Address,
    AsJson,
    DatasetOption,
    DeviceOption,
    GpusPerWorker,
    Seed,
    Settings,
    Workers,
    dataset_word,
    given,
    known_device,
    show_document,
    show_scores,
    window_words,
)

app = typer.Typer()


@app.command(epilog="Example: raydd quickstart --out runs/quickstart")
def quickstart(
    out: Annotated[Path, typer.Option(help="The run folder; a second run goes on with the first.")] = Path(
        "runs/quickstart"
    ),
    seed: Seed = 0,
    settings: Settings = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Experts, a distilled set, its scores and a report, on the bundled digits: the whole job in a few minutes."""
    from raydd.api.distill import distill as distill_set
    from raydd.api.evaluate import evaluate, save_scores
    from raydd.api.experts import train_experts
    from raydd.config.parsing import build, parse_settings
    from raydd.config.placement import Where
    from raydd.config.presets import load_preset
    from raydd.config.schema import DistillConfig, ExpertsConfig
    from raydd.data.workspace import resolve_device
    from raydd.io.console import Screen
    from raydd.io.lock import alone
    from raydd.methods import complete
    from raydd.report.build import write_report
    from raydd.run.resolve import check_names, check_run

    screen, where = Screen(as_json), Where(num_workers=2, device=known_device(device))
    config = complete(
        build(DistillConfig, load_preset("digits", "mtt", 1), {"seed": seed}, parse_settings(settings or ()))
    )
    with alone(out, "raydd quickstart", screen.note):
        check_names(config)
        check_run(config, resolve_device(where.device))
        experts = ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)
        buffer = train_experts(experts, out / "buffer", where=where, screen=screen)
        synset = distill_set(config, out, buffer=buffer, resume=True, where=where, screen=screen)
        scores = evaluate([synset], where=where, screen=screen)
        save_scores(scores, out / "scores.json")
        outputs = {name: str(out / name) for name in ("config.yaml", "metrics.jsonl", "synset.arrow", "synset.png")}
        outputs |= {"buffer": str(buffer), "scores.json": str(out / "scores.json")}
        with screen.doing("writing the report"):
            outputs |= {"report": str(write_report([out], out / "report.html"))}
    show_scores(screen, scores, outputs)
    if not as_json:
        screen.say(f"open {outputs['report']}")


@app.command(epilog="Example: raydd experts --dataset digits --num-experts 20 --num-workers 2")
def experts(  # noqa: PLR0913, PLR0917 - one a flag
    dataset: DatasetOption = None,
    network: Annotated[str | None, typer.Option(help="For example ConvNetW32, ConvNetD4, ResNet18.")] = None,
    num_experts: Annotated[int | None, typer.Option(help="Experts the buffer shall hold.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs an expert.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, momentum, gsam or smooth.")] = None,
    num_workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    out: Annotated[str | None, typer.Option(help="The buffer's folder or URI; none takes the cache's.")] = None,
    seed: Seed = 0,
    settings: Settings = None,
    address: Address = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Train expert networks in parallel into a trajectory buffer; again trains only what is missing."""
    from raydd.api.experts import train_experts
    from raydd.buffer.describe import describe_place
    from raydd.config.parsing import build, parse_settings
    from raydd.config.placement import Where
    from raydd.config.schema import ExpertsConfig
    from raydd.io.console import Screen
    from raydd.io.filesystem import shown

    flags = {
        "data": given(dataset=dataset and dataset_word(dataset)),
        "experts": given(network=network, num_experts=num_experts, epochs=epochs, optimizer=optimizer),
        "seed": seed,
    }
    config = build(ExpertsConfig, flags, parse_settings(settings or ()))
    screen = Screen(as_json)
    where = Where(num_workers, address, known_device(device), gpus_per_worker)
    place = train_experts(config, out, where=where, screen=screen)
    show_document(screen, describe_place(place) | {"outputs": {"buffer": shown(str(place))}})


@app.command(epilog="Example: raydd distill --method mtt --dataset digits --ipc 1 --out runs/digits")
def distill(  # noqa: PLR0913, PLR0917 - one a flag
    method: Annotated[str | None, typer.Option(help="A name of docs/methods.md; mtt by default.")] = None,
    dataset: DatasetOption = None,
    network: Annotated[str | None, typer.Option(help="The experts' network.")] = None,
    ipc: Annotated[int | None, typer.Option(help="Synthetic images a class; 1 by default.")] = None,
    buffer: Annotated[
        str | None, typer.Option(help="Experts: a folder or an URI; none uses or makes the cache's.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A shipped preset such as cifar10/mtt, or a YAML file.")] = None,
    rollouts: Annotated[int | None, typer.Option(help="Segments an outer step, averaged; spread over workers.")] = None,
    window: Annotated[str | None, typer.Option(help="Start epochs T-:T+ or T-:T:T+; auto finds them by trial.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the folder's run stopped.")] = False,
    num_workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    seed: Annotated[int | None, typer.Option(help="Every draw comes from it; 0 by default.")] = None,
    settings: Settings = None,
    address: Address = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Distill a synthetic set that students learn from as experts learn from the real one."""
    from raydd.api.distill import distill as distill_set
    from raydd.config.parsing import build, parse_settings
    from raydd.config.placement import Where
    from raydd.config.presets import preset_layers
    from raydd.config.schema import DistillConfig
    from raydd.io.console import Screen

    flags: dict[str, Any] = given(method=method, ipc=ipc, seed=seed, rollouts=rollouts)
    flags |= {"data": given(dataset=dataset and dataset_word(dataset)), "experts": given(network=network)}
    flags |= {"window": window_words(window)}
    config = build(DistillConfig, *preset_layers(preset, flags, parse_settings(settings or ())))
    folder = out or Path("runs") / f"{Path(config.data.dataset).name}-{config.method}-ipc{config.ipc}"
    screen = Screen(as_json)
    where = Where(num_workers, address, known_device(device), gpus_per_worker)
    synset = distill_set(config, folder, buffer=buffer, resume=resume, where=where, screen=screen)
    names = ("config.yaml", "metrics.jsonl", "synset.arrow", "synset.png")
    document = {
        "method": config.method,
        "dataset": synset.dataset,
        "ipc": synset.ipc,
        "lr": float(synset.lr),
        "outputs": {name: str(folder / name) for name in names},
    }
    screen.result(document, lambda console: console.print(f"wrote {folder / 'synset.arrow'} and its picture"))


@app.command(epilog="Example: raydd finish runs/digits")
def finish(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    buffer: Annotated[
        str | None, typer.Option(help="The run's experts, a folder or a URI, where it was told them; else the cache's.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Make a set of an unfinished run's checkpoint; `raydd distill --resume` still goes on with the run."""
    from raydd.io.console import Screen
    from raydd.run.run_folder import read_config
    from raydd.run.unfinished import finish as make_set

    screen = Screen(as_json)
    synset, step = make_set(run, buffer=buffer, device=known_device(device), screen=screen)
    config = read_config(run)
    steps = config.steps if config else step
    outputs = {name: str(run / name) for name in ("synset.arrow", "synset.png")}
    document = {"dataset": synset.dataset, "ipc": synset.ipc, "step": step, "steps": steps, "outputs": outputs}
    line = f"{outputs['synset.arrow']}: the set at step {step} of {steps}"
    screen.result(document, lambda console: console.print(line, markup=False))
