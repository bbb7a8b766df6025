"""Search hyper-parameters: `raydd.tune`. ``docs/tuning.md`` lists the files of a search folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

import torch

from raydd.api.experts import cached_buffer, check_buffer, estimate_seconds
from raydd.api.tune_results import Results, finish
from raydd.buffer.mirror import local_folder
from raydd.config.parsing import Tree, dump
from raydd.config.placement import HERE, Where, check_workers
from raydd.config.schema import EvaluateConfig, ExpertsConfig
from raydd.data.mirroring import distillation_mirrors, mirroring_note as mirror_words
from raydd.data.workspace import Workspace, print_note
from raydd.evaluation.scores import check_scoring
from raydd.figures.trial_tables import trial_table
from raydd.io.console import Screen, clock, left
from raydd.io.files import write_atomic
from raydd.io.safe_yaml import read_yaml
from raydd.io.uri import is_uri, public_uri
from raydd.run.experts import open_buffer
from raydd.run.resolve import check_names, check_run, needs_experts
from raydd.tuning.location import JOURNAL, SPACE, Location, location_of
from raydd.tuning.loggers import require_package
from raydd.tuning.space import Space
from raydd.tuning.space_files import check_space, load_space, make_space, with_absolute_paths, with_settings
from raydd.tuning.study import Study
from raydd.tuning.trial import SearchContext
from raydd.tuning.trial_scheduler import SearchProgress, TrialScheduler

CPU = torch.device("cpu")
TEST = EvaluateConfig(real_epochs=0)
"""How the best trial is scored: 5 new networks, beside selections of real images, without the whole data set."""


class Options(TypedDict, total=False):
    """Options of a search beside its space.

    Attributes:
        num_samples: Trials in total; the space's own number if it is not given.
        max_concurrent: Trials at once.
        time_budget: Seconds after which trials are stopped where they are.
        gpus_per_trial: GPUs per trial, a fraction where several share one.
        buffer: Experts, a folder or a URI, instead of the space's or the cache's. Credentials in a URI reach the
            trials and are not written to any file.
        settings: Settings to fix, as nested values; they are no longer searched.
        evaluation: How the best trial is scored on the test images; None does not use them.
        mlflow: A tracking address or folder of MLflow that also receives the results.
        wandb: A project of Weights & Biases that also receives the results.
        scheduler: A scheduler of `ray.tune.schedulers` that decides which trials stop; also the first one may stop.
        search_alg: A search algorithm of `ray.tune.search`, without a space of its own, that proposes values of the
            space's settings after the preset's trial.
        callbacks: Callbacks of `ray.tune` that receive the events of trials.
        runtime_env: The runtime environment of Ray's workers, such as ``{"pip": ["mypackage"]}``.
    """

    num_samples: int
    max_concurrent: int
    time_budget: float
    gpus_per_trial: float
    buffer: str
    settings: Tree
    evaluation: EvaluateConfig | None
    mlflow: str
    wandb: str
    scheduler: Any
    search_alg: Any
    callbacks: Sequence[Any]
    runtime_env: Mapping[str, Any]


def tune(
    space: Space | Mapping[str, Any] | str | Path | None,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    where: Where = HERE,
    screen: Screen | None = None,
    **options: Unpack[Options],
) -> Results:
    """Search the settings of a method by validation accuracy, and score the best trial on the test images.

    Args:
        space: The name of a shipped space, a YAML file, nested values, or a space. None continues the search of
            ``out``.
        out: The search folder, or a URI such as ``s3://bucket/search``; None is ``runs/tune-`` and the space's name.
        resume: Continue the folder's search: finished trials stay, others continue from their checkpoints.
        where: The Ray workers that train missing experts, the cluster, and the device.
        screen: Shows the progress.
        **options: See `Options`.

    Returns:
        The trials, the best one, its scores and the files.

    Raises:
        ValueError: The space cannot be searched, or the folder holds another search; nothing is trained.
        RuntimeError: Ray failed; all reports are kept, and ``resume`` continues. Or all trials failed.

    Example: examples/tune.py, and examples/tune_own_space.py for your own space (they start a local Ray).
    """
    screen = screen or Screen()
    check_workers(where)
    if (evaluation := options.get("evaluation", TEST)) is not None:
        check_scoring(evaluation)
    for package in ("mlflow", "wandb"):
        if options.get(package) is not None:
            require_package(package)
    space, location = _space_and_location(space, out, resume, options)
    check_buffer(space.buffer)
    with location.alone("raydd tune", screen.note):
        return _tune(space, location, where, screen, options)


def _tune(space: Space, location: Location, where: Where, screen: Screen, options: Options) -> Results:
    buffer, space = space.buffer, space.model_copy(update={"buffer": space.buffer and public_uri(space.buffer)})
    example, evaluation = space.config(space.example()), options.get("evaluation", TEST)
    check_names(example)
    work = check_run(example, CPU)  # trials resolve the device in their workers
    from raydd.remote.own_search import OwnObjects
    from raydd.remote.session import session
    from raydd.remote.trial_demand import Limits, trial_demand
    from raydd.remote.tune import logger_callbacks, run_trials

    own = OwnObjects(options.get("scheduler"), options.get("search_alg"), options.get("callbacks", ()))
    own.check(space)
    loggers = logger_callbacks(options.get("mlflow"), options.get("wandb"), space.name)
    if distillation_mirrors(example):
        screen.once(mirror_words(example.data.dataset))
    print_note(work.dataset, screen)
    context = SearchContext(space, None, location.folder, where.device)
    if space.search.algorithm != "grid" and space.search.first != "none" and not space.first_is_protected:
        screen.note("the preset's own values are outside the space: no trial has them")
    limits = Limits(
        options.get("max_concurrent", space.budget.concurrent),
        options.get("time_budget", space.budget.seconds),
        options.get("gpus_per_trial"),
        where.max_wait,
    )
    environment = {"runtime_env": options["runtime_env"]} if "runtime_env" in options else {}
    with session(where.address, screen.note, **environment):  # one session for experts, trials and scores
        trial_demand(space.config({}), where.device, limits, 1, screen.note)  # refuses trials larger than every node
        journal = location.folder / JOURNAL
        if journal.exists():
            Study(space, journal)  # refuses another search before anything is trained
        if needs_experts(space.config({})):
            context = context._replace(buffer=_shared_buffer(space, buffer, work, where, screen))
        location.send([write_atomic(location.folder / SPACE, dump(space).encode())])
        study = Study(space, journal)
        try:
            run = partial(run_trials, limits=limits, loggers=loggers, uri=location.uri, own=own)
            grid = _run(context, study, screen, run, location)
        finally:
            location.record()
        return replace(finish(context, study, evaluation, location, where, screen), grid=grid)


def _space_and_location(
    source: Space | Mapping[str, Any] | str | Path | None, out: Path | str | None, resume: bool, options: Options
) -> tuple[Space, Location]:
    """Return the space with the options applied, and its location, which holds no other search."""
    space = _read(source, out, resume)
    if settings := options.get("settings"):
        space = with_settings(space, settings)
    for name, flag in (("num_samples", "--num-samples"), ("max_concurrent", "--max-concurrent")):
        if (count := cast(int, options.get(name, 1))) < 1:
            raise ValueError(f"{flag} {count}: at least 1 trial is needed")
    if (samples := options.get("num_samples")) is not None:
        space = space.model_copy(update={"budget": space.budget.model_copy(update={"samples": samples})})
    if buffer := options.get("buffer"):
        space = space.model_copy(update={"buffer": buffer})
    if (share := options.get("gpus_per_trial")) is not None and share <= 0:
        raise ValueError(f"--gpus-per-trial {share:g}: use a fraction of a GPU, such as 0.25, or a number of GPUs")
    space = with_absolute_paths(space)
    check_space(space)
    location = location_of(out or Path("runs") / f"tune-{space.name}")
    if not resume and location.has_search():
        raise ValueError(f"{location.name} holds a search already; continue it with --resume, or use another --out")
    return space, location


def _read(source: Space | Mapping[str, Any] | str | Path | None, out: Path | str | None, resume: bool) -> Space:
    match source:
        case None:
            stored = location_of(out).read_space() if resume and out is not None else None
            if stored is None:
                raise ValueError("--space is missing: use a name such as datm_digits, or --resume and --out")
            return make_space(read_yaml(stored), str(stored))
        case Space():
            return source
        case Mapping():
            return make_space(source)
        case _:
            return load_space(source)


def _shared_buffer(space: Space, buffer: str | None, work: Workspace, where: Where, screen: Screen) -> Path | str:
    """Return the verified experts that trials share, and note the experts that trials will train themselves."""
    config = space.config({})
    folder = local_folder(buffer, screen.note) if buffer else cached_buffer(config, work, where, screen)
    open_buffer(folder, config, CPU)
    own = [key for key in space.domains if key.startswith("experts.") and key != "experts.num_experts"]
    if own:
        wanted = ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)
        seconds = estimate_seconds(wanted, work, 1)
        screen.note(
            f"{' and '.join(own)}: a trial with experts other than {folder} trains its own first, about "
            f"{clock(seconds)} each; trials with equal experts share them"
        )
    return buffer if buffer and is_uri(buffer) else folder.absolute()


def _run(
    context: SearchContext,
    study: Study,
    screen: Screen,
    run: Callable[[SearchContext, TrialScheduler], Any],
    location: Location,
) -> Any:
    """Run the trials that are left, and return Ray Tune's results; None where none is left."""
    space = context.space
    total = space.budget.samples or len(space.grid())
    if space.search.algorithm == "grid":
        total = min(total, len(space.grid()))
    with screen.live(space.name) as update:

        def show(progress: SearchProgress) -> None:
            if progress.note:
                screen.note(progress.note)
            line = f"{progress.done} of {progress.total} trials {left(progress.seconds_left)}".rstrip()
            update(lambda: trial_table(progress.rows), line)

        trials = TrialScheduler(study, total, show, record=location.record)
        if not trials.left:
            screen.note(f"{location.name}: all {total} trials are done")
            return None
        screen.note(f"{location.name}: {trials.left} of {total} trials of {space.name} ({', '.join(space.domains)})")
        return run(context, trials)
