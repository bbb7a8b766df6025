"""The command line: words to calls, no maths."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import click
import typer

app = typer.Typer(
    name="raydd",
    help="Distributed dataset distillation: experts, synthetic sets and honest scores, on Ray.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
buffer_app = typer.Typer(help="Look into trajectory buffers.", no_args_is_help=True)
app.add_typer(buffer_app, name="buffer")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as a.b=value; may be repeated.")]
Seed = Annotated[int, typer.Option(help="Every draw comes from it.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster; none starts a local Ray.")]
Workers = Annotated[int | None, typer.Option(help="Ray workers; as many as fit are started.")]
DatasetOption = Annotated[str | None, typer.Option(help="A name of `raydd datasets`, or a path.")]


def _known_device(device: str) -> str:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device!r}: use auto, cpu or cuda")
    return device


def _dataset(name: str) -> str:
    """A registered name as it is; a path made absolute, since workers run elsewhere."""
    from raydd.data.datasets import DATASETS  # noqa: PLC0415 - torch loads when a command runs

    return name if name in DATASETS or not Path(name).exists() else str(Path(name).absolute())


@app.command(epilog="Example: raydd quickstart --out runs/quickstart")
def quickstart(
    out: Annotated[Path, typer.Option(help="The run folder; a second run goes on with the first.")] = Path(
        "runs/quickstart"
    ),
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Experts, a distilled set and its scores, on the bundled digits: the whole job in a few minutes."""
    from raydd import api  # noqa: PLC0415 - torch loads when a command runs
    from raydd.config import DistillConfig, ExpertsConfig, build, load_preset  # noqa: PLC0415
    from raydd.console import Screen  # noqa: PLC0415

    screen = Screen(as_json)
    config = build(DistillConfig, load_preset("digits", "mtt", 1))
    experts = ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)
    buffer = api.train_experts(experts, out / "buffer", num_workers=2, device=_known_device(device), screen=screen)
    synset = api.distill(config, out, buffer=buffer, resume=True, device=device, screen=screen)
    scores = api.evaluate([synset], num_workers=2, device=device, screen=screen)
    api.save_scores(scores, out / "scores.json")
    outputs = {name: str(out / name) for name in ("config.yaml", "metrics.jsonl", "synset.arrow", "synset.png")}
    _show_scores(screen, scores, outputs | {"buffer": str(buffer), "scores.json": str(out / "scores.json")})


