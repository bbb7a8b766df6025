import itertools
import json
import math
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from raydd.api.distill import distill
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.config.placement import Where
from raydd.config.schema import ExpertsConfig
from raydd.data.synset import SyntheticSet
from raydd.methods import METHODS
from raydd.run import run as runs
from raydd.run.experts import open_buffer, settle
from raydd.run.resolve import bind
from raydd.run.run import Run
from raydd.training.expert_worker import Job, Trainer, default_buffer, prepare
from raydd.tuning.space_files import make_space
from raydd.tuning.trial import Task, run_trial, trial_folder

CPU = torch.device("cpu")
SMALL = {
    "steps": 7,
    "student_steps": 1,
    "span": 1,
    "checkpoint_every": 3,
    "evaluate_every": 2,
    "evaluate_networks": 1,
    "evaluate_epochs": 20,
    "window": {"low": 0, "high": 1},
    "lr": {"images": 20.0, "lr": 1e-4, "start": 0.05},
    "experts": {"network": "MLP", "num_experts": 2, "epochs": 3},
}
WITHOUT = {"experts": SMALL["experts"], "evaluate_networks": 1, "evaluate_epochs": 60, "lr": {"start": 0.05}}


def make(settings=SMALL, domains=None, **keys):
    tree = {"method": "mtt", "preset": "none.yaml", "domains": domains or {"lr.images": {"log_uniform": [1, 1000]}}}
    return make_space(tree | {"budget": {"samples": 4}, "set": settings} | keys)


