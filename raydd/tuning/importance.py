"""Which settings of a search mattered for the accuracy of its trials."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raydd.tuning.domains import Domain
from raydd.tuning.results import Record, accuracy_of, in_state, text_of
from raydd.tuning.space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


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
    pairs = ((record, accuracy_of(record)) for record in in_state(records, "complete", "pruned"))
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
