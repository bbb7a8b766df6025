import shutil

import pytest

from raydd.data.synset import SyntheticSet
from raydd.io.tensor_file import load_tensors
from raydd.tuning.checkpoint_transfer import discard_inherited, export_checkpoint, inherit_checkpoint
from raydd.tuning.population import CHANGEABLE
from raydd.tuning.space_files import make_space
from raydd.tuning.trial import SearchContext, run_trial, trial_folder

EXPERTS = {"network": "MLP", "num_experts": 2, "epochs": 3}
SHORT = {"steps": 4, "checkpoint_every": 2, "evaluate_every": 2, "evaluate_networks": 1, "evaluate_epochs": 5}
MATCHED = {"student_steps": 1, "span": 1, "window": {"low": 0, "high": 1}, "lr": {"start": 0.05}}
STATISTICS = {"statistic": {"batch_real": 8}, "formation": {"factor": 1}, "lr": {"images": 0.5}}


@pytest.fixture(autouse=True)
def preset(tmp_path, monkeypatch):
    """A preset of nothing, so that the digits' own lies under no test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.yaml").write_text("{}\n")


def make(method="mtt", settings=MATCHED, domains=None):
    domains = domains or {"lr.images": {"uniform": [1.0, 1000.0]}}
    tree = {"method": method, "preset": "none.yaml", "domains": domains, "set": SHORT | settings | {"experts": EXPERTS}}
    return make_space(tree | {"budget": {"samples": 4}})


def bits(folder):
    names = ("synset.arrow", "last.arrow", "checkpoint/state.arrow", "metrics.jsonl")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def export_first(context, number, values, to):
    """A copy of a trial's checkpoint at its first report, which is all that the trial does."""
    next(run_trial(context, number, values))
    to.mkdir()
    export_checkpoint(trial_folder(context.folder, number), to)
    return to


def test_an_inherited_checkpoint_leads_to_the_same_bits_without_a_change(tmp_path, small_buffer):
    context, values = SearchContext(make(), small_buffer, tmp_path, "cpu"), {"lr.images": 30.0}
    wanted = list(run_trial(context, 0, values))
    list(run_trial(context, 1, {"lr.images": 500.0}))
    folder = trial_folder(tmp_path, 1)
    before = bits(folder)
    checkpoint = export_first(context, 2, values, tmp_path / "copy")
    (folder / "result.json").write_text("Tune's own")
    found = list(run_trial(context, 1, values, inherit_checkpoint(folder, checkpoint)))
    assert bits(folder)["synset.arrow"] == bits(trial_folder(tmp_path, 0))["synset.arrow"] != before["synset.arrow"]
    assert [(report.index, report.accuracy) for report in found] == [(r.index, r.accuracy) for r in wanted]
    assert found[0].seconds == next(run_trial(context, 2, values)).seconds, "the donor's time counts"
    assert (folder / "result.json").read_text() == "Tune's own"
    exported = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()}
    assert exported >= {"best.arrow", "reports.json", "config.yaml", "checkpoint/state.arrow", "checkpoint.json"}
    discard_inherited(folder)
    assert not (folder / "inherited").exists()


def test_a_kill_at_any_time_leaves_the_old_run_or_the_inherited_checkpoint(tmp_path, small_buffer):
    context, values = SearchContext(make(), small_buffer, tmp_path, "cpu"), {"lr.images": 30.0}
    folder = trial_folder(tmp_path, 1)
    list(run_trial(context, 1, {"lr.images": 500.0}))
    checkpoint = export_first(context, 2, values, tmp_path / "copy")
    shutil.copytree(folder, tmp_path / "before")

    # Killed while the checkpoint is copied: the old run is whole.
    (folder / "inherited.new").mkdir()
    (folder / "inherited.new" / "state.arrow").write_bytes(b"half")
    assert bits(folder) == bits(tmp_path / "before")
    # Killed while the old run is removed, and started again without Tune's checkpoint.
    source = inherit_checkpoint(folder, checkpoint)
    assert [path.name for path in folder.iterdir()] == ["inherited"]
    assert inherit_checkpoint(folder, None) == source
    # Killed after a step: the trial's own state is newer than what it inherited.
    reports = run_trial(context, 1, values, source)
    assert [next(reports).step for _ in range(2)] == [2, 4]
    reports.close()
    state = (folder / "checkpoint" / "state.arrow").read_bytes()
    assert inherit_checkpoint(folder, None) == source
    assert (source / "checkpoint" / "state.arrow").read_bytes() == state
    # A trial that starts with its own checkpoint may have other settings than before.
    assert [report.step for report in run_trial(context, 1, {"lr.images": 9.0}, source)] == [2, 4]


