import math
from collections import Counter

import pytest

from raydd.config.parsing import flat
from raydd.config.schema import DistillConfig
from raydd.tuning.domains import Domain
from raydd.tuning.population import CHANGEABLE, perturb
from raydd.tuning.space_files import make_space

PBT = {"scheduler": {"name": "pbt"}, "search": {"algorithm": "random", "first": "none"}, "budget": {"samples": 4}}


def make(domains, **keys):
    return make_space(PBT | {"method": "datm", "dataset": "digits", "domains": domains} | keys)


def drawn(space, values, count=1500):
    return [perturb(space, values, "test", index) for index in range(count)]


def near(share, wanted, count):
    """Within four standard deviations of a share."""
    return abs(share - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / count)


def test_a_number_is_drawn_anew_one_time_in_four_and_else_goes_down_or_up_by_a_fifth():
    space, count = make({"lr.images": {"log_uniform": [1.0, 10000.0]}}), 1500
    found = [values["lr.images"] for values in drawn(space, {"lr.images": 100.0}, count)]
    down, up = (sum(math.isclose(value, wanted) for value in found) / count for wanted in (80.0, 120.0))
    anew = [value for value in found if not math.isclose(value, 80.0) and not math.isclose(value, 120.0)]
    assert near(down, 0.375, count)
    assert near(up, 0.375, count)
    assert near(len(anew) / count, 0.25, count)
    logs = [math.log10(value) for value in anew]
    assert abs(sum(logs) / len(logs) - 2) < 4 * 4 / math.sqrt(12 * len(logs)), "the mean of the domain's logarithms"
    assert 1.0 <= min(anew) < 3
    assert 4000 < max(anew) <= 10000


def test_a_number_is_put_back_into_its_domain():
    space = make({"lr.images": {"uniform": [90.0, 110.0]}})
    found = Counter(values["lr.images"] for values in drawn(space, {"lr.images": 100.0}, 400))
    assert {value for value, count in found.items() if count > 1} == {90.0, 110.0}
    assert all(90.0 <= value <= 110.0 for value in found)


@pytest.mark.parametrize(
    ("domain", "value", "moves"),
    [
        ({"integer": [1, 100]}, 50, {40, 60}),
        ({"integer": [1, 100]}, 2, {1, 3}),
        ({"integer": [1, 100]}, 100, {80}),
        ({"integer": [1, 101], "step": 25}, 26, {1, 51}),
        ({"log_integer": [1, 4000]}, 1000, {800, 1200}),
    ],
)
def test_a_whole_number_moves_by_a_step_at_least(domain, value, moves):
    space = make({"student_steps": domain})
    found = Counter(values["student_steps"] for values in drawn(space, {"student_steps": value}, 500))
    assert value not in found
    assert all(Domain(**domain).has(other) for other in found)
    assert {value for value, count in found.items() if count > 90} == moves, "moves are far likelier than any draw"


def test_a_choice_gives_way_to_a_neighbour():
    space, count = make({"pruning.metric": {"choice": ["abs", "squared", "relative"]}}), 900
    middle = Counter(values["pruning.metric"] for values in drawn(space, {"pruning.metric": "squared"}, count))
    assert set(middle) == {"abs", "relative"}
    assert near(middle["abs"] / count, 0.5, count)
    end = Counter(values["pruning.metric"] for values in drawn(space, {"pruning.metric": "abs"}, count))
    # 3/8 to the neighbour and 1/12 to each by a draw anew; what changes nothing is done again.
    assert set(end) == {"squared", "relative"}
    assert near(end["squared"] / count, (3 / 8 + 1 / 12) / (3 / 8 + 2 / 12), count)


def test_constraints_and_conditions_hold():
    domains = {
        "window.low": {"integer": [0, 20]},
        "window.current": {"integer": [0, 30]},
        "window.high": {"integer": [0, 40]},
        "pruning.rate": {"choice": [0.0, 0.1]},
        "pruning.metric": {"choice": ["abs", "squared"], "when": "pruning.rate > 0"},
    }
    rules = ["window.low <= window.current <= window.high"]
    space = make(domains, constraints=rules)
    start = {"window.low": 10, "window.current": 11, "window.high": 12, "pruning.rate": 0.0}
    found = drawn(space, start, 600)
    for values in found:
        assert values["window.low"] <= values["window.current"] <= values["window.high"]
        assert ("pruning.metric" in values) == (values["pruning.rate"] > 0)
        assert all(space.narrowed[key].has(value) for key, value in values.items())
    assert {values.get("pruning.metric") for values in found} == {None, "abs", "squared"}
    assert len({tuple(values.values()) for values in found}) > 100


def test_where_no_change_is_allowed_the_settings_stay():
    space = make(
        {"span": {"integer": [1, 40]}, "student_steps": {"choice": [7]}}, constraints=["span == student_steps"]
    )
    assert perturb(space, {"span": 7, "student_steps": 7}, "test") == {"span": 7, "student_steps": 7}


def test_draws_come_from_the_seed_and_what_they_are_for():
    domains, start = {"lr.images": {"uniform": [1.0, 1000.0]}, "gate": {"choice": [None, 1.0]}}, {"lr.images": 500.0}
    same = [perturb(make(domains), start | {"gate": None}, "perturb", 3, 1) for _ in range(2)]
    others = [perturb(make(domains, seed=seed), start | {"gate": None}, "perturb", 3, 1) for seed in range(1, 9)]
    assert same[0] == same[1]
    assert any(other != same[0] for other in others)
    assert len({str(perturb(make(domains), start | {"gate": None}, "perturb", 3, index)) for index in range(9)}) > 2


def test_changeable_settings_are_settings():
    assert set(flat(DistillConfig())) >= CHANGEABLE


@pytest.mark.parametrize(
    ("key", "domain", "said"),
    [
        ("ipc", {"integer": [1, 5]}, "this one cannot change; move it to set, or use another scheduler"),
        ("experts.num_experts", {"integer": [1, 5]}, "this one cannot"),
        ("formation.factor", {"choice": [1, 2]}, "this one cannot"),
        ("lr.start", {"uniform": [0.01, 0.1]}, "this one cannot"),
        ("steps", {"integer": [10, 20]}, "this one cannot"),
        ("lr.labels", {"uniform": [0.0, 5.0]}, "0 would stop learning this tensor; remove 0"),
        ("lr.lr", {"choice": [1e-5, 0.0]}, "0 would stop learning this tensor"),
    ],
)
def test_what_cannot_change_in_the_middle_is_refused(key, domain, said):
    with pytest.raises(ValueError, match=f"^space: domains.{key}: pbt changes settings [^\n]*{said}[^\n]*$"):
        make({"lr.images": {"uniform": [1.0, 2.0]}, key: domain})
    assert make({"lr.images": {"uniform": [1.0, 2.0]}}).scheduler.name == "pbt"


def test_pbt_needs_random_starts():
    with pytest.raises(
        ValueError, match=r"search\.algorithm: pbt perturbs settings itself and does not use tpe; use random"
    ):
        make({"lr.images": {"uniform": [1.0, 2.0]}}, search={"algorithm": "tpe"})
