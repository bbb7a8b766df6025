"""Evaluation of synthetic sets, and the document of its scores."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from raydd.api.trainings import driver_device, run_matrix
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.local_path import local_path
from raydd.buffer.mirror import local_folder
from raydd.config.parsing import build
from raydd.config.placement import HERE, Where, check_workers
from raydd.config.schema import DataConfig, EvaluateConfig
from raydd.data.run_progress import UNFINISHED
from raydd.data.score_record import Missing, Score, table_rows
from raydd.data.synset import SyntheticSet
from raydd.evaluation.failures import complete, separate
from raydd.evaluation.protocols import protocol_of
from raydd.evaluation.robust import needed
from raydd.evaluation.robust_plan import robust_scores
from raydd.evaluation.scores import best_of_steps, plan, step_title, summarise, titles
from raydd.evaluation.significance import compare_scores
from raydd.interop.layouts import OURS, detect
from raydd.interop.reading import read_synset
from raydd.io.console import Screen
from raydd.io.document import write_document
from raydd.io.memory import keep_memory
from raydd.io.provenance import commit
from raydd.io.uri import is_uri, public_uri
from raydd.run.run_folder import load_scored_sets
from raydd.run.storage import open_file
from raydd.selection.coresets import BY_DISTANCE, CORESETS
from raydd.selection.starting_images import NEED_EXPERTS

EVALUATION = EvaluateConfig()
SynsetSource = SyntheticSet | Path | str
"""A set, or its path: a run folder, a ``synset.arrow``, or files of another project."""


def evaluate(
    synsets: Sequence[SynsetSource],
    config: EvaluateConfig = EVALUATION,
    *,
    buffer: Path | str | None = None,
    names: Sequence[str] | None = None,
    fresh: bool = False,
    where: Where = HERE,
    screen: Screen | None = None,
) -> list[Score]:
    """Score synthetic sets on the test images, beside selections of real images and the whole data set.

    Args:
        synsets: The sets, or their paths.
        config: Real images, networks, seeds, protocol.
        buffer: Experts, a folder or a URI: herding and k-center then measure distances of their features, forgetting
            is added, and their logits label random images for robust scores of soft labels.
        names: Names of the sets' rows.
        fresh: Run every training again, also those with a cached result.
        where: Workers, cluster and device.
        screen: Where progress is printed.

    Returns:
        One score a row and network. The trainings of robust scores have ``part`` and ``of``; the best of kept steps
        has ``steps``.

    Raises:
        ValueError: Unknown data set, network, protocol or score, or sets or experts that do not fit the images.
        MissingTrainings: Some trainings failed; its ``result`` has the scores of the others.

    Example: examples/experts_and_distill.py (it starts a Ray).
    """
    screen = screen or Screen()
    keep_memory()
    check_workers(where)
    folder = None if buffer is None else local_folder(buffer, screen.note)
    loaded = [load_set(source, config, screen) for source in synsets]
    if folder is not None:
        screen.note(f"{folder}: {_use_of_experts(folder, config, loaded)}")
    sets, steps = [one.synset for one in loaded], [one.steps for one in loaded]
    matrix, work = plan(sets, names, config, driver_device(where), folder, steps)
    results = run_matrix(matrix, work.dataset, fresh=fresh, where=where, screen=screen)
    outcomes, missing = separate(matrix, results)
    by_title = {
        step_title(name, step): step for name, of in zip(titles(sets, names), steps, strict=True) for step in of
    }
    return complete(best_of_steps(summarise(matrix, outcomes), by_title), missing, len(results))


class LoadedSet(NamedTuple):
    """A set, and those of its run's kept steps where the configuration asks for them."""

    synset: SyntheticSet
    steps: Mapping[int, SyntheticSet] = {}