def test_a_trial_that_goes_on_from_its_own_checkpoint_makes_the_same_bits(tmp_path, small_buffer):
    context, values = SearchContext(make(), small_buffer, tmp_path, "cpu"), {"lr.images": 30.0}
    folder = trial_folder(tmp_path, 1)
    assert inherit_checkpoint(folder, None) is None
    list(run_trial(context, 0, values))
    next(run_trial(context, 1, values))
    list(run_trial(context, 1, values, inherit_checkpoint(folder, None)))
    assert bits(folder) == bits(trial_folder(tmp_path, 0))


FAMILIES = {
    "trajectories": (
        "datm",
        MATCHED | {"ipc": 2, "initial": "correctly_classified"},
        {
            **{"lr.images": (30.0, 10.0), "lr.labels": (1.0, 2.0), "lr.lr": (1e-5, 1e-6)},
            **{"lr.momentum": (0.0, 0.5), "lr.labels_momentum": (0.9, 0.0), "student_steps": (1, 2), "span": (1, 2)},
            **{"batch_size": (20, 5), "backprop": ("adjoint", "truncated"), "gate": (None, 1e6)},
            **{"window.low": (1, 0), "window.current": (1, 0), "window.high": (2, 1), "window.interval": (1, 5)},
            **{"pruning.rate": (0.0, 0.1), "pruning.metric": ("abs", "squared"), "intermediate": ("none", "equal")},
            **{"balance": (None, 8.0), "perturbation": (0.0, 0.1)},
        },
    ),
    "styles": ("haba", MATCHED, {"lr.styles": (5.0, 1.0), "lr.styles_momentum": (0.9, 0.0)}),
    "lines": ("mct", MATCHED, {"waypoints": ([1], [2]), "window.continuous": (True, False), "lr.images": (30.0, 10.0)}),
    "trained": (
        "dc",
        STATISTICS,
        {
            **{"statistic.of": ("gradient", "features"), "statistic.distance": ("cosine", "means")},
            **{
                "statistic.batch_real": (8, 5),
                "statistic.augment": ("none", "dsa"),
                "statistic.strategy": ("flip", "crop"),
            },
            **{"statistic.refresh": (2, 1), "statistic.epochs": (1, 2), "statistic.lr": (0.1, 0.2)},
            **{"statistic.batch_size": (4, 8), "statistic.each_class": (False, True)},
        },
    ),
    "queue": (
        "idm",
        STATISTICS,
        {
            **{"statistic.queue_size": (5, 2), "statistic.queue_steps": (1, 2), "statistic.refresh": (1, 2)},
            "statistic.batch_synthetic": (None, 1),
        },
    ),
    "experts": ("tgdd", STATISTICS, {"statistic.alpha": (0.0, 1.0), "statistic.region": (1, 3)}),
}


def test_every_changeable_setting_is_tried_below():
    assert {key for _, _, pairs in FAMILIES.values() for key in pairs} == CHANGEABLE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_is_inherited_though_every_changeable_setting_differs(tmp_path, small_buffer, family):
    """Nothing that a checkpoint holds depends on them, in either direction."""
    method, settings, pairs = FAMILIES[family]
    domains = {key: {"choice": list(pair)} for key, pair in pairs.items()}
    context = SearchContext(make(method, settings, domains), small_buffer, tmp_path, "cpu")
    sides = [{key: pair[side] for key, pair in pairs.items()} for side in (0, 1)]
    for number, (here, there) in enumerate([(0, 1), (1, 0)]):
        checkpoint = export_first(context, 2 * number, sides[here], tmp_path / f"copy-{number}")
        folder = trial_folder(tmp_path, 2 * number + 1)
        folder.mkdir()
        found = list(run_trial(context, 2 * number + 1, sides[there], inherit_checkpoint(folder, checkpoint)))
        assert [report.step for report in found] == [2, 4]
        history = SyntheticSet.load(folder / "last.arrow").history
        assert history[0] == load_tensors(checkpoint / "checkpoint" / "state.arrow")[1]["history"][0]
