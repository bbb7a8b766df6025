"""Search hyper-parameters: `raydd.tune`. ``docs/tuning.md`` lists the files of a search folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from raydd.api.evaluate import evaluate, save_scores
from raydd.api.experts import cached_buffer, check_buffer, estimate_seconds
from raydd.buffer.mirror import local_folder
from raydd.config.parsing import Tree, dump
from raydd.config.placement import HERE, Where, check_workers
from raydd.config.schema import EvaluateConfig, ExpertsConfig
from raydd.data.mirroring import distillation_mirrors, mirroring_note as mirror_words, stored_settings
from raydd.data.score_record import Score
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, print_note, resolve_device
from raydd.evaluation.scores import check_scoring
from raydd.figures.trial_tables import trial_table
from raydd.io.console import Screen, clock, left
from raydd.io.files import write_atomic
from raydd.io.filesystem import is_uri, public_uri
from raydd.io.lock import alone
from raydd.io.safe_yaml import read_yaml
from raydd.run.experts import open_buffer
from raydd.run.requirements import own_device
from raydd.run.resolve import check_names, check_run, needs_experts
from raydd.tuning.best_trial import save_best, trial_synset
from raydd.tuning.figure_files import save_figures
from raydd.tuning.loggers import require_package
from raydd.tuning.results import Record, front, save_results, shared_reason, winner
from raydd.tuning.space import Space
from raydd.tuning.space_files import check_space, load_space, make_space, with_absolute_paths, with_settings
from raydd.tuning.study import Study
from raydd.tuning.trial import SearchContext
from raydd.tuning.trial_scheduler import SearchProgress, TrialScheduler

JOURNAL = "study.journal"
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


@dataclass(frozen=True)
class Results:
    """The results of a search.

    Attributes:
        folder: The search folder.
        space: The search space.
        trials: One record per trial.
        best: The trial with the best accuracy on validation images; None while none has reported.
        scores: Records of `raydd.evaluate` on the test images: the best trial, the preset's trial, and selections of
            real images.
        outputs: The files written, by name.
    """

    folder: Path
    space: Space
    trials: tuple[Record, ...]
    best: Record | None
    scores: tuple[Score, ...]
    outputs: Mapping[str, Path]

    @cached_property
    def synset(self) -> SyntheticSet:
        """The best trial's synthetic set."""
        return SyntheticSet.load(self.folder / "best" / "synset.arrow")

    @property
    def front(self) -> list[Record]:
        """The complete trials that no other trial beats in every metric."""
        return front(self.trials, self.space.directions)


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
        out: The search folder; None is ``runs/tune-`` and the space's name.
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
    space, folder = _space_and_folder(space, out, resume, options)
    check_buffer(space.buffer)
    with alone(folder, "raydd tune", screen.note):
        return _tune(space, folder, where, screen, options)


def _tune(space: Space, folder: Path, where: Where, screen: Screen, options: Options) -> Results:
    buffer, space = space.buffer, space.model_copy(update={"buffer": space.buffer and public_uri(space.buffer)})
    example, evaluation = space.config(space.example()), options.get("evaluation", TEST)
    check_names(example)
    work = check_run(example, own_device(example, where))
    from raydd.remote.session import session
    from raydd.remote.tune import Limits, check_limits, logger_callbacks

    loggers = logger_callbacks(options.get("mlflow"), options.get("wandb"), space.name)
    if distillation_mirrors(example):
        screen.once(mirror_words(example.data.dataset))
    print_note(work.dataset, screen)
    context = SearchContext(space, None, folder, resolve_device(where.device).type)
    if space.search.algorithm != "grid" and space.search.first != "none" and not space.first_is_protected:
        screen.note("the preset's own values are outside the space: no trial has them")
    limits = Limits(
        options.get("max_concurrent", space.budget.concurrent),
        options.get("time_budget", space.budget.seconds),
        options.get("gpus_per_trial"),
    )
    with session(where.address, screen.note):  # one session for experts, trials and scores
        check_limits(context, limits)
        journal = folder / JOURNAL
        if journal.exists():
            Study(space, journal)  # refuses another search before anything is trained
        if needs_experts(space.config({})):
            context = context._replace(buffer=_shared_buffer(space, buffer, work, where, screen))
        write_atomic(folder / "space.yaml", dump(space).encode())
        study = Study(space, journal)
        _run(context, study, screen, limits, loggers)
        return _finish(context, study, where, screen, evaluation)


