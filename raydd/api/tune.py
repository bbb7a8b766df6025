"""Searching hyper-parameters: `raydd.tune`.

A search folder holds ``space.yaml``, ``study.journal`` (which ``optuna-dashboard`` opens), a run folder a trial below
``trials/`` with TensorBoard's event files, and at the end ``results.parquet``, ``best.yaml``, ``best/``,
``scores.json`` and ``figures/``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from raydd.api.evaluate import evaluate, save_scores
from raydd.api.verbs import HERE, Where, cached_buffer, check_buffer, check_early, check_workers, estimate_seconds
from raydd.buffer.mirror import local_folder
from raydd.config.parsing import Tree, dump
from raydd.config.schema import EvaluateConfig, ExpertsConfig
from raydd.data.mirroring import distillation_mirrors, mirroring_note as mirror_words, stored_settings
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, print_note, resolve_device
from raydd.evaluation.scores import check_scoring
from raydd.figures.trial_tables import trial_line, trial_table
from raydd.io.console import Screen, clock, left
from raydd.io.files import write_atomic
from raydd.io.filesystem import is_uri, public_uri
from raydd.io.lock import alone
from raydd.io.safe_yaml import read_yaml
from raydd.run.experts import open_buffer
from raydd.run.families import needs_experts
from raydd.tuning.best_trial import keep_best, kept_set
from raydd.tuning.figure_files import save_figures
from raydd.tuning.loggers import ask_for
from raydd.tuning.results import Record, front, save_results, shared_reason, winner
from raydd.tuning.space import Space
from raydd.tuning.space_files import anywhere, check_space, load_space, make_space, with_settings
from raydd.tuning.study import Search
from raydd.tuning.trial import Task
from raydd.tuning.trial_scheduler import Desk, Status

JOURNAL = "study.journal"
TEST = EvaluateConfig(real_epochs=0)
"""How the winner is scored: 5 fresh networks, beside selections of real images; the whole data set is left out."""


class Options(TypedDict, total=False):
    """What a search may be told beside its space.

    Attributes:
        num_samples: Trials in the end; the space's own number if it is not given.
        max_concurrent: Trials at once.
        time_budget: Seconds after which trials are stopped where they stand.
        gpus_per_trial: GPUs a trial, a fraction where several share one.
        buffer: Experts, a folder or an URI, instead of the space's or the cache's. Credentials in an URI reach the
            trials and are written nowhere.
        settings: Settings to fix, as nested values; what is fixed is searched no more.
        evaluation: How the winner is scored on the test images; None leaves them alone.
        mlflow: A tracking address or folder of MLflow, where results are sent too.
        wandb: A project of Weights & Biases, likewise.
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
    """What a search found.

    Attributes:
        folder: Where it all is.
        space: What was searched.
        trials: A record a trial.
        best: The trial of the best accuracy on validation images; None while none has reported.
        scores: Records as of `raydd.evaluate`: the best trial and the preset, and selections of real images, on the
            test images.
        outputs: By name, the files that were written.
    """

    folder: Path
    space: Space
    trials: tuple[Record, ...]
    best: Record | None
    scores: tuple[dict[str, Any], ...]
    outputs: Mapping[str, Path]

    @cached_property
    def synset(self) -> SyntheticSet:
        """The best trial's synthetic set."""
        return SyntheticSet.load(self.folder / "best" / "synset.arrow")

    @property
    def front(self) -> list[Record]:
        """The complete trials that none other beats in every metric."""
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
    """Search the settings of a method by validation accuracy; score the best on the test images.

    Args:
        space: A shipped space's name, a YAML file, nested values, or a space. None goes on with the one of ``out``.
        out: The search folder; None takes ``runs/tune-`` and the space's name.
        resume: Go on with the folder's search: finished trials stay, others go on from their checkpoints.
        where: Ray workers that train missing experts, the cluster, and the device of all.
        screen: Where progress is told.
        **options: See `Options`.

    Returns:
        The trials, the best, its scores and where everything is.

    Raises:
        ValueError: A space that cannot be searched, or a folder that holds another search; nothing is trained.
        RuntimeError: Ray failed; all that trials have reported is kept, and ``resume`` goes on. Or all trials failed.

    Example: examples/tune.py, and examples/tune_own_space.py for a space of one's own (they start a Ray).
    """
    screen = screen or Screen()
    check_workers(where)
    if (evaluation := options.get("evaluation", TEST)) is not None:
        check_scoring(evaluation)
    for package in ("mlflow", "wandb"):
        if options.get(package) is not None:
            ask_for(package)
    space, folder = _claim(space, out, resume, options)
    check_buffer(space.buffer)
    with alone(folder, "raydd tune", screen.note):
        return _tune(space, folder, where, screen, options)


