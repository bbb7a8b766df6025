import copy
import math

import pytest
import torch
import yaml

from raydd.config.parsing import build, flat
from raydd.config.presets import load_preset
from raydd.config.schema import DistillConfig
from raydd.methods import complete
from raydd.numerics.rng import generator
from raydd.tuning.domains import Domain
from raydd.tuning.space_files import load_space, make_space, with_settings

TREE = {
    "method": "datm",
    "domains": {
        "window.low": {"integer": [0, 10]},
        "window.current": {"integer": [0, 20]},
        "window.high": {"integer": [1, 60]},
        "lr.images": {"log_uniform": [1, 100]},
        "pruning.rate": {"choice": [0.0, 0.1]},
        "pruning.metric": {"choice": ["abs", "squared"], "when": "pruning.rate > 0"},
    },
    "constraints": ["window.low <= window.current <= window.high", "window.high + span <= experts.epochs"],
    "budget": {"samples": 8},
}


def changed(**changes):
    tree = copy.deepcopy(TREE)
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = tree
        for parent in parents:
            place = place[parent]
        place[last] = value
    return tree


def test_a_trials_configuration_is_the_preset_under_the_space_under_the_values() -> None:
    space = make_space(changed(set={"steps": 60, "lr": {"labels": 7}}))
    values = {"lr.images": 3.5, "window.high": 12}
    config = space.config(values)
    preset = complete(build(DistillConfig, load_preset("digits", "datm", 1), {"method": "datm"}))
    expected = flat(preset) | values | {"steps": 60, "lr.labels": 7, "threads": 1, "evaluate_every": 12}
    assert flat(config) == expected
    assert space.settings(values) == expected | {"evaluate_every": 12}
    assert space.config({"ipc": 10}).batch_size == 50  # the preset follows the images a class
    assert make_space(changed(set={"evaluate_every": 7})).config({}).evaluate_every == 7


def test_samples_are_allowed_and_conditional_settings_appear_only_under_their_condition() -> None:
    space = make_space(TREE)
    samples = [space.sample(generator(0, "sample", k)) for k in range(200)]
    for values in samples:
        assert values["window.low"] <= values["window.current"] <= values["window.high"] <= 48  # 50 epochs less span 2
        assert ("pruning.metric" in values) == (values["pruning.rate"] > 0)
        assert space.violated(values) is None
        assert space.config(values).pruning.rate == values["pruning.rate"]
    assert {values.get("pruning.metric") for values in samples} == {None, "abs", "squared"}
    assert space.violated(samples[0] | {"window.low": 10, "window.current": 3}) == TREE["constraints"][0]


def test_domains_are_narrowed_by_what_is_fixed_and_keep_their_written_ends() -> None:
    space = make_space(TREE)
    assert space.narrowed["window.high"].integer == (1, 48)
    short = with_settings(space, {"experts": {"epochs": 6}})
    assert [short.narrowed[f"window.{name}"].integer for name in ("low", "current", "high")] == [(0, 4), (0, 4), (1, 4)]
    assert with_settings(short, {"experts": {"epochs": 70}}).narrowed["window.high"].integer == (1, 60)
    fixed = with_settings(space, {"window": {"high": 5}, "steps": 9})
    assert "window.high" not in fixed.domains
    assert fixed.config({}).window.high == 5
    assert fixed.narrowed["window.low"].integer == (0, 5)


def test_the_presets_own_point_is_known_where_it_lies_inside() -> None:
    space = make_space(TREE)
    own = {"window.low": 0, "window.current": 4, "window.high": 10, "lr.images": 5.0, "pruning.rate": 0.0}
    assert space.preset_values() == own
    assert make_space(TREE | {"domains": {"lr.images": {"uniform": [6, 9]}}, "constraints": []}).preset_values() is None
    assert make_space(changed(search={"first": {"lr.images": 50}})).preset_values() == own | {"lr.images": 50}
    assert make_space(changed(search={"first": {"window.low": 9}})).preset_values() is None  # above window.current


