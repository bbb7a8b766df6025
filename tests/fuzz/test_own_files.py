"""Damaged and forged files of our own: a line or a reading, see benchmarks/fuzz.py, which does many more of them."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"
EACH = [20, pytest.param(200, marks=pytest.mark.slow)]


def load():
    spec = importlib.util.spec_from_file_location("benchmark_fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = load()


@pytest.fixture(scope="module", params=EACH)
def outcomes(request):
    """How many mutations of each kind there were, and what came of them, in one process that is watched."""
    return request.param, list(fuzz.watched([*fuzz.KINDS], request.param, 1))


def test_what_is_damaged_or_forged_is_refused_in_a_line_or_read_as_what_it_says(outcomes):
    each, outcomes = outcomes
    for kind in fuzz.KINDS:
        own = [one for one in outcomes if one["kind"] == kind]
        assert [one for one in own if one["outcome"] in fuzz.BAD] == [], kind
        assert len(own) >= 0.9 * each, kind
        forged = [one for one in own if one["fits"]]
        counts = Counter(one["outcome"] for one in own)
        assert counts["refused"] + counts["same"] * (kind in ("cached data set",)) > 0.3 * each, kind
        if fuzz.KINDS[kind].forge is not None:
            share = len(forged) / len(own)
            assert 0.15 < share < 0.85, kind
            assert each < 200 or 0.35 < share < 0.65, kind
            assert sum(one["outcome"] == "refused" for one in forged) or kind == "cached data set"


def test_nothing_takes_long_or_much(outcomes):
    _, outcomes = outcomes
    assert max(one.get("seconds", 99) for one in outcomes) < fuzz.SECONDS
    assert max(one["bytes"] for one in outcomes) < fuzz.BYTES


def test_the_recorded_run_is_of_this_script_and_found_nothing():
    found = json.loads(SCRIPT.with_suffix(".json").read_text())
    assert found["mutations"] > 9_500
    assert set(found["kinds"]) == set(fuzz.KINDS)
    bad = ("tracebacks", "hangs", "readings_over_1_gb", "silent_acceptances")
    assert {name: found[name] for name in bad} == dict.fromkeys(bad, 0)


class Loose:
    """A reader that believes what it reads."""

    @staticmethod
    def make(folder):
        (folder / "numbers.json").write_text(json.dumps({"numbers": [1, 2, 3], "name": "x"}))

    @staticmethod
    def read(folder):
        found = json.loads((folder / "numbers.json").read_bytes())
        return str(sum(found["numbers"]))


def test_the_fuzzer_finds_what_a_careless_reader_does(tmp_path):
    world = fuzz.World(fuzz.Kind(Loose.make, Loose.read, None, ("numbers.json",)), tmp_path)
    found = Counter()
    for index in range(150):
        world.restore()
        data = fuzz.damaged(world.content["numbers.json"], fuzz.Rng(index))
        (world.folder / "numbers.json").write_bytes(data)
        found[world.outcome("numbers.json", False, data)[0]] += 1
    assert found["traceback"]
    assert found["silent"]
