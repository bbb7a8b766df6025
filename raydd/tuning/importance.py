"""The importance of each setting for the accuracy of a search's trials, by Optuna's fANOVA."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raydd.tuning.domains import Domain
from raydd.tuning.results import Record, accuracy_of, in_state, text_of
from raydd.tuning.space import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution


def importance(records: Sequence[Record], space: Space) -> dict[str, float]:
    r"""Return the share of each searched setting in the variance of the trials' accuracy, the largest first.

    A random forest is fitted to the accuracies. A setting's part is the variance, over its domain, of the forest's mean
    over all other settings; interactions are not counted. Logarithmic domains are measured in logarithms. A setting
    with a condition is measured among the trials that have it, with the settings that all of them have; by the law of
    total variance, its part is multiplied by the share of these trials in the variance of all trials. The effect of
    the condition itself belongs to the setting in it.

    Complete and pruned trials count, the latter with their last accuracy. Results of fewer than about twenty trials are
    unreliable. Shares sum to 1; a setting with one value has 0. Nothing is returned where all accuracies are equal.

    Reference:
        Hutter, Hoos and Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014.
    """
    pairs = ((record, accuracy_of(record)) for record in in_state(records, "complete", "pruned"))
    scored = [(record, score) for record, score in pairs if score is not None]
    whole = _variation([score for _, score in scored])
    if whole == 0:
        return {}
    having = {key: [pair for pair in scored if key in pair[0].values] for key in space.domains}
    parts = {key: 0.0 for key, some in having.items() if some}
    for group in {tuple(record.number for record, _ in some): some for some in having.values()}.values():
        weight = _variation([score for _, score in group]) / whole
        shares = _fanova(group, space) if weight else {}
        parts |= {key: weight * part for key, part in shares.items() if len(having[key]) == len(group)}
    total = sum(parts.values())
    return {key: float(parts[key] / total) for key in sorted(parts, key=lambda key: -parts[key])} if total else {}


def _variation(scores: Sequence[float]) -> float:
    """Return the sum of squared deviations from the mean; exactly 0 for equal scores."""
    if len(set(scores)) < 2:
        return 0.0
    mean = math.fsum(scores) / len(scores)
    return math.fsum((score - mean) ** 2 for score in scores)


def _fanova(scored: Sequence[tuple[Record, float]], space: Space) -> dict[str, float]:
    """Return the part of each setting that all these trials have and that differs among them."""
    import optuna  # takes a second to import

    shared = [key for key in space.domains if all(key in record.values for record, _ in scored)]
    columns = {key: [_coordinate(record.values[key], space.domains[key]) for record, _ in scored] for key in shared}
    columns = {key: column for key, column in columns.items() if len(set(column)) > 1}
    if not columns:
        return {}
    kinds = {key: _distribution(column, space.domains[key]) for key, column in columns.items()}
    study = study_in_memory(columns, kinds, [score for _, score in scored])
    try:
        return optuna.importance.FanovaImportanceEvaluator(seed=space.seed % 2**32).evaluate(
            study, params=list(columns)
        )
    except RuntimeError:  # no tree of the forest splits: the values are equal in float32
        return {}


def study_in_memory(
    columns: Mapping[str, Sequence[Any]], kinds: Mapping[str, "BaseDistribution"], scores: Sequence[float]
) -> "Study":
    """Return an Optuna study with a trial per score, given the values of each setting; None leaves a setting out."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize")
    finally:
        optuna.logging.set_verbosity(level)
    for index, score in enumerate(scores):
        params = {key: column[index] for key, column in columns.items() if column[index] is not None}
        own = {key: kinds[key] for key in params}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=own, value=score))
    return study


def _coordinate(value: Any, domain: Domain) -> Any:
    if domain.choice is not None:
        return text_of(value)
    return math.log10(value) if domain.log else float(value)


def _distribution(values: Sequence[Any], domain: Domain) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if domain.choice is not None:
        return CategoricalDistribution(tuple(dict.fromkeys([*map(text_of, domain.choice), *values])))
    ends = [_coordinate(end, domain) for end in (domain.low, domain.high)]
    return FloatDistribution(min(ends[0], *values), max(ends[1], *values))  # a population's values may be outside
