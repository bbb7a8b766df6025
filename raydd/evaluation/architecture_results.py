"""Rankings of architectures by proxy sets and by real data, and files of the latter."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from raydd.data.datasets import DATASETS, Dataset
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.matrix import Matrix, ScoreRow
from raydd.evaluation.rank_agreement import Ranking, agreement, best, regret
from raydd.evaluation.successive_halving import Rungs
from raydd.io.bounded_file import read_bytes
from raydd.io.document import parse, without_checksum, write_document

Outcomes = Mapping[Job, Outcome]
ByArchitecture = Mapping[str, Sequence[Outcome]]
"""The trainings of each architecture, one a seed."""
Document = dict[str, Any]
Selection = Literal["honest", "paper", "unknown"]


@dataclass(frozen=True)
class RealRanking:
    """The accuracy of architectures on real data.

    ``label`` continues the word "trained". ``values`` has an accuracy a seed; ``seconds`` is of an architecture's
    trainings together. Both are empty where unknown.
    """

    label: str
    accuracy: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)


def proxy_result(
    matrix: Matrix, outcomes: Outcomes, index: int, real: RealRanking | None, tops: Sequence[int]
) -> Document:
    """Return how a row's set ranks the architectures of a matrix, and how that agrees with real data.

    Accuracies are means over the seeds. With rungs, architectures that passed more of them (mean over the seeds) rank
    above those that passed fewer, and accuracy decides between equals. ``stopped_after`` has the fewest epochs of
    several seeds; ``seconds`` are of all trainings, ``seconds_mean`` of one, ``seconds_of`` of an architecture.
    """
    row, runs = matrix.rows[index], _by_architecture(matrix, outcomes, index)
    measured = _ranking(runs)
    scores, seconds = measured.accuracy, measured.seconds
    last = {name: [run.curve[-1][0] for run in each if run.stopped] for name, each in runs.items()}
    stopped_after = {name: min(epochs) for name, epochs in last.items() if epochs}
    ranking: Ranking = scores if matrix.rungs is None else _with_rungs(scores, runs, matrix.rungs)
    order, total = best(ranking, len(ranking)), math.fsum(seconds.values())
    return {
        "name": row.name,
        "kind": row.kind,
        "ipc": row.sets[0].ipc,
        "selection": row.selection,
        "preprocessing": row.sets[0].transform.kind,
        "scores": scores,
        "values": measured.values,
        "ranking": order,
        "stopped": list(stopped_after),
        "stopped_after": stopped_after,
        "seconds": total,
        "seconds_mean": total / (len(runs) * len(matrix.seeds)),
        "seconds_of": seconds,
        "winner": {
            "architecture": order[0],
            "accuracy": scores[order[0]],
            "real_accuracy": real and real.accuracy[order[0]],
            "regret": real and regret(ranking, real.accuracy, 1),
        },
        "agreement": real and agreement(ranking, real.accuracy, tops),
    }


def real_ranking(matrix: Matrix, outcomes: Outcomes) -> RealRanking:
    """Return the ranking by the whole data, which is a matrix's last row."""
    label = f"{epochs_text(matrix.protocol.real_epochs)} on all training images (test images)"
    if len({row.sets[0].transform.hash for row in matrix.rows if row.sets}) > 1:  # it has one preprocessing only
        label += f", preprocessed as the first set ({matrix.first_set().transform.kind})"
    return _ranking(_by_architecture(matrix, outcomes, len(matrix.rows) - 1), label)


def epochs_text(epochs: int) -> str:
    """Return a number of epochs in words.

    >>> epochs_text(1), epochs_text(20)
    ('1 epoch', '20 epochs')
    """
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def _by_architecture(matrix: Matrix, outcomes: Outcomes, index: int) -> ByArchitecture:
    return {name: [outcomes[Job(index, name, seed)] for seed in matrix.seeds] for name in matrix.networks}


def _ranking(runs: ByArchitecture, label: str = "") -> RealRanking:
    """Return means, durations and accuracies by architecture."""
    values = {name: [run.value for run in each] for name, each in runs.items()}
    seconds = {name: math.fsum(run.seconds for run in each) for name, each in runs.items()}
    return RealRanking(label, {name: statistics.fmean(each) for name, each in values.items()}, seconds, values)


def _with_rungs(scores: Mapping[str, float], runs: ByArchitecture, rungs: Rungs) -> Ranking:
    """Return (rungs passed, accuracy) of each architecture."""
    passed = {
        name: [rungs.epochs.index(run.curve[-1][0]) if run.stopped else len(rungs.epochs) for run in each]
        for name, each in runs.items()
    }
    return {name: (statistics.fmean(passed[name]), score) for name, score in scores.items()}


