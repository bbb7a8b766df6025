"""What a search found: a record of each trial as rows of a file, the winner, and which settings mattered."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raydd.data.files import AnyPath, atomic_path
from raydd.tuning.domains import Domain
from raydd.tuning.space import Space
from raydd.tuning.table import State as State
from raydd.tuning.table import read_rows, with_seal

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SETTINGS = "settings."
_ABSENT = object()


@dataclass(frozen=True)
class Record:
    """One trial of a search.

    Attributes:
        number: Its place in the search, from 0.
        state: ``pruned`` was stopped early by the scheduler; ``unfinished`` still runs, or was cut off.
        values: The searched settings by dotted key, those of active domains only.
        metrics: What it reached: ``accuracy`` on the validation split in [0, 1], ``seconds``, and others; empty when
            nothing was reported.
        step: The outer step it came to.
        reports: (index or step, best accuracy so far) of each of its reports, in order.
        error: Why it failed, in one line; empty for the other states.
    """

    number: int
    state: State
    values: dict[str, Any]
    metrics: dict[str, float]
    step: int
    reports: tuple[tuple[int, float], ...]
    error: str


def accuracy_of(record: Record) -> float | None:
    """The best accuracy on the validation split that a trial is known to have reached; None where there is none."""
    known = [record.metrics["accuracy"]] if "accuracy" in record.metrics else [score for _, score in record.reports]
    return max((score for score in known if math.isfinite(score)), default=None)


def text_of(value: Any) -> str:
    """A value as text: words as they are, all else as compact JSON.

    >>> text_of("abs"), text_of([0.1, None])
    ('abs', '[0.1,null]')
    """
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def rows_of(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records as plain rows with equal keys, by trial number; what a trial does not have is None.

    Keys are trial, state, accuracy, seconds, any further metrics, step, error, and ``settings.<key>`` for each searched
    setting. A setting's values are all whole numbers, numbers, truth values or words; where records mix kinds, or have
    lists or nulls, they are text as of `text_of`, so that a value of null differs from a setting not searched.
    """
    ordered = sorted(records, key=lambda record: record.number)
    extra = dict.fromkeys(name for record in ordered for name in record.metrics if name not in ("accuracy", "seconds"))
    columns: dict[str, list[Any]] = {
        "trial": [record.number for record in ordered],
        "state": [record.state for record in ordered],
        "accuracy": [accuracy_of(record) for record in ordered],
    }
    for name in ("seconds", *extra):
        columns[name] = [_finite(record.metrics.get(name)) for record in ordered]
    columns["step"] = [record.step for record in ordered]
    columns["error"] = [record.error for record in ordered]
    for key in dict.fromkeys(key for record in ordered for key in record.values):
        columns[SETTINGS + key] = _one_kind([record.values.get(key, _ABSENT) for record in ordered])
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _one_kind(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not _ABSENT}
    if kinds == {int, float}:
        return [None if value is _ABSENT else float(value) for value in values]
    if len(kinds) == 1 and kinds <= {bool, int, float, str}:
        return [None if value is _ABSENT else value for value in values]
    return [None if value is _ABSENT else text_of(value) for value in values]