def _tune(space: Space, folder: Path, where: Where, screen: Screen, options: Options) -> Results:
    place, space = space.buffer, space.model_copy(update={"buffer": space.buffer and public_uri(space.buffer)})
    example, evaluation = space.config(space.example()), options.get("evaluation", TEST)
    work = check_early(example, where)
    from raydd.remote.session import session
    from raydd.remote.tune import Loggers, callbacks

    loggers = callbacks(Loggers(options.get("mlflow"), options.get("wandb")), space.name)
    if distillation_mirrors(example):
        screen.once(mirror_words(example.data.dataset))
    print_note(work.dataset, screen)
    task = Task(space, None, folder, resolve_device(where.device).type)
    if space.search.algorithm != "grid" and space.search.first != "none" and not space.spared:
        screen.note("the preset's own values lie outside the space: no trial has them")
    with session(where.address, screen.note):  # once for experts, trials and scores
        limits, journal = _limits(task, options), folder / JOURNAL
        if journal.exists():
            Search(space, journal)  # refuses another search before anything is trained
        if needs_experts(space.config({})):
            task = task._replace(buffer=_shared_buffer(space, place, work, where, screen))
        write_atomic(folder / "space.yaml", dump(space).encode())
        search = Search(space, journal)
        _run(task, search, screen, limits, loggers)
        return _conclude(task, search, where, screen, evaluation)


def _claim(
    asked: Space | Mapping[str, Any] | str | Path | None, out: Path | str | None, resume: bool, options: Options
) -> tuple[Space, Path]:
    """The space with all that was said over it, and its folder, which holds no other search."""
    space = _read(asked, out, resume)
    if settings := options.get("settings"):
        space = with_settings(space, settings)
    for name, flag in (("num_samples", "--num-samples"), ("max_concurrent", "--max-concurrent")):
        if (asked_for := cast(int, options.get(name, 1))) < 1:
            raise ValueError(f"{flag} {asked_for}: at least 1 trial is needed")
    if (samples := options.get("num_samples")) is not None:
        space = space.model_copy(update={"budget": space.budget.model_copy(update={"samples": samples})})
    if buffer := options.get("buffer"):
        space = space.model_copy(update={"buffer": buffer})
    if (share := options.get("gpus_per_trial")) is not None and share <= 0:
        raise ValueError(f"--gpus-per-trial {share:g}: give a part of a GPU, such as 0.25, or several")
    space = anywhere(space)
    check_space(space)
    folder = Path(out or Path("runs") / f"tune-{space.name}").absolute()
    if not resume and any((folder / name).exists() for name in ("space.yaml", JOURNAL)):
        raise ValueError(f"{folder} holds a search already; go on with --resume, or name another --out")
    return space, folder


def _read(asked: Space | Mapping[str, Any] | str | Path | None, out: Path | str | None, resume: bool) -> Space:
    match asked:
        case None:
            stored = Path(out or "") / "space.yaml"
            if not resume or out is None or not stored.exists():
                raise ValueError("--space is missing: name one, such as datm_digits, or --resume with the --out of one")
            return make_space(read_yaml(stored), str(stored))
        case Space():
            return asked
        case Mapping():
            return make_space(asked)
        case _:
            return load_space(asked)