@app.command(epilog="Example: raydd experts --dataset digits --num-experts 20 --num-workers 2")
def experts(  # noqa: PLR0913, PLR0917 - one a flag
    dataset: DatasetOption = None,
    network: Annotated[str | None, typer.Option(help="For example ConvNetW32, ConvNetD4, ResNet18.")] = None,
    num_experts: Annotated[int | None, typer.Option(help="Experts the buffer shall hold.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs an expert.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or momentum.")] = None,
    num_workers: Workers = None,
    out: Annotated[Path | None, typer.Option(help="The buffer's folder; none takes the cache's.")] = None,
    seed: Seed = 0,
    settings: Settings = None,
    address: Address = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Train expert networks in parallel into a trajectory buffer; again trains only what is missing."""
    from raydd import api  # noqa: PLC0415 - torch loads when a command runs
    from raydd.config import ExpertsConfig, build, parse_settings  # noqa: PLC0415
    from raydd.console import Screen  # noqa: PLC0415
    from raydd.data.buffer import describe  # noqa: PLC0415

    flags = {
        "data": _given(dataset=dataset and _dataset(dataset)),
        "experts": _given(network=network, num_experts=num_experts, epochs=epochs, optimizer=optimizer),
        "seed": seed,
    }
    config = build(ExpertsConfig, flags, parse_settings(settings or ()))
    screen = Screen(as_json)
    folder = api.train_experts(
        config, out, num_workers=num_workers, address=address, device=_known_device(device), screen=screen
    )
    document = describe(folder)
    _show_buffer(screen, document | {"outputs": {"buffer": str(folder)}})


@app.command(epilog="Example: raydd distill --method mtt --dataset digits --ipc 1 --out runs/digits")
def distill(  # noqa: PLR0913, PLR0917 - one a flag
    method: Annotated[str, typer.Option(help="A name of raydd.METHODS.")] = "mtt",
    dataset: DatasetOption = None,
    network: Annotated[str | None, typer.Option(help="The experts' network.")] = None,
    ipc: Annotated[int, typer.Option(help="Synthetic images a class.")] = 1,
    buffer: Annotated[Path | None, typer.Option(help="A folder of experts; none uses or makes the cache's.")] = None,
    preset: Annotated[str | None, typer.Option(help="A shipped preset such as cifar10/mtt, or a YAML file.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the folder's run stopped.")] = False,
    num_workers: Workers = None,
    seed: Seed = 0,
    settings: Settings = None,
    address: Address = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Distill a synthetic set that students learn from as experts learn from the real one."""
    from raydd import api  # noqa: PLC0415 - torch loads when a command runs
    from raydd.config import DistillConfig, build, dump, expand_preset, load_preset, parse_settings  # noqa: PLC0415
    from raydd.console import Screen  # noqa: PLC0415

    name = _dataset(dataset or "digits")
    values = expand_preset(preset, ipc) if preset else load_preset(name, method, ipc)
    flags: dict[str, Any] = {"method": method, "ipc": ipc, "seed": seed}
    flags |= {"data": _given(dataset=dataset and name), "experts": _given(network=network)}
    config = build(DistillConfig, values, flags, parse_settings(settings or ()))
    folder = out or Path("runs") / f"{Path(config.data.dataset).name}-{method}-ipc{ipc}"
    screen = Screen(as_json)
    screen.note(f"preset {config.preset}; settings: {' '.join(dump(config).split())}")
    synset = api.distill(
        config,
        folder,
        buffer=buffer,
        resume=resume,
        num_workers=num_workers,
        address=address,
        device=_known_device(device),
        screen=screen,
    )
    names = ("config.yaml", "metrics.jsonl", "synset.arrow", "synset.png")
    document = {
        "method": method,
        "dataset": synset.dataset,
        "ipc": synset.ipc,
        "lr": float(synset.lr),
        "outputs": {name: str(folder / name) for name in names},
    }
    screen.result(document, lambda console: console.print(f"wrote {folder / 'synset.arrow'} and its picture"))


@app.command(epilog="Example: raydd evaluate runs/digits/synset.arrow --nets ConvNetW32,MLP --seeds 5")
def evaluate(  # noqa: PLR0913, PLR0917 - one a flag
    synsets: Annotated[list[Path], typer.Argument(metavar="SYNSET...", help="Files synset.arrow.")],
    dataset: DatasetOption = None,
    nets: Annotated[str | None, typer.Option(help="Networks, with commas; none takes the experts'.")] = None,
    seeds: Annotated[int, typer.Option(help="Fresh networks a cell.")] = 5,
    protocol: Annotated[str, typer.Option(help="mtt, dm or dcbench.")] = "mtt",
    num_workers: Workers = None,
    out: Annotated[Path | None, typer.Option(help="Write the scores to this JSON file.")] = None,
    address: Address = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Train fresh networks on synthetic sets and test them, beside real images of the same number."""
    from raydd import api  # noqa: PLC0415 - torch loads when a command runs
    from raydd.console import Screen  # noqa: PLC0415
    from raydd.data.synset import SyntheticSet  # noqa: PLC0415

    screen = Screen(as_json)
    loaded = [SyntheticSet.load(path) for path in synsets]
    scores = api.evaluate(
        loaded,
        None if len(loaded) == 1 else [str(path) for path in synsets],
        dataset=dataset and _dataset(dataset),
        networks=[name for name in (nets or "").split(",") if name],
        seeds=seeds,
        protocol=protocol,
        num_workers=num_workers,
        address=address,
        device=_known_device(device),
        screen=screen,
    )
    outputs = {} if out is None else {"scores": str(api.save_scores(scores, out))}
    _show_scores(screen, scores, outputs)


@app.command(epilog="Example: raydd datasets digits")
def datasets(
    name: Annotated[str | None, typer.Argument(help="A name or path to load and describe; none lists names.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List the known data sets, or load one and describe it."""
    from raydd.config import DataConfig, build, parse_settings  # noqa: PLC0415 - torch loads when a command runs
    from raydd.console import Screen  # noqa: PLC0415
    from raydd.data.datasets import DATASETS, load_dataset  # noqa: PLC0415

    if name is None:
        listed = {key: {"classes": row.classes, "channels": row.channels, "size": row.size} for key, row in DATASETS.items()}
        lines = [f"{key:20} {row.classes:4} classes, {row.channels} x {row.size} x {row.size}" for key, row in DATASETS.items()]
        Screen(as_json).result({"datasets": listed}, lambda console: console.print("\n".join(lines)))
        return
    tree = parse_settings(settings or ()).get("data", {})
    config = build(DataConfig, {"dataset": name}, tree)
    data = load_dataset(config.dataset, size=config.size, validation=config.validation)
    document = {
        "name": data.name,
        "classes": list(data.classes),
        "channels": data.channels,
        "size": data.size,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "fingerprint": data.fingerprint,
        "note": data.note,
    }
    Screen(as_json).result(document, _printer(document))


@app.command(epilog="Example: raydd export runs/digits/synset.arrow --format png --out digits-png")
def export(
    synset: Annotated[Path, typer.Argument(help="A file synset.arrow.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    format: Annotated[str, typer.Option(help="png: one picture an image, in a folder a class.")] = "png",
    as_json: AsJson = False,
) -> None:
    """Write a synthetic set in another layout."""
    from raydd.console import Screen  # noqa: PLC0415 - torch loads when a command runs
    from raydd.data.synset import SyntheticSet  # noqa: PLC0415
    from raydd.report.picture import export_png  # noqa: PLC0415

    writers = {"png": export_png}
    if format not in writers:
        raise ValueError(f"--format {format!r} is unknown; use {', '.join(writers)}")
    paths = writers[format](SyntheticSet.load(synset), out)
    document = {"outputs": {"folder": str(out), "images": len(paths)}}
    Screen(as_json).result(document, lambda console: console.print(f"wrote {len(paths)} images to {out}"))


@buffer_app.command("info", epilog="Example: raydd buffer info runs/quickstart/buffer")
def buffer_info(folder: Annotated[Path, typer.Argument(help="A buffer.")], as_json: AsJson = False) -> None:
    """Say what a buffer holds."""
    from raydd.console import Screen  # noqa: PLC0415 - torch loads when a command runs
    from raydd.data.buffer import describe  # noqa: PLC0415

    _show_buffer(Screen(as_json), describe(folder))


@buffer_app.command("verify", epilog="Example: raydd buffer verify runs/quickstart/buffer")
def buffer_verify(folder: Annotated[Path, typer.Argument(help="A buffer.")], as_json: AsJson = False) -> None:
    """Read every byte of a buffer; exit code 1 when something is wrong."""
    from raydd.console import Screen  # noqa: PLC0415 - torch loads when a command runs
    from raydd.data.buffer import verify  # noqa: PLC0415

    problems = [problem._asdict() for problem in verify(folder)]
    lines = [f"{problem['file']}: {problem['what']}" for problem in problems] or [f"{folder}: whole"]
    Screen(as_json).result({"problems": problems}, lambda console: console.print("\n".join(lines), markup=False))
    if problems:
        raise typer.Exit(1)


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _show_scores(screen: Any, scores: list[dict[str, Any]], outputs: dict[str, str]) -> None:
    from raydd.console import score_table  # noqa: PLC0415 - rich loads when a command runs

    def show(console: Any) -> None:
        console.print(score_table(scores))
        for name, path in outputs.items():
            console.print(f"{name}: {path}", markup=False)

    screen.result({"scores": scores, "outputs": outputs}, show)


def _show_buffer(screen: Any, document: dict[str, Any]) -> None:
    screen.result(document, _printer(document))


def _printer(document: dict[str, Any]) -> Any:
    lines = [f"{key:14} {value}" for key, value in document.items()]
    return lambda console: console.print("\n".join(lines), markup=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 0, 1 (failed), 2 (bad usage or input) or 130 (interrupted)."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; errors are one line on stderr."""
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="raydd", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.ClickException as error:
        return _fail(f"{error.format_message()} (see raydd --help)", 2)
    except ValueError as error:
        return _fail(str(error), 2)
    except (RuntimeError, FloatingPointError, OSError, MemoryError) as error:
        return _fail(str(error) or type(error).__name__, 1)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; the same command goes on (distill: with --resume)", 130)


def _fail(message: str, code: int) -> int:
    if os.environ.get("RAYDD_TRACEBACK"):
        raise  # noqa: PLE0704 - called from except blocks alone
    print(f"raydd: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
