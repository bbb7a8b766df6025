"""What trainings of architectures come to: their rankings by proxy sets and by real data, and files of the latter.

Shapes: none; accuracies are fractions.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from raydd.data.datasets import DATASETS, Dataset
from raydd.evaluation.matrix import Entry, Job, Matrix, Outcome
from raydd.evaluation.rank_agreement import Ranking, agreement, best, regret
from raydd.evaluation.successive_halving import Rungs
from raydd.io.bounded_file import read_bytes
from raydd.io.document import parse, without_checksum, write_document

Outcomes = Mapping[Job, Outcome]
Runs = Mapping[str, Sequence[Outcome]]
"""By architecture: its trainings, one a seed."""
Document = dict[str, Any]
Selection = Literal["honest", "paper", "unknown"]


@dataclass(frozen=True)
class Real:
    """The ranking by real data.

    Attributes:
        label: How the networks were trained, words that go on from "trained".
        accuracy: By architecture.
        seconds: Of an architecture's trainings together; empty where they are not known.
        values: Accuracies by architecture, one a seed; empty where they are not known.
    """

    label: str
    accuracy: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)


def proxy_of(matrix: Matrix, outcomes: Outcomes, index: int, real: Real | None, tops: Sequence[int]) -> Document:
    """How the set of an entry ranks the architectures of a matrix, and how that agrees with real data.

    Accuracies are means over the seeds. Where trainings may be stopped at rungs, what passed more of them (in the mean
    over the seeds) ranks above what passed fewer, and accuracy decides between equals.

    Args:
        matrix: The trainings.
        outcomes: What they came to.
        index: Of the entry.
        real: The ranking by real data; None leaves the comparison out.
        tops: Sizes of the tops.

    Returns:
        ``name``, ``kind``, ``ipc``, ``selection``, ``preprocessing``; ``scores`` (accuracy by architecture) and
        ``values`` (a list of one a seed); ``ranking`` (the best first); ``stopped`` and ``stopped_after`` (epochs; of
        several seeds the fewest); ``seconds`` of all trainings, ``seconds_mean`` of one, ``seconds_of`` an
        architecture's; ``winner``; and ``agreement`` (`raydd.evaluation.rank_agreement`), or None.
    """
    entry, runs = matrix.entries[index], _runs(matrix, outcomes, index)
    scores, seconds = _accuracy(runs), _seconds(runs)
    ended = {name: [run.curve[-1][0] for run in found if run.stopped] for name, found in runs.items()}
    after = {name: min(epochs) for name, epochs in ended.items() if epochs}
    ranking = _ranking(scores, runs, matrix.rungs)
    order, total = best(ranking, len(ranking)), math.fsum(seconds.values())
    return {
        "name": entry.name,
        "kind": entry.kind,
        "ipc": entry.sets[0].ipc,
        "selection": entry.selection,
        "preprocessing": entry.sets[0].transform.kind,
        "scores": scores,
        "values": _values(runs),
        "ranking": order,
        "stopped": list(after),
        "stopped_after": after,
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


def trained(matrix: Matrix, outcomes: Outcomes) -> Real:
    """The ranking by the whole data, which is a matrix's last entry."""
    runs = _runs(matrix, outcomes, len(matrix.entries) - 1)
    label = f"{counted(matrix.protocol.real_epochs)} on all training images (test images)"
    looks = {entry.sets[0].transform.hash for entry in matrix.entries if entry.sets}
    if len(looks) > 1:  # the real ranking is of one preprocessing, not of every proxy set's
        label += f", preprocessed as the first set ({matrix.look().transform.kind})"
    return Real(label, _accuracy(runs), _seconds(runs), _values(runs))


def counted(epochs: int) -> str:
    """A number of epochs in words.

    >>> counted(1), counted(20)
    ('1 epoch', '20 epochs')
    """
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def _runs(matrix: Matrix, outcomes: Outcomes, index: int) -> Runs:
    return {name: [outcomes[Job(index, name, seed)] for seed in matrix.seeds] for name in matrix.networks}


def _accuracy(runs: Runs) -> dict[str, float]:
    return {name: statistics.fmean(run.value for run in found) for name, found in runs.items()}


def _values(runs: Runs) -> dict[str, list[float]]:
    return {name: [run.value for run in found] for name, found in runs.items()}


def _seconds(runs: Runs) -> dict[str, float]:
    return {name: math.fsum(run.seconds for run in found) for name, found in runs.items()}


def _ranking(scores: Mapping[str, float], runs: Runs, rungs: Rungs | None) -> Ranking:
    """What architectures are compared by: (rungs passed, accuracy) where there are rungs."""
    if rungs is None:
        return scores
    passed = {
        name: [rungs.epochs.index(run.curve[-1][0]) if run.stopped else len(rungs.epochs) for run in found]
        for name, found in runs.items()
    }
    return {name: (statistics.fmean(passed[name]), score) for name, score in scores.items()}