def _shared_buffer(space: Space, place: str | None, work: Workspace, where: Where, screen: Screen) -> Path | str:
    """The experts that trials share, complete and sound; those that a trial trains for itself are told of."""
    config = space.config({})
    folder = local_folder(place, screen.note) if place else cached_buffer(config, work, where, screen)
    open_buffer(folder, config, resolve_device(where.device))
    own = [key for key in space.domains if key.startswith("experts.") and key != "experts.num_experts"]
    if own:
        wanted = ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)
        seconds = estimate_seconds(wanted, work, 1)
        screen.note(
            f"{' and '.join(own)}: a trial with other experts than {folder} trains its own first, about "
            f"{clock(seconds)} each; trials with equal ones share them"
        )
    return place if place and is_uri(place) else folder.absolute()


def _limits(task: Task, options: Options) -> Any:
    """What a run of trials may take; more than a machine has is refused."""
    from raydd.remote.tune import Limits, check_limits

    budget = task.space.budget
    limits = Limits(
        options.get("max_concurrent", budget.concurrent),
        options.get("time_budget", budget.seconds),
        options.get("gpus_per_trial"),
    )
    check_limits(task, limits)
    return limits


def _run(task: Task, search: Search, screen: Screen, limits: Any, loggers: Sequence[Any]) -> None:
    """Run the trials that are left."""
    from raydd.remote.tune import run_trials

    space = task.space
    total = space.budget.samples or len(space.grid())
    if space.search.algorithm == "grid":
        total = min(total, len(space.grid()))
    with screen.live(space.name) as update:

        def show(status: Status) -> None:
            if status.note:
                screen.note(status.note)
            update(lambda: trial_table(status.rows), trial_line(status.done, status.total, left(status.seconds_left)))

        desk = Desk(search, total, show)
        if not desk.left:
            screen.note(f"{task.folder}: all {total} trials are done")
            return
        screen.note(f"{task.folder}: {desk.left} of {total} trials of {space.name} ({', '.join(space.domains)})")
        run_trials(task, desk, limits, loggers)


def _conclude(task: Task, search: Search, where: Where, screen: Screen, evaluation: EvaluateConfig | None) -> Results:
    """Write what was found, and score the best trial on the test images."""
    space, folder, records = task.space, task.folder, tuple(search.records())
    outputs = {"study": folder / JOURNAL, "results": save_results(records, folder / "results.parquet")}
    best = winner(records, space.directions)
    (folder / "scores.json").unlink(missing_ok=True)  # an earlier call's, of what was best then
    scores: list[dict[str, Any]] = []
    if best is not None:
        outputs |= keep_best(task, best, len(search.changes(best.number)))
    outputs |= save_figures(records, space, folder / "figures")
    if best is not None and evaluation is not None:
        rows = {f"best: trial {best.number}": kept_set(task, best.number)}
        first = records[0]
        if best.number and first.state == "complete" and first.values == space.preset_values():
            rows[f"{'preset' if space.search.first == 'preset' else 'first'}: trial 0"] = kept_set(task, 0)
        own = stored_settings(next(iter(rows.values())).recipe["data"])
        for key in ("augment", "flip"):  # a space may search them, and all rows are scored as the winner was distilled
            if getattr(evaluation, key) is None:
                evaluation = evaluation.model_copy(update={key: own[key]})
        scores = evaluate([*rows.values()], evaluation, names=[*rows], where=where, screen=screen)
        outputs["scores"] = save_scores(scores, folder / "scores.json")
    if records and all(record.state == "failed" for record in records):
        raise RuntimeError(shared_reason(records))
    unfinished = sum(record.state == "unfinished" for record in records)
    if best is None:
        screen.note("no trial has come to its first score yet")
    if unfinished:
        screen.note(f"{unfinished} trials are unfinished: the same command with --resume goes on with them")
    return Results(folder, space, records, best, tuple(scores), outputs)