@pytest.fixture(autouse=True)
def preset(tmp_path, monkeypatch):
    """A preset of nothing, so that the digits' own lies under no test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.yaml").write_text("{}\n")


def task(out, buffer=None, space=None):
    return Task(space or make(), buffer, out, "cpu")


def lasting(reports):
    """What must be the same of two runs of a trial: time and memory are measured, not computed."""
    return [(r.index, r.step, r.accuracy, r.now, r.loss) for r in reports]


def bits(folder):
    """All files of a run but what is measured, and what is made for who looks on, of which a trial has none."""
    beside = {"memory.jsonl", "reports.json", "frames", "tensorboard"}
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix(): (folder / path).read_bytes() for path in files if not beside & {*path.parts}}


def refusal(*arguments):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - each caller looks at the message
        list(run_trial(*arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def whole(small_buffer, tmp_path_factory):
    """A trial that was never stopped, and its reports; read only."""
    with pytest.MonkeyPatch.context() as patch:
        out = tmp_path_factory.mktemp("whole")
        patch.chdir(out)
        (out / "none.yaml").write_text("{}\n")
        found = list(run_trial(task(out, small_buffer), 3, {"lr.images": 30.0}))
    return trial_folder(out, 3), found


def test_a_trial_is_a_distillation_and_tells_of_its_scores(whole, small_buffer, tmp_path):
    folder, found = whole
    config = make().config({"lr.images": 30.0})
    synset = distill(config, tmp_path / "plain", buffer=small_buffer, where=Where(device="cpu"))
    means = [entry["mean"] for entry in synset.history]
    assert [report.step for report in found] == [entry["step"] for entry in synset.history] == [2, 4, 6, 7]
    assert [report.index for report in found] == [1, 2, 3, 4]
    assert [report.now for report in found] == means
    assert [report.accuracy for report in found] == [max(means[:count]) for count in (1, 2, 3, 4)]
    losses = {
        line["step"]: line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    }
    assert [report.loss for report in found] == [losses[report.step] for report in found]
    assert all(50 < report.memory_mb < 20_000 for report in found)
    assert bits(folder) == bits(tmp_path / "plain")
    assert (folder / "synset.png").exists()
    assert config.threads == 1


def test_the_seconds_are_those_of_outer_steps_alone(small_buffer, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "evaluate", lambda *rest: time.sleep(0.1) or 0.5)
    begin = time.time()
    seconds = [report.seconds for report in run_trial(task(tmp_path, small_buffer), 0, {"lr.images": 30.0})]
    assert seconds == sorted(set(seconds))
    assert seconds[0] > 0
    assert time.time() - begin - seconds[-1] > 0.39  # four scores


@pytest.mark.parametrize("told", [0, 1, 2, 3, 4])
def test_a_stopped_trial_ends_with_the_same_bits_and_tells_the_same(told, whole, small_buffer, tmp_path):
    work, values = task(tmp_path, small_buffer), {"lr.images": 30.0}
    trial = run_trial(work, 3, values)
    first = list(itertools.islice(trial, told))
    trial.close()
    kept = 6 if told >= 3 else 3 if told == 2 else 0
    again = list(run_trial(work, 3, values))
    assert lasting(first) == lasting(whole[1][:told])
    assert lasting(again) == lasting(whole[1])
    done = sum(report.step <= kept for report in first)  # what the checkpoint holds is told again, seconds and all
    assert again[:done] == first[:done]
    assert [report.seconds for report in again] == sorted(report.seconds for report in again)
    assert bits(trial_folder(tmp_path, 3)) == bits(whole[0])


def test_a_finished_trial_does_no_work(whole, small_buffer, monkeypatch):
    folder, found = whole
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("raydd.tuning.trial.resolve", None)
    again = list(run_trial(task(folder.parents[1], small_buffer), 3, {"lr.images": 30.0}))
    assert again == found
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before


def test_reports_that_were_lost_with_their_file_are_made_from_the_scores(whole, small_buffer, tmp_path):
    shutil.copytree(whole[0], trial_folder(tmp_path, 3))
    (trial_folder(tmp_path, 3) / "reports.json").unlink()
    found = list(run_trial(task(tmp_path, small_buffer), 3, {"lr.images": 30.0}))
    assert [report[:4] for report in found] == [report[:4] for report in whole[1]]
    assert all(math.isnan(report.loss) for report in found)


def test_other_values_in_the_folder_of_a_stopped_trial_are_refused(small_buffer, tmp_path):
    work = task(tmp_path, small_buffer)
    next(run_trial(work, 0, {"lr.images": 30.0}))
    assert "lr.images was 30.0 and is 40.0" in refusal(work, 0, {"lr.images": 40.0})


def test_a_trial_with_experts_of_its_own_trains_the_same_bytes_as_anyone(small_buffer, tmp_path):
    """From another expert on, whatever the number; those that are there stay; the search's own are not touched."""
    space = make(domains={"experts.lr": {"log_uniform": [1e-3, 1]}})
    config, before = space.config({"experts.lr": 0.02}), bits(small_buffer)
    wanted = ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)
    list(run_trial(task(tmp_path, small_buffer, space), 1, {"experts.lr": 0.02}))
    folder = default_buffer(wanted)
    job, missing = prepare(Job(config.data, config.experts, config.seed, tmp_path / "plain", "cpu"))
    for index in missing:
        Trainer(job).train(index)
    for name in ("expert-00000.arrow", "expert-00001.arrow", "preprocessing.arrow"):
        assert (folder / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert SyntheticSet.load(trial_folder(tmp_path, 1) / "synset.arrow").recipe["experts"]["lr"] == 0.02
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    list(run_trial(task(tmp_path, small_buffer, space), 2, {"experts.lr": 0.02}))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    assert bits(small_buffer) == before


def test_trials_that_lack_the_same_experts_begin_with_different_ones(tmp_path, monkeypatch):
    seen = {}
    for number in range(4):
        settings = SMALL | {"experts": SMALL["experts"] | {"num_experts": 8, "lr": 0.03 + number / 100}}
        order = seen.setdefault(number, [])
        monkeypatch.setattr(Trainer, "train", lambda self, index, order=order: order.append(index))
        assert "holds no experts" in refusal(task(tmp_path, None, make(settings)), number, {"lr.images": 30.0})
    assert all(sorted(order) == list(range(8)) for order in seen.values())
    assert len({order[0] for order in seen.values()}) == 4


def test_fewer_experts_than_the_buffer_has_are_its_first(small_buffer, tmp_path):
    space = make(domains={"experts.num_experts": {"integer": [1, 3]}})
    work, values = task(tmp_path, small_buffer, space), {"experts.num_experts": 1}
    list(run_trial(work, 0, values))
    synset = SyntheticSet.load(trial_folder(tmp_path, 0) / "synset.arrow")
    buffer, place = open_buffer(small_buffer, space.config(values), CPU, 1)
    assert buffer.experts == (0,)
    config = settle(space.config(values), buffer)
    list(Run(bind(config, tmp_path / "plain", buffer, place, None)).steps())
    assert torch.equal(SyntheticSet.load(tmp_path / "plain" / "synset.arrow").images, synset.images)
    assert synset.recipe["experts"]["num_experts"] == 1
    assert f"experts.num_experts 3: {small_buffer} has 2" in refusal(work, 1, {"experts.num_experts": 3})


def test_more_experts_than_the_caches_buffer_has_are_trained(tmp_path):
    settings = SMALL | {"experts": SMALL["experts"] | {"lr": 0.007, "num_experts": 1}}
    space = make(settings, domains={"experts.num_experts": {"integer": [1, 3]}})
    config = space.config({})
    folder = default_buffer(ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed))
    list(run_trial(task(tmp_path, None, space), 0, {"experts.num_experts": 1}))
    assert ArrowBuffer(folder).experts == (0,)
    list(run_trial(task(tmp_path, folder, space), 1, {"experts.num_experts": 2}))
    assert ArrowBuffer(folder).experts == (0, 1)