def rank_on(
    matrix: Matrix, dataset: Dataset, split: Literal["validation", "test"]
) -> tuple[Matrix, Selection, list[str]]:
    """Set the split on which a matrix's sets rank, and whether each is independent of it.

    ``honest`` ranks on images that the set has not seen, ``paper`` on the test images, and ``unknown`` where the set
    may have learned from the validation images, or may itself have been chosen on test. The result also has the
    weakest selection of all, and a line for each doubt.
    """
    rows, doubts = list[ScoreRow](), list[str]()
    for row in matrix.rows:
        doubt = (
            selection_doubt(row, dataset, matrix.data.validation) if row.requested and split == "validation" else None
        )
        if doubt is not None:
            doubts.append(f"{row.name} {doubt}: its selection is unknown")
        selection: Selection = "paper" if split == "test" else "unknown" if doubt else "honest"
        rows.append(replace(row, split=split, selection=selection) if row.sets else row)
    weakest: Selection = "paper" if split == "test" else "unknown" if doubts else "honest"
    return replace(matrix, rows=tuple(rows)), weakest, doubts


def selection_doubt(row: ScoreRow, dataset: Dataset, validation: float) -> str | None:
    """Return why a set may know the images on which architectures are ranked or compared; None if it does not.

    The data set's name and the fraction ``validation`` decide which images are held out, so a set that was made with
    the same two has seen none of them.
    """
    (synset,) = row.sets
    data = synset.recipe.get("data", {})
    imported = "imported" in synset.provenance and "method" not in synset.recipe  # the recipe is that of the import
    if imported or not {"dataset", "validation"} <= data.keys():
        return "does not say which images were held out of it, and may have learned from the validation images"
    if data["validation"] != validation:
        return (
            f"was made with validation {data['validation']:g} and ranks with {validation:g}, "
            "and may have learned from the validation images"
        )
    path = Path(str(data["dataset"]))  # `raydd.data.datasets` names files without these suffixes
    is_file = str(path) not in DATASETS and path.suffix in (".npz", ".parquet")
    source = path.stem if is_file else path.name
    if source != dataset.name or synset.provenance.get("fingerprint", dataset.fingerprint) != dataset.fingerprint:
        return f"is of {source} and ranks on {dataset.name}, and may have learned from these validation images"
    if row.selection != "honest":
        return "does not say on which images it was chosen among its steps"
    return None


def save_real(real: RealRanking, path: Path, dataset: Dataset) -> Path:
    """Write a ranking by real data as JSON, which `read_real` reads."""
    return write_document(path, {"dataset": dataset.name, "fingerprint": dataset.fingerprint} | vars(real))


def read_real(path: Path, names: Sequence[str], dataset: Dataset) -> RealRanking:
    """Read accuracies on real data: JSON of `save_real`, or CSV with the columns architecture and accuracy.

    Architectures that are not in ``names`` are ignored.
    """
    tree = _read(path)
    accuracy, seconds, values = tree.get("accuracy"), tree.get("seconds"), tree.get("values")
    if not isinstance(accuracy, dict):
        raise ValueError(f"--real {path} has no accuracies: give a real.json, or CSV with architecture,accuracy")
    if tree.get("fingerprint", dataset.fingerprint) != dataset.fingerprint:
        raise ValueError(
            f"--real {path} is of {tree.get('dataset')} with fingerprint {tree['fingerprint']!r}, "
            f"{dataset.name} has {dataset.fingerprint!r}: rank by one of them"
        )
    if missing := [name for name in names if name not in accuracy]:
        raise ValueError(
            f"--real {path} lacks {len(missing)} of {len(names)} architectures, the first is {missing[0]}: "
            "add them, or leave --real out to train them here"
        )
    means = {name: _fraction(path, name, accuracy[name]) for name in names}
    known = {name: seconds[name] for name in names if name in seconds} if isinstance(seconds, dict) else {}
    by_seed = {name: values[name] for name in names if name in values} if isinstance(values, dict) else {}
    if not all(isinstance(each, list) for each in by_seed.values()):
        raise ValueError(f"--real {path}: values are no lists of one accuracy a seed; leave them out")
    fractions = {name: [_fraction(path, name, value) for value in each] for name, each in by_seed.items()}
    return RealRanking(str(tree.get("label", f"as {path.name} says")), means, known, fractions)


def _read(path: Path) -> Document:
    """Return the contents of a file of accuracies, with the keys of `save_real`."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
        if path.suffix == ".json":
            tree = without_checksum(parse(text))
            return tree if isinstance(tree, dict) else {}
        lines = list(csv.DictReader(io.StringIO(text), skipinitialspace=True, strict=True))
    except OSError as error:
        raise ValueError(
            f"--real {path}: {error.strerror}; give a real.json, or CSV with architecture,accuracy"
        ) from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"--real {path} is damaged: {' '.join(str(error).split())}") from None
    if not lines or not {"architecture", "accuracy"} <= lines[0].keys():
        return {}
    accuracy: dict[str, str] = {}
    for line in lines:
        if line["architecture"] in accuracy:
            raise ValueError(f"--real {path} has {line['architecture']} twice: keep one of its rows")
        accuracy[line["architecture"]] = line["accuracy"]
    return {"accuracy": accuracy}


def _fraction(path: Path, name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"--real {path}: the accuracy of {name} is {value!r}; give fractions from 0 to 1")
    return number