def judged(
    matrix: Matrix, dataset: Dataset, split: Literal["validation", "test"]
) -> tuple[Matrix, Selection, list[str]]:
    """Let the sets of a matrix rank on a split, and say of each how honest that is.

    ``honest`` ranks on images that the set has not seen, ``paper`` on the test images, and ``unknown`` where the set
    may have learned from the validation images, or may itself have been chosen on test.

    Args:
        matrix: The trainings.
        dataset: Its real images.
        split: Which images rank.

    Returns:
        The matrix with split and selection; the weakest selection of all; and a line for each doubt, naming the set.
    """
    entries, doubts = list[Entry](), list[str]()
    for entry in matrix.entries:
        doubt = doubt_of(entry, dataset, matrix.data.validation) if entry.asked and split == "validation" else None
        if doubt is not None:
            doubts.append(f"{entry.name} {doubt}: its selection is unknown")
        selection: Selection = "paper" if split == "test" else "unknown" if doubt else "honest"
        entries.append(replace(entry, split=split, selection=selection) if entry.sets else entry)
    weakest: Selection = "paper" if split == "test" else "unknown" if doubts else "honest"
    return replace(matrix, entries=tuple(entries)), weakest, doubts


def doubt_of(entry: Entry, dataset: Dataset, validation: float) -> str | None:
    """Why a set may know images on which architectures are ranked, or with which they are compared; None if not.

    The held-out images are drawn by the data set's name and their fraction, so a set has seen none of them if it was
    made with the same two.

    Args:
        entry: The set.
        dataset: The real images.
        validation: Fraction of the training images that is held out of them.
    """
    (synset,) = entry.sets
    data = synset.recipe.get("data", {})
    imported = "imported" in synset.provenance and "method" not in synset.recipe  # the recipe is that of the reading
    if imported or not {"dataset", "validation"} <= data.keys():
        return "does not say which images were held out of it, and may have learned from the validation images"
    if data["validation"] != validation:
        return (
            f"was made with validation {data['validation']:g} and ranks with {validation:g}, "
            "and may have learned from the validation images"
        )
    source = _source_name(str(data["dataset"]))
    if source != dataset.name or synset.provenance.get("fingerprint", dataset.fingerprint) != dataset.fingerprint:
        return f"is of {source} and ranks on {dataset.name}, and may have learned from these validation images"
    if entry.selection != "honest":
        return "does not say on which images it was chosen among its steps"
    return None


def _source_name(dataset: str) -> str:
    """What the holdout of a data set is drawn by: `raydd.data.datasets` names files without their endings."""
    path = Path(dataset)
    return path.stem if dataset not in DATASETS and path.suffix in (".npz", ".parquet") else path.name


def save_real(real: Real, path: Path, dataset: Dataset) -> Path:
    """Write a ranking by real data as JSON, which `read_real` reads."""
    source = {"dataset": dataset.name, "fingerprint": dataset.fingerprint}
    found = source | {"label": real.label, "accuracy": real.accuracy, "seconds": real.seconds}
    found |= {"values": real.values}
    return write_document(path, found)


def read_real(path: Path, names: Sequence[str], dataset: Dataset) -> Real:
    """Accuracies by real data: from JSON of `save_real`, or from CSV with the columns architecture and accuracy.

    Args:
        path: The file; architectures beside ``names`` are left out.
        names: The architectures that are ranked.
        dataset: The real images; the JSON says of which it is.

    Raises:
        ValueError: In one line: no such file, of other images, architectures missing, or values outside [0, 1].
    """
    found = _read(path)
    accuracy, seconds = found.get("accuracy"), found.get("seconds")
    if not isinstance(accuracy, dict):
        raise ValueError(f"--real {path} has no accuracies: give a real.json, or CSV with architecture,accuracy")
    if found.get("fingerprint", dataset.fingerprint) != dataset.fingerprint:
        source = f"{found.get('dataset')} with fingerprint {found['fingerprint']!r}"
        raise ValueError(
            f"--real {path} is of {source}, {dataset.name} has {dataset.fingerprint!r}: rank by one of them"
        )
    missing = [name for name in names if name not in accuracy]
    if missing:
        lacks = f"{len(missing)} of {len(names)} architectures, the first is {missing[0]}"
        raise ValueError(f"--real {path} lacks {lacks}: add them, or leave --real out to train them here")
    known = {name: seconds[name] for name in names if name in seconds} if isinstance(seconds, dict) else {}
    label = str(found.get("label", f"as {path.name} says"))
    means, spread = {name: _fraction(path, name, accuracy[name]) for name in names}, found.get("values")
    seeds = {name: spread[name] for name in names if name in spread} if isinstance(spread, dict) else {}
    if not all(isinstance(values, list) for values in seeds.values()):
        raise ValueError(f"--real {path}: values are no lists of one accuracy a seed; leave them out")
    values = {name: [_fraction(path, name, value) for value in each] for name, each in seeds.items()}
    return Real(label, means, known, values)


def _read(path: Path) -> Document:
    """What a file of accuracies holds, as `save_real` names it."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
        if path.suffix == ".json":
            found = without_checksum(parse(text))
            return found if isinstance(found, dict) else {}
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