def save_results(records: Sequence[Record], path: AnyPath) -> Path:
    """Write the rows of `rows_of` as a Parquet file, whole or not at all.

    Args:
        records: In any order; there may be none.
        path: Where to.

    Returns:
        The path.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = rows_of(records)
    fixed = {"trial": pa.int64(), "state": pa.string(), "accuracy": pa.float64(), "seconds": pa.float64()}
    fixed |= {"step": pa.int64(), "error": pa.string()}
    columns = {}
    for key in rows[0] if rows else fixed:
        kind = fixed.get(key, None if key.startswith(SETTINGS) else pa.float64())
        columns[key] = pa.array([row[key] for row in rows], kind)
    with atomic_path(path) as temporary:
        pq.write_table(with_seal(pa.table(columns)), temporary)
    return Path(path)


def load_results(path: AnyPath) -> list[dict[str, Any]]:
    """The rows of a file of `save_results`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or is not one of a search.
    """
    return read_rows(path)


def winner(records: Sequence[Record], directions: Mapping[str, str]) -> Record | None:
    """The trial of the best accuracy among the complete ones.

    Where none is complete, among the pruned and unfinished ones that have reported. With several metrics too
    it is accuracy that decides, and of equal ones the fewer seconds; `front` has the others. Then the lower number
    wins.

    Args:
        records: In any order.
        directions: By metric, ``max`` or ``min``.
    """
    sign = -1 if directions.get("accuracy") == "min" else 1
    for states in (("complete",), ("pruned", "unfinished")):
        scored = [(record, score) for record in _of(records, *states) if (score := accuracy_of(record)) is not None]
        if scored:
            cheap = "seconds" in directions
            # max keeps the first, which has the lower number
            return max(scored, key=lambda pair: (sign * pair[1], -pair[0].metrics.get("seconds", 0) * cheap))[0]
    return None


def front(records: Sequence[Record], directions: Mapping[str, str]) -> list[Record]:
    """The complete trials that no other one beats in one metric without losing in another, by number.

    Args:
        records: In any order; those that lack one of the metrics are left out.
        directions: By metric, ``max`` or ``min``.
    """
    gains = []
    for record in _of(records, "complete"):
        known = {**record.metrics, "accuracy": accuracy_of(record)}
        measured = [value for name in directions if (value := _finite(known.get(name))) is not None]
        if len(measured) == len(directions):
            signs = [-1 if direction == "min" else 1 for direction in directions.values()]
            gains.append((record, tuple(sign * value for sign, value in zip(signs, measured, strict=True))))
    return [record for record, gain in gains if not any(_beats(other, gain) for _, other in gains)]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _of(records: Sequence[Record], *states: State) -> list[Record]:
    return sorted((record for record in records if record.state in states), key=lambda record: record.number)


def scales(space: Space) -> dict[str, str]:
    """By searched setting: choice, log or linear, as the figures of `raydd.report.tuning` lay out its axis."""
    named = {True: "log", False: "linear"}
    return {key: named[domain.log] if domain.choice is None else "choice" for key, domain in space.domains.items()}


def importance(records: Sequence[Record], space: Space) -> dict[str, float]:
    r"""The share of each searched setting in the variance of the trials' accuracy, the largest first.

    By fANOVA: a random forest is fitted to the accuracies, and a setting's part is the variance of the forest's mean
    over all other settings, over the whole domain; interactions are no one's part. Logarithmic domains are measured in
    logarithms. A setting searched under a condition is judged among the trials that have it, beside those settings that
    all of them have; by the law of total variance its part is then weighted with the share of these trials' variance
    in that of all trials. Whether the condition holds is the part of the setting that it asks about.

    A pruned trial counts with what it had reached, unfinished and failed ones do not. Below some twenty trials the
    numbers say little.

    Returns:
        Shares by key, which sum to 1; 0 where all trials have one value. Empty where nothing can be told: fewer than
        two accuracies, or equal ones, or one value of every setting.

    Reference:
        Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014.
    """
    pairs = ((record, accuracy_of(record)) for record in _of(records, "complete", "pruned"))
    scored = [(record, score) for record, score in pairs if score is not None]
    whole = _variation([score for _, score in scored])
    if whole == 0:
        return {}
    having = {key: [pair for pair in scored if key in pair[0].values] for key in space.domains}
    parts = {key: 0.0 for key, some in having.items() if some}
    for group in {tuple(record.number for record, _ in some): some for some in having.values()}.values():
        weight = _variation([score for _, score in group]) / whole
        found = _fanova(group, space) if weight else {}
        parts |= {key: weight * part for key, part in found.items() if len(having[key]) == len(group)}
    total = sum(parts.values())
    return {key: float(parts[key] / total) for key in sorted(parts, key=lambda key: -parts[key])} if total else {}


def _variation(scores: Sequence[float]) -> float:
    """The sum of squares about the mean; 0 of equal scores, whatever the rounding."""
    if len(set(scores)) < 2:
        return 0.0
    mean = math.fsum(scores) / len(scores)
    return math.fsum((score - mean) ** 2 for score in scores)


def _fanova(scored: Sequence[tuple[Record, float]], space: Space) -> dict[str, float]:
    """The part of each setting that all these trials have and that varies among them."""
    import optuna  # here: whoever reads records needs no second to load it

    shared = [key for key in space.domains if all(key in record.values for record, _ in scored)]
    places = {key: [_place(record.values[key], space.domains[key]) for record, _ in scored] for key in shared}
    places = {key: column for key, column in places.items() if len(set(column)) > 1}
    if not places:
        return {}
    kinds = {key: _distribution(column, space.domains[key]) for key, column in places.items()}
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
    finally:
        optuna.logging.set_verbosity(level)
    for index, (_, score) in enumerate(scored):
        params = {key: column[index] for key, column in places.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=kinds, value=score))
    try:
        return optuna.importance.FanovaImportanceEvaluator(seed=space.seed % 2**32).evaluate(study, params=list(places))
    except RuntimeError:  # no tree of the forest splits: its float32 does not tell the values apart
        return {}


def _place(value: Any, domain: Domain) -> Any:
    if domain.choice is not None:
        return text_of(value)
    return math.log10(value) if domain.log else float(value)


def _distribution(places: Sequence[Any], domain: Domain) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if domain.choice is not None:
        return CategoricalDistribution(tuple(dict.fromkeys([*map(text_of, domain.choice), *places])))
    ends = [_place(end, domain) for end in (domain.low, domain.high)]
    return FloatDistribution(min(ends[0], *places), max(ends[1], *places))  # a value may lie outside: a population's
