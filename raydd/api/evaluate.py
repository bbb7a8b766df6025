"""Scoring synthetic sets: trainings that were done once are kept, the others are done on Ray."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from raydd.api.verbs import HERE, Where, check_workers
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.mirror import local_folder
from raydd.config.parsing import build
from raydd.config.schema import DataConfig, EvaluateConfig
from raydd.data import mirroring
from raydd.data.datasets import Dataset
from raydd.data.progress import UNFINISHED
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import print_note, resolve_device
from raydd.evaluation.matrix import Job, Matrix, Outcome
from raydd.evaluation.protocols import find_protocol
from raydd.evaluation.result_cache import Keys, Ledger, commits, known
from raydd.evaluation.robust import needed
from raydd.evaluation.robust_plan import robust_scores
from raydd.evaluation.scores import best_of_steps, plan, step_title, summarise, titles
from raydd.evaluation.significance import compare_scores
from raydd.interop.layouts import OURS, detect
from raydd.interop.reading import read_synset
from raydd.io.console import Pace, Screen, left
from raydd.io.document import write_document
from raydd.io.memory import keep_memory
from raydd.io.provenance import commit
from raydd.run.kept_steps import load_kept
from raydd.selection.coresets import CORESETS, MEASURED
from raydd.selection.starting_images import ASKS_EXPERTS

EVALUATION = EvaluateConfig()
Asked = SyntheticSet | Path | str
"""A set, or where it is: a run folder, a ``synset.arrow``, or files of another project."""


def evaluate(
    synsets: Sequence[Asked],
    config: EvaluateConfig = EVALUATION,
    *,
    buffer: Path | str | None = None,
    names: Sequence[str] | None = None,
    fresh: bool = False,
    where: Where = HERE,
    screen: Screen | None = None,
) -> list[dict[str, Any]]:
    """Score synthetic sets on the test images beside selections of real images and the whole data set.

    Args:
        synsets: The sets, or where they are.
        config: Real images, networks, seeds, protocol.
        buffer: Experts, a folder or an URI; herding and k-center then choose by what one of them sees, and forgetting
            joins. They are the teachers whose logits robust scores of soft labels take.
        names: What the sets' rows are called.
        fresh: Do every training anew, also those whose results are kept in the cache.
        where: Workers, cluster and device.
        screen: Where progress is told.

    Returns:
        A record a row and network: ``name, kind, dataset, network, protocol, selection, ipc, networks,
        mean, std, values, seconds``; accuracies as fractions, seconds a training. The trainings that a robust score
        takes have ``part`` and ``of`` too, see `robust_scores`; the best of kept steps has ``steps``.

    Raises:
        ValueError: Unknown data set, network, protocol or score, or sets or experts that do not fit the images.

    Example: examples/experts_and_distill.py (it starts a Ray).
    """
    screen = screen or Screen()
    keep_memory()
    check_workers(where)
    folder = None if buffer is None else local_folder(buffer, screen.note)
    found = [opened(asked, config, screen) for asked in synsets]
    if folder is not None:
        screen.note(f"{folder}: {_experts_do(folder, config, found)}")
    sets, kept, device = [one.synset for one in found], [one.kept for one in found], resolve_device(where.device).type
    matrix, work = plan(sets, names, config, device, folder, kept)
    outcomes = do_matrix(matrix, work.dataset, fresh=fresh, where=where, screen=screen)
    steps = {step_title(name, step): step for name, one in zip(titles(sets, names), kept, strict=True) for step in one}
    return best_of_steps(summarise(matrix, outcomes), steps)


class Opened(NamedTuple):
    """A set, and those of its run's kept steps where they were asked for."""

    synset: SyntheticSet
    kept: Mapping[int, SyntheticSet] = {}