def load_set(source: SynsetSource, config: EvaluateConfig, screen: Screen) -> LoadedSet:
    """Load a set, and print what had to be assumed about another project's files."""
    if isinstance(source, SyntheticSet):
        if config.paper:
            raise ValueError("paper = true scores kept steps, which a set in memory has none of; give its run folder")
        return LoadedSet(source)
    source = local_path(source, screen.note)
    layout, home = detect(source, config.layout)
    given: dict[str, Any] = {"preprocessing": config.preprocessing}
    if layout != OURS:  # for our own sets this is the test data, not their source
        given["dataset"] = config.dataset
    given = {key: value for key, value in given.items() if value is not None}
    data = build(DataConfig, given) if given else None
    read = read_synset(source, layout=config.layout, data=data, lr=config.lr)
    if layout != OURS:
        screen.note(f"{source}: read as {layout}, {len(read.synset.images)} images of {read.synset.dataset}")
    for note in read.notes:
        screen.note(f"{source}: {note}")
    if step := read.synset.provenance.get(UNFINISHED):
        screen.note(f"{source}: the set of an unfinished run, at {step}")
    return LoadedSet(read.synset, load_scored_sets(home.parent) if config.paper else {})


def _use_of_experts(folder: Path, config: EvaluateConfig, loaded: Sequence[LoadedSet]) -> str:
    """Return in words what an evaluation uses the experts of a folder for."""
    ArrowBuffer(folder)
    wanted = CORESETS if config.baselines is None else config.baselines
    chosen = [kind for kind in CORESETS if kind in wanted and kind in BY_DISTANCE | NEED_EXPERTS]
    words = [f"its experts choose {', '.join(chosen)}"] if chosen else []
    if "forgetting" in chosen:
        words.append("forgetting asks every snapshot about each image")
    soft = any(one.synset.label_kind != "hard" for one in loaded)
    if soft and any(training.kind == "random" for training in needed(config.scores, "logits")):
        words.append("its experts label random images for the robust scores")
    return "; ".join(words) or "no row needs its experts"


def inputs_document(
    synsets: Sequence[Path], config: EvaluateConfig, given: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the inputs of an evaluation for its JSON document; call it first, since files may change meanwhile.

    A set's ``path`` is its URI if it is ``given`` as one, and else absolute. Its ``digest`` is the sha256 of its file;
    None for a folder of several files.
    """
    sets = []
    for path, location in zip(synsets, given or map(str, synsets), strict=True):
        _, home = detect(path, config.layout)
        digest = hashlib.sha256(home.read_bytes()).hexdigest() if home.is_file() else None
        sets.append({"path": public_uri(location) if is_uri(location) else str(path.absolute()), "digest": digest})
    return {"protocol": protocol_of(config).model_dump(mode="json"), "sets": sets}


def report(
    scores: Sequence[Score],
    config: EvaluateConfig,
    inputs: Mapping[str, Any],
    missing: Sequence[Missing] = (),
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the JSON document of scores of `evaluate`, with its configuration and `inputs_document`.

    ``missing`` are the trainings that failed, and ``names`` are as given to `evaluate`.

    ``steps`` has for each paper's number the step chosen on test, and all that it was chosen among. ``commit`` is the
    running source's; cached accuracies may be of the others that a score's ``commits`` names.
    """
    given = [score.name for score in scores if score.requested] + [one.name for one in missing if one.requested]
    requested = list(dict.fromkeys(given)) if names is None else titles((), names)
    honest = [score for score in table_rows(scores) if score.selection != "paper"]
    weighted = scores, config.scores, config.score_weight
    return {
        "scores": [score.to_document() for score in scores],
        "comparisons": [test.to_document() for test in compare_scores(honest, config.test, requested)],
        "robust": [score.to_document() for score in robust_scores(*weighted, partial=bool(missing))],
        "steps": [
            score.model_dump(mode="json", include={"of", "network", "step", "steps"}) for score in scores if score.steps
        ],
        "missing": [one.to_document() for one in missing],
        "settings": config.model_dump(mode="json"),
        "protocol": inputs["protocol"],
        "sets": [{"name": name} | one for name, one in zip(requested, inputs["sets"], strict=True)],
        "commit": commit(),
    }


def save_scores(scores: Sequence[Score], path: Path | str, more: Mapping[str, Any] | None = None) -> None:
    """Write scores as JSON to a path or a URI, with the other keys of their document."""
    with open_file(path, "raydd evaluate", Screen().note) as (_, file):
        write_document(file, {"scores": [score.to_document() for score in scores], **(more or {})})
