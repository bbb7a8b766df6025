"""The commands of the main job: quickstart, experts, distill, finish."""

from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import AsJson, Buffer, Device, Flags, Preset, SharedMachine, command
from raydd.cli.output import show, show_scores
from raydd.cli.paths import check_buffers, check_folders
from raydd.config.fields import configure
from raydd.config.parsing import Tree
from raydd.config.presets import load_preset, preset_layers
from raydd.config.schema import DistillConfig, ExpertsConfig

app = typer.Typer()


@command(app, "raydd quickstart --out runs/quickstart")
def quickstart(
    said: Annotated[Tree, Flags(DistillConfig, "seed")],
    where: Device,
    out: Annotated[Path, typer.Option(help="Run folder; a second run continues the first.")] = Path("runs/quickstart"),
    as_json: AsJson = False,
) -> None:
    """Do the whole job once on small bundled images: train experts, distill a set, score it, write a report.

    It takes a few minutes on a laptop and downloads nothing.
    """
    config = configure(DistillConfig, load_preset("digits", "mtt", 1), said)
    check_folders(out)
    from raydd.api import verbs as api
    from raydd.api.evaluate import evaluate, save_scores
    from raydd.io.console import Screen
    from raydd.io.lock import alone
    from raydd.methods import complete
    from raydd.report.build import write_report

    screen, config, where = Screen(as_json), complete(config), where._replace(num_workers=2)
    with alone(out, "raydd quickstart", screen.note):
        api.check_early(config, where)
        experts = ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)
        buffer = api.train_experts(experts, out / "buffer", where=where, screen=screen)
        synset = api.distill(config, out, buffer=buffer, resume=True, where=where, screen=screen)
        scores = evaluate([synset], where=where, screen=screen)
        save_scores(scores, out / "scores.json")
        outputs = {name: str(out / name) for name in ("config.yaml", "metrics.jsonl", "synset.arrow", "synset.png")}
        outputs |= {"buffer": str(buffer), "scores.json": str(out / "scores.json")}
        with screen.doing("writing the report"):
            outputs |= {"report": str(write_report([out], out / "report.html"))}
    show_scores(screen, scores, outputs)
    if not as_json:
        screen.say(f"open {outputs['report']}")


@command(app, "raydd experts --dataset digits --num-experts 20 --num-workers 2", main="dataset num_experts num_workers")
def experts(
    said: Annotated[
        Tree,
        Flags(ExpertsConfig, "data.dataset experts.network experts.num_experts experts.epochs experts.optimizer seed"),
    ],
    where: SharedMachine,
    out: Annotated[str | None, typer.Option(help="Buffer, a folder or a URI; one of the cache by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train expert networks on the real images, whose changes of weights the distillation methods match.

    The same command again trains only what is missing.
    """
    config = configure(ExpertsConfig, said)
    check_folders(out)
    from raydd.api import verbs as api
    from raydd.buffer.describe import describe_place
    from raydd.io.console import Screen
    from raydd.io.filesystem import shown

    screen = Screen(as_json)
    buffer = api.train_experts(config, out, where=where, screen=screen)
    show(screen, describe_place(buffer) | {"outputs": {"buffer": shown(str(buffer))}})


@command(app, "raydd distill --method mtt --dataset digits --ipc 1 --out runs/digits", main="method dataset ipc")
def distill(
    said: Annotated[Tree, Flags(DistillConfig, "method data.dataset ipc experts.network window rollouts seed")],
    where: SharedMachine,
    buffer: Buffer = None,
    preset: Preset = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default one below runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run of the folder where it stopped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Distill a training set into a few synthetic images per class."""
    config = configure(DistillConfig, *preset_layers(preset, said))
    folder = out or Path("runs") / f"{Path(config.data.dataset).name}-{config.method}-ipc{config.ipc}"
    from raydd.run.claim import claim

    check_folders(folder)
    check_buffers([buffer])
    claim(folder, resume)
    from raydd.api import verbs as api
    from raydd.io.console import Screen

    screen = Screen(as_json)
    synset = api.distill(config, folder, buffer=buffer, resume=resume, where=where, screen=screen)
    document = {
        "method": config.method,
        "dataset": synset.dataset,
        "ipc": synset.ipc,
        "lr": float(synset.lr),
        "outputs": {
            name: str(folder / name) for name in ("config.yaml", "metrics.jsonl", "synset.arrow", "synset.png")
        },
    }
    show(screen, document, [f"wrote {folder / 'synset.arrow'} and its picture"])


@command(app, "raydd finish runs/digits")
def finish(
    run: Annotated[Path, typer.Argument(help="Run folder of `raydd distill`.")],
    where: Device,
    buffer: Annotated[
        str | None, typer.Option(help="Buffer of the run's experts, where it was given one; else the cache's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the synthetic set of a run that has not ended, from its last checkpoint.

    `raydd distill --resume` can still continue the run.
    """
    if not (run / "config.yaml").exists():
        raise ValueError(f"{run} holds no run; name a folder that raydd distill wrote")
    check_buffers([buffer])
    from raydd.io.console import Screen
    from raydd.run.resolve import read_config
    from raydd.run.unfinished import finish as write_set

    screen = Screen(as_json)
    synset, step = write_set(run, buffer=buffer, device=where.device, screen=screen)
    config = read_config(run)
    steps = config.steps if config else step
    outputs = {name: str(run / name) for name in ("synset.arrow", "synset.png")}
    document = {"dataset": synset.dataset, "ipc": synset.ipc, "step": step, "steps": steps, "outputs": outputs}
    show(screen, document, [f"{outputs['synset.arrow']}: the set at step {step} of {steps}"])