def opened(asked: Asked, config: EvaluateConfig, screen: Screen) -> Opened:
    """A set from where it is; what had to be assumed of another project's files is noted.

    Raises:
        ValueError: There is no set, it cannot be read, or its run has no kept steps and they were asked for.
    """
    if isinstance(asked, SyntheticSet):
        if config.paper:
            raise ValueError("paper = true scores kept steps, which a set in memory has none of; give its run folder")
        return Opened(asked)
    name, home = detect(Path(asked), config.layout)
    given: dict[str, Any] = {"preprocessing": config.preprocessing}
    if name != OURS:  # of our own sets it is what they are tested on, not what they are of
        given["dataset"] = config.dataset
    given = {key: value for key, value in given.items() if value is not None}
    data = build(DataConfig, given) if given else None
    read = read_synset(asked, layout=config.layout, data=data, lr=config.lr)
    if name != OURS:
        screen.note(f"{asked}: read as {name}, {len(read.synset.images)} images of {read.synset.dataset}")
    for note in read.notes:
        screen.note(f"{asked}: {note}")
    if step := read.synset.provenance.get(UNFINISHED):
        screen.note(f"{asked}: the set of an unfinished run, at {step}")
    return Opened(read.synset, load_kept(home.parent) if config.paper else {})


def _experts_do(folder: Path, config: EvaluateConfig, found: Sequence[Opened]) -> str:
    """What the experts of a folder are asked in an evaluation, in words.

    Raises:
        ValueError: The folder holds no experts.
    """
    ArrowBuffer(folder)
    wanted = CORESETS if config.baselines is None else config.baselines
    chosen = [kind for kind in CORESETS if kind in wanted and kind in MEASURED | ASKS_EXPERTS]
    words = [f"its experts choose {', '.join(chosen)}"] if chosen else []
    if "forgetting" in chosen:
        words.append("forgetting asks every snapshot about each image")
    soft = any(one.synset.label_kind == "logits" for one in found)
    if soft and any(training.kind == "random" for training in needed(config.scores, "logits")):
        words.append("its experts label random images for the robust scores")
    return "; ".join(words) or "no row needs its experts"


def do_matrix(
    matrix: Matrix, dataset: Dataset, *, fresh: bool = False, where: Where = HERE, screen: Screen | None = None
) -> dict[Job, Outcome]:
    """Do the trainings of a matrix on Ray, less those whose results are kept; every result is kept as it comes.

    Rows that belong to others are not done where their trainings are those of an earlier row.

    Args:
        matrix: The trainings.
        dataset: Their real images.
        fresh: Do all of them anew.
        where: Workers and cluster.
        screen: Where progress is told.

    Raises:
        RuntimeError: A training failed; those that are finished are kept, and the same call goes on.
    """
    screen = screen or Screen()
    if matrix.data.augment != "none" and dataset.flip:
        screen.once(mirroring.mirroring_note(matrix.data.dataset))
    print_note(dataset, screen)
    rows = twins(matrix, dataset)
    distinct = sorted(set(rows))
    fewer = replace(matrix, entries=tuple(matrix.entries[row] for row in distinct))
    outcomes = _do(fewer, dataset, fresh, where, screen)
    return {job: outcomes[job._replace(entry=distinct.index(rows[job.entry]))] for job in matrix.jobs()}


def twins(matrix: Matrix, dataset: Dataset) -> list[int]:
    """Of every row of a matrix the first whose trainings are the same, if it belongs to another row; else itself.

    A kept step may be the set that was chosen, and robust scores of several sets compare with the same whole data.
    """
    keys, first, found = Keys(matrix, dataset), dict[str, int](), list[int]()
    if not any(entry.of for entry in matrix.entries):
        return [*range(len(matrix.entries))]
    for row, entry in enumerate(matrix.entries):
        own = [keys.of(Job(row, matrix.networks[0], seed)) for seed in matrix.seeds_of(row)]
        same = json.dumps(own, sort_keys=True)
        earlier = first.setdefault(same, row)
        found.append(earlier if entry.of not in ("", entry.name) else row)
    return found