def _space_and_folder(
    source: Space | Mapping[str, Any] | str | Path | None, out: Path | str | None, resume: bool, options: Options
) -> tuple[Space, Path]:
    """Return the space with the options applied, and its folder, which holds no other search."""
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
    folder = Path(out or Path("runs") / f"tune-{space.name}").absolute()
    if not resume and any((folder / name).exists() for name in ("space.yaml", JOURNAL)):
        raise ValueError(f"{folder} holds a search already; continue it with --resume, or use another --out")
    return space, folder


def _read(source: Space | Mapping[str, Any] | str | Path | None, out: Path | str | None, resume: bool) -> Space:
    match source:
        case None:
            stored = Path(out or "") / "space.yaml"
            if not resume or out is None or not stored.exists():
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
    open_buffer(folder, config, resolve_device(where.device))
    own = [key for key in space.domains if key.startswith("experts.") and key != "experts.num_experts"]
    if own:
        wanted = ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)
        seconds = estimate_seconds(wanted, work, 1)
        screen.note(
            f"{' and '.join(own)}: a trial with experts other than {folder} trains its own first, about "
            f"{clock(seconds)} each; trials with equal experts share them"
        )
    return buffer if buffer and is_uri(buffer) else folder.absolute()


def _run(context: SearchContext, study: Study, screen: Screen, limits: Any, loggers: Sequence[Any]) -> None:
    """Run the trials that are left."""
    from raydd.remote.tune import run_trials

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

        trials = TrialScheduler(study, total, show)
        if not trials.left:
            screen.note(f"{context.folder}: all {total} trials are done")
            return
        screen.note(f"{context.folder}: {trials.left} of {total} trials of {space.name} ({', '.join(space.domains)})")
        run_trials(context, trials, limits, loggers)


def _finish(
    context: SearchContext, study: Study, where: Where, screen: Screen, evaluation: EvaluateConfig | None
) -> Results:
    """Write the results, and score the best trial on the test images."""
    space, folder, records = context.space, context.folder, tuple(study.records())
    outputs = {"study": folder / JOURNAL, "results": save_results(records, folder / "results.parquet")}
    best = winner(records, space.directions)
    (folder / "scores.json").unlink(missing_ok=True)  # of an earlier call's best trial
    scores: list[Score] = []
    if best is not None:
        outputs |= save_best(context, best, len(study.changes(best.number)))
    outputs |= save_figures(records, space, folder / "figures")
    if best is not None and evaluation is not None:
        rows = {f"best: trial {best.number}": trial_synset(context, best.number)}
        first = records[0]
        if best.number and first.state == "complete" and first.values == space.preset_values():
            rows[f"{'preset' if space.search.first == 'preset' else 'first'}: trial 0"] = trial_synset(context, 0)
        own = stored_settings(next(iter(rows.values())).recipe["data"])
        for key in ("augment", "flip"):  # all rows are scored with the augmentation of the best trial
            if getattr(evaluation, key) is None:
                evaluation = evaluation.model_copy(update={key: own[key]})
        scores = evaluate([*rows.values()], evaluation, names=[*rows], where=where, screen=screen)
        outputs["scores"] = save_scores(scores, folder / "scores.json")
    if records and all(record.state == "failed" for record in records):
        raise RuntimeError(shared_reason(records))
    unfinished = sum(record.state == "unfinished" for record in records)
    if best is None:
        screen.note("no trial has reached its first score yet")
    if unfinished:
        screen.note(f"{unfinished} trials are unfinished: continue them with the same command and --resume")
    return Results(folder, space, records, best, tuple(scores), outputs)