def test_a_selection_is_scored_once(cache, tmp_path):
    before = sorted(cache.rglob("expert-*"))
    space = make(WITHOUT, {"ipc": {"integer": [1, 3]}}, method="kmeans")
    (report,) = run_trial(task(tmp_path, None, space), 0, {"ipc": 2})
    assert (report.index, report.step, report.seconds) == (1, 0, 0.0)
    assert report.accuracy == report.now > 0.3
    assert math.isnan(report.loss)
    (again,) = run_trial(task(tmp_path, None, space), 0, {"ipc": 2})
    assert again[:4] == report[:4]
    plain = distill(space.config({"ipc": 2}).model_copy(update={"evaluate_every": None}), tmp_path / "plain")
    assert torch.equal(plain.images, SyntheticSet.load(trial_folder(tmp_path, 0) / "synset.arrow").images)
    assert sorted(cache.rglob("expert-*")) == before


def test_a_trial_goes_on_from_another_ones_set_with_settings_of_its_own(whole, small_buffer, tmp_path):
    """The donor stood at its third score: steps, scores and seconds are its, what follows is not."""
    donor = run_trial(task(tmp_path, small_buffer), 0, {"lr.images": 30.0})
    told = list(itertools.islice(donor, 3))
    donor.close()
    before = bits(trial_folder(tmp_path, 0))
    heir = run_trial(task(tmp_path, small_buffer), 1, {"lr.images": 900.0}, trial_folder(tmp_path, 0) / "checkpoint")
    found = list(heir)
    assert found[:3] == told
    assert [report.step for report in found] == [2, 4, 6, 7]
    assert found[3].seconds > told[2].seconds
    assert found[3].loss == whole[1][3].loss  # the step before which the sets were the same
    last = [SyntheticSet.load(folder / "last.arrow").images for folder in (whole[0], trial_folder(tmp_path, 1))]
    assert not torch.equal(*last)
    assert bits(trial_folder(tmp_path, 0)) == before
    again = run_trial(task(tmp_path, small_buffer), 2, {"lr.images": 900.0}, trial_folder(tmp_path, 0) / "checkpoint")
    next(again)
    again.close()  # its own checkpoint is there before its first report
    shutil.rmtree(trial_folder(tmp_path, 0))
    resumed = list(run_trial(task(tmp_path, small_buffer), 2, {"lr.images": 900.0}))
    assert lasting(resumed) == lasting(found)
    assert bits(trial_folder(tmp_path, 2)) == bits(trial_folder(tmp_path, 1))