def _do(matrix: Matrix, dataset: Dataset, fresh: bool, where: Where, screen: Screen) -> dict[Job, Outcome]:
    from raydd.remote.session import session
    from raydd.remote.train_matrix import Progress, run_matrix

    keys, ledger = Keys(matrix, dataset), Ledger(commit=commit())
    found = {} if fresh else known(matrix, keys, ledger)
    if ledger.damaged:
        screen.note(f"{len(ledger.damaged)} kept results are damaged, the first is {ledger.damaged[0]}: done again")
    jobs = matrix.jobs()
    left_to_do = len(jobs) - len(found)
    screen.note(f"evaluating: {len(jobs)} trainings on {dataset.name}, protocol {matrix.protocol.name}")
    if found:
        made = f"made by commit {', '.join(commits(found.values()))}"
        screen.note(f"{len(found)} of them were done before ({made}; --fresh does them again)")
    outcomes = {job: kept.outcome._replace(commit=kept.commit) for job, kept in found.items()}
    if not left_to_do:
        return outcomes

    def keep(job: Job, outcome: Outcome) -> None:
        ledger.keep(keys.stopped(job) if outcome.stopped else keys.of(job), outcome)

    pace = Pace()
    with session(where.address, screen.note), screen.progress("evaluate", left_to_do) as update:

        def show(step: Progress) -> None:
            if step.note:
                screen.note(step.note)
            update(step.done, left(pace.left(step.done, left_to_do)) if step.done else "starting workers")

        done, own = run_matrix(matrix, where.num_workers, show, outcomes, keep), commit()
    return {job: outcome if job in found else outcome._replace(commit=own) for job, outcome in done.items()}


def alone(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a table of scores, without those that only a robust score is made of."""
    return [record for record in records if "part" not in record or record["of"] == record["name"]]


def asked_for(synsets: Sequence[Path], config: EvaluateConfig) -> dict[str, Any]:
    """What an evaluation is of, as JSON can hold it; to be looked at before it, since files may change meanwhile.

    Returns:
        ``protocol``, its fields; ``sets``: of each ``path`` and ``digest``, the sha256 of its file, which is None where
        it is a folder of several.

    Raises:
        ValueError: An unknown protocol, or there is no set.
    """
    sets = []
    for path in synsets:
        _, home = detect(path, config.layout)
        digest = hashlib.sha256(home.read_bytes()).hexdigest() if home.is_file() else None
        sets.append({"path": str(path.absolute()), "digest": digest})
    protocol = find_protocol(config.protocol).lasting(config.epochs, config.real_epochs)
    return {"protocol": protocol.model_dump(mode="json"), "sets": sets}


def report(records: Sequence[dict[str, Any]], config: EvaluateConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation came to, as JSON can hold it.

    Args:
        records: Of `evaluate`.
        config: The same.
        given: Of `asked_for`.

    Returns:
        ``scores``, the records; ``comparisons`` of `compare_scores`, between the asked sets and with selections of real
        images; ``robust``, of `robust_scores`; ``steps``: of each paper's number the step chosen on test and those it
        was chosen among; ``settings``; ``protocol``; ``sets``: of each its row's ``name``, ``path`` and ``digest``; and
        ``commit``, which runs now: accuracies that were kept may be of the others that a record's ``commits`` names.
    """
    asked = list(dict.fromkeys(record["name"] for record in records if record.get("asked")))
    rivals = [record for record in alone(records) if record["selection"] != "paper"]
    return {
        "scores": [{key: value for key, value in record.items() if key != "steps"} for record in records],
        "comparisons": compare_scores(rivals, config.test, asked),
        "robust": robust_scores(records, config.scores, config.score_weight),
        "steps": [
            {key: record[key] for key in ("of", "network", "step", "steps")} for record in records if "steps" in record
        ],
        "settings": config.model_dump(mode="json"),
        "protocol": given["protocol"],
        "sets": [{"name": name} | one for name, one in zip(asked, given["sets"], strict=True)],
        "commit": commit(),
    }


def save_scores(scores: Sequence[dict[str, Any]], path: Path, more: Mapping[str, Any] | None = None) -> Path:
    """Write scores as JSON, and what else there is to say of them."""
    return write_document(path, {"scores": list(scores), **(more or {})})
