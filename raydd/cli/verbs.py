"""The commands of the main job: quickstart, experts, distill, finish."""

from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import Buffer, Device, Flags, Output, Preset, SharedMachine, command
from raydd.cli.output import show, show_scores
from raydd.cli.paths import existing_buffer, existing_run, output, writable
from raydd.config.fields import configure
from raydd.config.parsing import Tree
from raydd.config.presets import load_preset, preset_layers
from raydd.config.schema import DistillConfig, ExpertsConfig
from raydd.io.loading import loading
from raydd.io.uri import public_uri

app = typer.Typer()
EXPERTS = "data.dataset experts.network experts.num_experts experts.epochs experts.optimizer seed"
DISTILL = "method data.dataset ipc experts.network window rollouts shards seed"
FILES = ("config.yaml", "metrics.jsonl", "synset.arrow", "synset.png")
_RUN = "Run folder, or a URI; a second run continues the first."
_OUT = "Run folder, or a URI such as s3://bucket/run; by default a folder below runs/."
_BUFFER = "Buffer to write, a folder or a URI; one of the cache by default."
_OWN = "Buffer of the run's experts, if the run was started with --buffer."


@command(app, "raydd quickstart --out runs/quickstart")
def quickstart(
    values: Annotated[Tree, Flags(DistillConfig, "seed")],
    where: Device,
    screen: Output,
    out: Annotated[str, typer.Option(help=_RUN, callback=writable)] = "runs/quickstart",
) -> None:
    """Do the whole job once on small bundled images: train experts, distill a set, score it, write a report.

    It takes a minute or two on a laptop and downloads nothing.
    """
    small = {"experts": {"epochs": 12}, "threads": 1}  # what is matched, and what a second thread does not speed up
    config = configure(DistillConfig, load_preset("digits", "mtt", 1), small, values)
    where = where._replace(num_workers=2)
    with loading():
        from raydd.api.quick_start import quick_start
        from raydd.data.workspace import resolve_device
        from raydd.methods import complete
        from raydd.run.resolve import check_names, check_run
        from raydd.run.storage import open_storage

    config = complete(config)
    with open_storage(out, "raydd quickstart", screen.note) as storage:
        check_names(config)
        check_run(config, resolve_device(where.device))
        scores = quick_start(config, storage.folder, out, where, screen)
        storage.save_last()
    outputs = {name: output(out, name) for name in (*FILES, "buffer", "scores.json")}
    outputs["report"] = output(out, "report.html")
    show_scores(screen, scores, outputs, last=f"open {outputs['report']}")


@command(app, "raydd experts --dataset digits --num-experts 20 --num-workers 2", main="dataset num_experts num_workers")
def experts(
    values: Annotated[Tree, Flags(ExpertsConfig, EXPERTS)],
    where: SharedMachine,
    screen: Output,
    out: Annotated[str | None, typer.Option(help=_BUFFER, callback=writable)] = None,
) -> None:
    """Train expert networks on the real images and store their weights after each epoch, which many methods match.

    The same command again trains only what is missing.
    """
    config = configure(ExpertsConfig, values)
    from raydd.api.experts import train_experts
    from raydd.buffer.describe import describe_location

    buffer = train_experts(config, out, where=where, screen=screen)
    show(screen, describe_location(buffer) | {"outputs": {"buffer": public_uri(str(buffer))}})


@command(app, "raydd distill --method mtt --dataset digits --ipc 1 --out runs/digits", main="method dataset ipc")
def distill(
    values: Annotated[Tree, Flags(DistillConfig, DISTILL)],
    where: SharedMachine,
    screen: Output,
    buffer: Buffer = None,
    preset: Preset = None,
    out: Annotated[str | None, typer.Option(help=_OUT, callback=writable)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")] = False,
) -> None:
    """Distill a training set into a few synthetic images per class."""
    config = configure(DistillConfig, *preset_layers(preset, values))
    out = out or f"runs/{Path(config.data.dataset).name}-{config.method}-ipc{config.ipc}"
    from raydd.run.claim import claim

    if "://" not in out:
        claim(Path(out), resume)
    from raydd.api.distill import distill as distill_set

    synset = distill_set(config, out, buffer=buffer, resume=resume, where=where, screen=screen)
    outputs = {name: output(out, name) for name in FILES}
    document = {"method": config.method, "dataset": synset.dataset, "ipc": synset.ipc, "lr": float(synset.lr)}
    show(screen, document | {"outputs": outputs}, [f"wrote {outputs['synset.arrow']} and its picture"])


@command(app, "raydd finish runs/digits")
def finish(
    run: Annotated[str, typer.Argument(help="Run folder of `raydd distill`, or a URI.", callback=existing_run)],
    where: Device,
    screen: Output,
    buffer: Annotated[str | None, typer.Option(help=_OWN, callback=existing_buffer)] = None,
) -> None:
    """Write the synthetic set of an interrupted run, from its last checkpoint.

    `raydd distill --resume` can still continue the run.
    """
    from raydd.data.run_progress import UNFINISHED
    from raydd.run.unfinished import finish as write_set

    synset, step = write_set(run, buffer=buffer, device=where.device, screen=screen)
    steps = int(synset.provenance.get(UNFINISHED, f"{step}").rpartition(" ")[2])
    outputs = {name: output(run, name) for name in ("synset.arrow", "synset.png")}
    document = {"dataset": synset.dataset, "ipc": synset.ipc, "step": step, "steps": steps, "outputs": outputs}
    show(screen, document, [f"{outputs['synset.arrow']}: the set at step {step} of {steps}"])