def test_what_does_not_fit_is_not_inherited(whole, small_buffer, tmp_path):
    space = make(domains={"ipc": {"integer": [1, 3]}})
    message = refusal(task(tmp_path, small_buffer, space), 0, {"ipc": 2}, whole[0] / "checkpoint")
    assert "(10, 1, 8, 8)" in message
    assert "(20, 1, 8, 8)" in message


def test_a_loss_that_is_no_number_ends_the_trial(small_buffer, tmp_path, monkeypatch):
    class Spoiled:
        parts, joint = 1, False

        def init(self, rng):
            return None

        def loss(self, synset, state, step, rng, part=0):
            scale = float("nan") if step >= 4 else 1e-9
            return (synset.images.sum() + synset.lr) * scale, state

    original = METHODS["mtt"]
    spoiled = replace(original, compose=lambda setup: original(setup)._replace(objective=Spoiled()))
    monkeypatch.setitem(METHODS, "mtt", spoiled)
    trial, found = run_trial(task(tmp_path, small_buffer), 0, {"lr.images": 30.0}), []
    with pytest.raises(FloatingPointError, match="outer step 5: loss nan"):
        found.extend(trial)
    trial = run_trial(task(tmp_path, small_buffer), 0, {"lr.images": 30.0})
    assert next(trial).step == 2
    assert (trial_folder(tmp_path, 0) / "checkpoint" / "state.arrow").exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"data": {"validation": 1e-4}}, ["evaluate_every = 2", "validation split", "data.validation="]),
        ({"ipc": 1000}, ["ipc 1000"]),
    ],
)
def test_what_cannot_run_is_refused_before_experts_are_trained(settings, named, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "train", None)
    message = refusal(task(tmp_path, None, make(SMALL | settings)), 0, {"lr.images": 30.0})
    assert [word for word in named if word not in message] == [], message
    assert not trial_folder(tmp_path, 0).exists()


def relabelled(folder, tests):
    """Sixty noisy pictures of two classes; test labels as given."""
    rng = np.random.default_rng(0)
    train = np.arange(60) % 2
    images = (rng.integers(0, 60, (60, 8, 8)) + 120 * train[:, None, None]).astype(np.uint8)
    folder.mkdir()
    path = folder / "two.npz"
    np.savez(path, x_train=images, y_train=train, x_test=images[:20], y_test=tests)
    return path


def test_test_labels_change_no_report_and_no_set(tmp_path):
    found, synsets = [], []
    for name, tests in (("true", np.arange(20) % 2), ("false", (np.arange(20) + 1) % 2)):
        path = relabelled(tmp_path / name, tests)
        data = {"dataset": str(path), "validation": 0.2}
        space = make(SMALL | {"data": data, "evaluate_epochs": 60}, dataset=str(path))
        found.append(list(run_trial(task(tmp_path / name, None, space), 0, {"lr.images": 1.0})))
        synsets.append(SyntheticSet.load(trial_folder(tmp_path / name, 0) / "synset.arrow"))
    assert lasting(found[0]) == lasting(found[1])
    assert [report.step for report in found[0]] == [2, 4, 6, 7]
    assert found[0][-1].accuracy > 0.6  # so that scores by the false labels were others
    assert torch.equal(synsets[0].images, synsets[1].images)
    assert synsets[0].provenance["fingerprint"] != synsets[1].provenance["fingerprint"]  # the data are indeed others