def test_a_grid_has_every_allowed_point_once_in_order() -> None:
    domains = {
        "span": {"choice": [4, 2]},
        "window.high": {"integer": [44, 48], "step": 2},
        "ema": {"choice": [None, 0.5]},
    }
    space = make_space(TREE | {"domains": domains, "search": {"algorithm": "grid"}, "budget": {}})
    assert [tuple(point.values()) for point in space.grid()] == [
        (4, 44, None), (4, 44, 0.5), (4, 46, None), (4, 46, 0.5),
        (2, 44, None), (2, 44, 0.5), (2, 46, None), (2, 46, 0.5), (2, 48, None), (2, 48, 0.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (TREE | {"domain": {}}, ["unknown setting 'domain'", "did you mean domains?"]),
        (TREE | {"domains": {}}, ["domains is empty"]),
        (TREE | {"domains": {"window.lo": {"choice": [1]}}}, ["domains.window.lo", "did you mean window.low"]),
        (TREE | {"domains": {"span": {"chioce": [1]}}}, ["domains.span.chioce", "did you mean choice?"]),
        (TREE | {"domains": {"span": {"integer": [5, 2]}}}, ["domains.span", "[5, 2] is empty", "lower end first"]),
        (TREE | {"domains": {"span": {"choice": []}}}, ["domains.span", "choice [] is empty", "at least one value"]),
        (TREE | {"domains": {"span": {"choice": [1, 1]}}}, ["domains.span", "has a value twice"]),
        (TREE | {"domains": {"span": {"choice": [1], "uniform": [0, 1]}}}, ["choice and uniform"]),
        (TREE | {"domains": {"span": {}}}, ["domains.span", "none of them"]),
        (TREE | {"domains": {"span": {"uniform": [0.5, 1.5]}}}, ["domains.span", "span = 0.5", "integer"]),
        (TREE | {"domains": {"seed": {"integer": [0, 5]}}}, ["domains.seed", "cannot be compared", "to set"]),
        (TREE | {"domains": {"lr.images": {"log_uniform": [0, 1]}}}, ["domains.lr.images", "ends above 0"]),
        (TREE | {"domains": {"lr.images": {"uniform": [1, 2], "step": 2}}}, ["step 2 is for integer"]),
        (TREE | {"constraints": ["window.low > 10"]}, ["domains.window.low", "no value is left", "window.low > 10"]),
        (
            TREE | {"constraints": ["window.high + span <= experts.epochs", "window.high > 48"]},
            ["domains.window.high", "span = 2, experts.epochs = 50"],
        ),
        (TREE | {"constraints": ["window.low * window.high < 0"]}, ["* window.high < 0'", "10000 of 10000", "widen"]),
        (TREE | {"constraints": ["windw.low > 1"]}, ["constraint 'windw.low > 1'", "did you mean window.low"]),
        (TREE | {"constraints": ["print(1)"]}, ["print(1) is not allowed"]),
        (
            TREE | {"constraints": [], "domains": {"span": {"choice": [1], "when": "ipc > 1"}, "ipc": {"choice": [1]}}},
            ["domains.span.when", "drawn later", "put ipc above span"],
        ),
        (TREE | {"search": {"algorithm": "grid"}}, ["domains.lr.images", "finite number of values", "use choice"]),
        (TREE | {"search": {"first": {"span": 3}}}, ["search.first", "unknown setting 'span'"]),
        (TREE | {"metrics": ["seconds"]}, ["start with accuracy"]),
        (TREE | {"metrics": ["accuracy", "size"]}, ["'size' is unknown", "accuracy and seconds"]),
        (TREE | {"metrics": ["accuracy", "seconds"], "scheduler": {"name": "asha"}}, ["scheduler.name", "use none"]),
        (TREE | {"scheduler": {"name": "pbt"}}, ["search.algorithm", "use random"]),
        (TREE | {"budget": {}}, ["budget.samples", "such as 16"]),
        (TREE | {"method": "dtm"}, ["unknown method 'dtm'"]),
        (TREE | {"set": {"steps": "many"}}, ["steps = 'many'"]),
        (TREE | {"domains": {"span": {"integer": [1, 10**18]}}}, ["domains.span", "reaches beyond 10"]),
        (TREE | {"domains": {"span": {"choice": [*range(1, 1002)]}}}, ["choice has 1001 values, at most 1000"]),
        (TREE | {"domains": {f"a{i}": {"choice": [1]} for i in range(101)}}, ["domains", "at most 100"]),
        (
            TREE
            | {
                "search": {"algorithm": "grid"},
                "budget": {},
                "domains": {"steps": {"integer": [1, 10**12]}, "span": {"integer": [1, 3]}},
            },
            ["the grid has more than 100000 points"],
        ),
        (TREE | {"constraints": ["'x' * 3000000000 == 'y'"]}, ["cannot be computed"]),
        (TREE | {"set": {"window": {"auto": True}}}, ["window.auto = True", "search window.high instead"]),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_searched_names_file_key_and_remedy(tree, words, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml") as caught:
        load_space(path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_domain_of_endless_whole_numbers_takes_no_memory() -> None:
    domain = Domain(integer=(1, 10**15))
    assert domain.at(0.5) == 5 * 10**14 + 1
    assert len(domain.finite()) == 10**15


def test_an_unreadable_or_missing_file_is_said(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    with pytest.raises(ValueError, match="neither a shipped space nor a YAML file; did you mean datm_digits"):
        load_space("datm_digit")
    for text, words in (("a: [", "is no YAML"), ("- a", "is not a mapping"), ("3", "is not a mapping")):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            load_space(path)
    assert load_space("datm_digits").name == "datm_digits"


def test_nothing_is_narrowed_by_what_changes_with_the_images_a_class() -> None:
    """window.high is 2, 20 and 40 in these presets; the span may go up to the largest."""
    domains = {"ipc": {"choice": [1, 10, 50]}, "span": {"integer": [3, 30]}}
    tree = {"method": "mtt", "dataset": "cifar10", "domains": domains, "constraints": ["span <= window.high"]}
    space = make_space(tree | {"budget": {"samples": 4}})
    samples = [space.sample(generator(0, k)) for k in range(60)]
    assert {values["ipc"] for values in samples} == {10, 50}
    assert max(values["span"] for values in samples) > 20


def test_a_registered_data_set_brings_its_preset_and_a_path_does_not(tmp_path) -> None:
    space = load_space("datm_cifar10")
    other = with_settings(space, {"data": {"dataset": "cifar100"}})
    assert other.config({}).preset == "cifar100/datm.yaml, ipc 10"
    moved = with_settings(space, {"data": {"dataset": str(tmp_path)}, "ipc": 1})
    assert (moved.config({}).preset, moved.config({}).data.dataset) == ("cifar10/datm.yaml, ipc 1", str(tmp_path))
    with pytest.raises(ValueError, match="--set method=mtt: the space is for datm"):
        with_settings(space, {"method": "mtt"})


@pytest.mark.rows("steps", [0, 1, 4, 5, 9, 11, 12, 150])
@pytest.mark.rows("reports", [1, 5])
def test_a_trial_is_scored_as_often_as_it_says_and_at_most_as_often_as_asked(steps: int, reports: int) -> None:
    space = make_space(TREE | {"set": {"steps": steps}, "budget": {"samples": 1, "reports": reports}})
    every = space.config({}).evaluate_every
    due = {step for step in range(1, steps + 1) if step % every == 0} | {steps}
    assert space.reports({}) == len(due) <= reports


def test_fixing_everything_is_refused() -> None:
    space = make_space(TREE | {"domains": {"span": {"choice": [1, 2]}}})
    with pytest.raises(ValueError, match="fixes every searched setting"):
        with_settings(space, {"span": 2})
    assert with_settings(space, {"steps": 5}).config({}).steps == 5


@pytest.mark.rows(
    "domain",
    [
        Domain(integer=(3, 12), step=3),
        Domain(uniform=(-1.5, 2.5)),
        Domain(log_uniform=(1e-3, 10)),
        Domain(log_integer=(1, 64)),
        Domain(choice=("a", None, 3, [1, 2])),
    ],
)
def test_draws_fill_a_domain_evenly_and_stay_inside(domain: Domain) -> None:
    shares = torch.rand(20_000, generator=generator(0, "domain"), dtype=torch.float64).tolist()
    draws = [domain.at(share) for share in shares]
    assert all(domain.has(draw) for draw in draws)
    if domain.finite() is not None and not domain.log:
        counts = [sum(draw == value for draw in draws) for value in domain.finite()]
        assert max(counts) < 1.05 * min(counts)
        return
    scale = math.log if domain.log else float
    top = domain.high + 1 if domain.whole else domain.high
    middle = (scale(domain.low) + scale(top)) / 2
    below = sum(scale(draw + 0.5 * domain.whole) < middle for draw in draws) / len(draws)
    assert abs(below - 0.5) < 0.1 if domain.whole else abs(below - 0.5) < 0.02


def test_a_domain_between_two_numbers_keeps_its_steps() -> None:
    assert Domain(integer=(0, 10), step=4).within(1, 9).integer == (4, 8)
    assert Domain(integer=(0, 10)).within(2.5, 7.5).integer == (3, 7)
    assert Domain(integer=(0, 10), step=4).within(1, 3) is None
    assert Domain(uniform=(0, 1)).within(0.5, 7).uniform == (0.5, 1)
    assert Domain(choice=(1, 2)).within(5, 6).choice == (1, 2)
    assert not Domain(integer=(0, 10), step=4).has(6)
    assert not Domain(choice=(1, 2)).has(True)
    assert Domain(choice=(1, 5)).has(5.0)
    assert not Domain(uniform=(0, 3)).has(None)


def test_keys_may_have_dots_everywhere() -> None:
    """The same space, written with dots and without."""
    rule = ["window.high + span <= experts.epochs"]
    domains = {"lr.images": {"log_uniform": [1, 100]}, "window.high": {"integer": [1, 5], "when": "experts.epochs > 3"}}
    flatly = {"set.experts.epochs": 6, "budget.samples": 2, "search.first": {"lr.images": 3}, "scheduler.name": "asha"}
    deeply = {"set": {"experts": {"epochs": 6}}, "budget": {"samples": 2}, "scheduler": {"name": "asha"}}
    deeply |= {"search": {"first": {"lr": {"images": 3}}}}
    one, other = (make_space(tree | {"domains": domains, "constraints": rule}) for tree in (flatly, deeply))
    assert one == other
    assert (one.set, one.search.first) == ({"experts": {"epochs": 6}}, {"lr.images": 3})
    twice = r"^space: set.experts.epochs is given twice, with dots and without; leave one out$"
    with pytest.raises(ValueError, match=twice):
        make_space(flatly | {"set": {"experts": {"epochs": 5}}, "domains": domains})
