import itertools
import json
import re
import shutil
import subprocess
import time
from dataclasses import replace

import pytest
import torch
import yaml
from toy_runs import open_run, train_buffer
from variants import first

from raydd.config.parsing import build
from raydd.config.schema import DistillConfig
from raydd.data.preprocessing import load_transform
from raydd.data.run_progress import progress_of
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.distillation.checkpoint import RecordDocument
from raydd.io.document import read_log
from raydd.io.provenance import commit
from raydd.io.tensor_file import load_tensors
from raydd.methods import METHODS, complete
from raydd.numerics.rng import generator
from raydd.run import run as runs
from raydd.run.experts import open_buffer, settle
from raydd.run.resolve import check_data, check_run, check_settings
from raydd.run.run_folder import load_scored_sets, previous_run, scored_set_paths
from raydd.run.unfinished import finish

CPU = torch.device("cpu")
TOY = {
    "ipc": 1,
    "steps": 7,
    "student_steps": 2,
    "span": 1,
    "checkpoint_every": 3,
    "lr": {"images": 20, "lr": 1e-4, "start": 0.05},
    "experts": {"network": "ConvNetW8", "num_experts": 2, "epochs": 3},
}


def toy(*layers):
    return build(DistillConfig, TOY, *layers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_buffer(tmp_path_factory.mktemp("runs") / "buffer", toy())


@pytest.fixture(scope="module")
def experts(folder):
    return open_buffer(folder, toy(), CPU)


@pytest.fixture
def scored(monkeypatch):
    """Scores from a list instead of training: quick, and known beforehand."""
    seen = []

    def score(synset, build, feed, protocol, augment, seed):
        seen.append((synset.images.clone(), len(feed), seed))
        return SCORES[(len(seen) - 1) // 2] + (0.02 if seed else 0)

    monkeypatch.setattr(runs, "evaluate", score)
    return seen


ARROW = {False: "synset.arrow", True: "last.arrow"}
"""The set of the last step, by whether there are scores."""
SCORES = [0.3, 0.5, 0.4, 0.5, 0.1, 0.2, 0.3]


def start(out, experts, *layers, resume=False):
    return open_run(toy(*layers), out, *experts, resume)


def metrics(out):
    return read_log(out / "metrics.jsonl", RecordDocument, "")


def tree(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def bits(out):
    """All that must be the same of two runs: memory is measured, not computed."""
    return {name: content for name, content in tree(out).items() if name != "memory.jsonl"}


def test_a_finished_run_holds_its_settings_its_steps_and_its_set(tmp_path, experts):
    out = tmp_path / "run"
    steps = list(start(out, experts).steps())
    assert sorted(tree(out)) == [
        "checkpoint/state.arrow",
        "config.yaml",
        "memory.jsonl",
        "metrics.jsonl",
        "synset.arrow",
    ]
    settled = toy({"data": {"flip": False}})  # digits
    assert build(DistillConfig, yaml.safe_load((out / "config.yaml").read_text())) == settled
    assert metrics(out) == [{"step": step.step, "loss": step.loss, "lr": step.lr, "stepped": True} for step in steps]
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4, 5, 6, 7]
    synset = SyntheticSet.load(out / "synset.arrow")
    assert float(synset.lr) == steps[-1].lr
    assert build(DistillConfig, synset.recipe) == settled
    assert synset.transform.hash == experts[1].transform.hash
    assert synset.provenance["fingerprint"] == experts[1].dataset.fingerprint
    assert synset.provenance["network"] == "ConvNetW8"
    assert synset.provenance["torch"] == torch.__version__
    assert synset.provenance["chosen"] == "last outer step"
    assert synset.history == ()


def test_no_steps_give_the_start(tmp_path, experts):
    assert list(start(tmp_path / "a", experts, {"steps": 0}).steps()) == []
    synset = SyntheticSet.load(tmp_path / "a" / "synset.arrow")
    stored = experts[1].transform(experts[1].dataset.train.take(torch.arange(len(experts[1].dataset.train))))
    assert all(bool((image == stored).flatten(1).all(1).any()) for image in synset.images)
    assert metrics(tmp_path / "a") == []


def test_every_step_lets_the_settings_be_read_before_the_first_checkpoint(tmp_path, experts):
    start(tmp_path / "a", experts)
    assert sorted(tree(tmp_path / "a")) == ["config.yaml"]


def test_the_set_is_the_best_on_the_validation_split_and_the_last_is_kept(tmp_path, experts, scored):
    out, results = tmp_path / "run", []
    run = start(out, experts, {"evaluate_every": 2})
    for step in run.steps():
        if step.step in (2, 4, 6, 7):  # every second, and the last
            results.append(run._distillation.result.images)
    assert [(size, seed) for _, size, seed in scored] == [
        (len(experts[1].dataset.validation), seed) for _ in range(4) for seed in (0, 1)
    ]
    for place, (images, _, _) in enumerate(scored):
        assert torch.equal(images, results[place // 2])
    best, last, chosen = (SyntheticSet.load(out / f"{name}.arrow") for name in ("best", "last", "synset"))
    assert torch.equal(chosen.images, results[1])  # scores 0.31, 0.51, 0.41, 0.51
    assert torch.equal(best.images, results[1])
    assert torch.equal(last.images, run._distillation.result.images)
    assert not torch.equal(last.images, chosen.images)
    assert chosen.provenance["chosen"] == "best outer step on the validation split"
    assert last.provenance["chosen"] == "last outer step"
    assert [(entry["step"], entry["split"], entry["networks"]) for entry in chosen.history] == [
        (2, "validation", 2),
        (4, "validation", 2),
        (6, "validation", 2),
        (7, "validation", 2),
    ]
    assert [entry["mean"] for entry in chosen.history] == pytest.approx([0.31, 0.51, 0.41, 0.51])
    assert run.history == chosen.history
    assert last.history == chosen.history


def test_of_equal_scores_the_first_is_kept(tmp_path, experts, scored):
    run, results = start(tmp_path / "a", experts, {"evaluate_every": 1}), []
    for _ in run.steps():
        results.append(run._distillation.result.images)
    assert torch.equal(SyntheticSet.load(tmp_path / "a" / "synset.arrow").images, results[1])
    assert not torch.equal(results[1], results[3])


def test_scores_are_real_accuracies(tmp_path, experts, monkeypatch):
    short = runs.PROTOCOLS["mtt"].model_copy(update={"epochs": 10})
    monkeypatch.setitem(runs.PROTOCOLS, "mtt", short)
    list(start(tmp_path / "a", experts, {"evaluate_every": 7}).steps())
    synset, work = SyntheticSet.load(tmp_path / "a" / "synset.arrow"), experts[1]
    feed = work.feed(work.dataset.validation)
    values = [runs.evaluate(synset, work.build, feed, short, work.augment, seed) for seed in (0, 1)]
    assert synset.history[0]["mean"] == sum(values) / 2


def test_no_step_is_scored_once(tmp_path, experts, scored):
    layer = {"steps": 0, "evaluate_every": 1}
    for resume in (False, True):
        run = start(tmp_path / "a", experts, layer, resume=resume)
        assert list(run.steps()) == []
        assert [(entry["step"], entry["mean"]) for entry in run.history] == [(0, pytest.approx(0.31))]
    assert len(scored) == 2
    assert SyntheticSet.load(tmp_path / "a" / "synset.arrow").history == run.history


def test_networks_and_epochs_of_a_score_are_settings(tmp_path, experts, monkeypatch):
    seen = []

    def score(synset, build, feed, protocol, augment, seed):
        seen.append((protocol.epochs, protocol.plain_epochs, seed))
        return 0.1 * seed

    monkeypatch.setattr(runs, "evaluate", score)
    run = start(tmp_path / "a", experts, {"evaluate_every": 7, "evaluate_networks": 3, "evaluate_epochs": 5})
    list(run.steps())
    assert seen == [(5, 5, 0), (5, 5, 1), (5, 5, 2)]
    assert [(entry["networks"], entry["mean"]) for entry in run.history] == [(3, pytest.approx(0.1))]
    list(start(tmp_path / "b", experts, {"evaluate_every": 7}).steps())
    assert seen[3:] == [(1000, 1000, 0), (1000, 1000, 1)]


def test_seconds_are_of_outer_steps_alone(tmp_path, experts, monkeypatch):
    monkeypatch.setattr(runs, "evaluate", lambda *rest: time.sleep(0.05) or 0.5)
    run, found, begin = start(tmp_path / "a", experts, {"evaluate_every": 1, "evaluate_networks": 1}), [], time.time()
    for _ in run.steps():
        found.append(run.seconds)
        time.sleep(0.05)  # nor is what the caller does
    assert found == sorted(set(found))
    assert found[0] > 0
    assert time.time() - begin - run.seconds > 0.69  # seven scores, and as much outside


def heir(out, experts, donor, *layers):
    run = start(out, experts, {"evaluate_every": 3}, *layers)
    run.inherit(donor)
    return run


def test_a_run_goes_on_from_another_ones_state_with_its_own_settings(tmp_path, experts, scored):
    donor = start(tmp_path / "donor", experts, {"evaluate_every": 3})
    list(itertools.islice(donor.steps(), 6))  # scores 0.31 and 0.51
    state = tmp_path / "donor" / "checkpoint" / "state.arrow"
    run = heir(tmp_path / "heir", experts, state, {"lr": {"images": 90}})
    assert (run.saved, run.history) == (6, donor.history)
    left, here = (
        load_tensors(out / "checkpoint" / "state.arrow")[0] for out in (tmp_path / "donor", tmp_path / "heir")
    )
    assert left.keys() == here.keys()
    assert all(torch.equal(value, here[name]) for name, value in left.items())
    assert (tmp_path / "heir" / "best.arrow").read_bytes() == (tmp_path / "donor" / "best.arrow").read_bytes()
    assert [step.step for step in run.steps()] == [7]
    plain = heir(tmp_path / "plain", experts, state)
    list(plain.steps())
    far, near = (SyntheticSet.load(tmp_path / name / "last.arrow").images for name in ("heir", "plain"))
    begin = left["leaves/images"]
    assert torch.allclose(far - begin, (near - begin) * 90 / 20, atol=1e-4)  # one momentum, two step sizes
    assert not torch.equal(near, begin)
    assert torch.equal(
        SyntheticSet.load(tmp_path / "heir" / "synset.arrow").images,
        SyntheticSet.load(tmp_path / "donor" / "best.arrow").images,
    )  # 0.51 stays the best
    assert run.history[-1]["step"] == 7


def test_an_heir_that_is_killed_goes_on_from_what_it_inherited(tmp_path, experts, monkeypatch):
    monkeypatch.setattr(runs, "evaluate", lambda synset, *rest: float(synset.images.std()) / 10 + rest[-1])
    list(itertools.islice(start(tmp_path / "donor", experts, {"evaluate_every": 3}).steps(), 4))
    state, layer = tmp_path / "donor" / "checkpoint" / "state.arrow", {"lr": {"images": 90}}
    list(heir(tmp_path / "whole", experts, state, layer).steps())
    heir(tmp_path / "killed", experts, state, layer)
    again = start(tmp_path / "killed", experts, {"evaluate_every": 3}, layer, resume=True)
    assert [step.step for step in again.steps()] == [4, 5, 6, 7]
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        ({"ipc": 2}, ["'images': (10, 1, 8, 8)", "'images': (20, 1, 8, 8)", "the same ipc"]),
        ({"lr": {"lr": 0}}, ["'lr': ()", "this run learns {'images': (10, 1, 8, 8)}"]),
        ({"ema": 0.9}, ["'mean': (10, 1, 8, 8)"]),
    ],
)
def test_what_was_learned_otherwise_is_not_inherited(layer, named, tmp_path, experts):
    list(start(tmp_path / "donor", experts).steps())
    with pytest.raises(ValueError, match="learned") as caught:
        heir(tmp_path / "heir", experts, tmp_path / "donor" / "checkpoint" / "state.arrow", layer)
    assert "\n" not in str(caught.value)
    assert [word for word in named if word not in str(caught.value)] == [], str(caught.value)
    assert sorted(tree(tmp_path / "heir")) == ["config.yaml"]


def test_a_best_set_of_another_score_is_not_inherited(tmp_path, experts, scored):
    """A copy of state and best set beside one another is as good; one of two moments is none."""
    list(itertools.islice(start(tmp_path / "donor", experts, {"evaluate_every": 3}).steps(), 3))
    state, copy = tmp_path / "donor" / "checkpoint" / "state.arrow", tmp_path / "copy"
    copy.mkdir()
    (copy / "state.arrow").write_bytes(state.read_bytes())
    for _ in range(2):
        with pytest.raises(ValueError, match=r"without the best\.arrow of its scores") as caught:
            heir(tmp_path / "heir", experts, copy / "state.arrow")
        assert "\n" not in str(caught.value)
        shutil.rmtree(tmp_path / "heir")
        if not (copy / "best.arrow").exists():
            first = (tmp_path / "donor" / "best.arrow").read_bytes()
            list(start(tmp_path / "donor", experts, {"evaluate_every": 3}, resume=True).steps())
            (copy / "best.arrow").write_bytes((tmp_path / "donor" / "best.arrow").read_bytes())
    (copy / "best.arrow").write_bytes(first)
    assert heir(tmp_path / "heir", experts, copy / "state.arrow").saved == 3
    assert (tmp_path / "heir" / "best.arrow").read_bytes() == first


def test_bytes_that_were_checked_already_are_not_read_again(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "buffer")
    path = tmp_path / "buffer" / "expert-00001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"expert-00001\.arrow is damaged"):
        open_buffer(tmp_path / "buffer", toy(), CPU)
    assert open_buffer(tmp_path / "buffer", toy(), CPU, verified=True)[0].experts == (0, 1)


@pytest.mark.parametrize("killed", first(range(8), 0, keep=(0, 3, 5)))
@pytest.mark.parametrize("layer", [{}, {"evaluate_every": 2, "keep_scored": True}])
def test_killed_after_any_step_it_goes_on_to_the_same_bits(killed, layer, tmp_path, experts, monkeypatch):
    monkeypatch.setattr(runs, "evaluate", lambda synset, *rest: float(synset.images.std()) / 10 + rest[-1])
    list(start(tmp_path / "whole", experts, layer).steps())
    out = tmp_path / "killed"
    steps = start(out, experts, layer).steps()
    taken = list(itertools.islice(steps, killed))
    steps.close()
    assert [step.step for step in taken] == list(range(1, killed + 1))
    if (out / "metrics.jsonl").exists():  # as long as the checkpoint
        done = load_tensors(out / "checkpoint" / "state.arrow")[1]["plain"]["step"]
        assert [line["step"] for line in metrics(out)] == list(range(1, done + 1))
    again = start(out, experts, layer, resume=True)
    rest = [step.step for step in again.steps()]
    saved = max(0, killed - 1) // 3 * 3  # the last multiple of 3 before the kill,
    if killed == 6 and layer:
        saved = 6  # or at it, where a score was due too
    assert rest == list(range(saved + 1, 8))
    assert again.saved == 7
    assert bits(out) == bits(tmp_path / "whole")


@pytest.fixture
def measured(monkeypatch):
    """Scores that follow from the set alone, so that a score that is taken again is the same."""
    monkeypatch.setattr(runs, "evaluate", lambda synset, *rest: float(synset.images.std()) / 10 + rest[-1])


@pytest.mark.parametrize("layer", [{}, {"evaluate_every": 2}], ids=["plain", "scored"])
def test_checkpoints_by_time_lose_no_step_and_change_no_bit(layer, tmp_path, experts, measured):
    """Here the last checkpoint is always too old."""
    old = layer | {"checkpoint_seconds": 1e-9}
    list(start(tmp_path / "whole", experts, old).steps())
    list(start(tmp_path / "seldom", experts, layer).steps())
    for killed in range(1, 7):
        out = tmp_path / str(killed)
        steps = start(out, experts, old).steps()
        list(itertools.islice(steps, killed))
        steps.close()
        again = start(out, experts, old, resume=True)
        assert again.saved == killed
        assert [step.step for step in again.steps()] == list(range(killed + 1, 8))
        assert bits(out) == bits(tmp_path / "whole")
        assert torch.equal(again.synset.images, SyntheticSet.load(tmp_path / "seldom" / ARROW[bool(layer)]).images)


def test_a_checkpoint_is_written_when_the_last_is_a_minute_old(tmp_path, experts, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: now[0])
    run, saved = start(tmp_path / "run", experts, {"checkpoint_every": 100}), []
    for _ in run.steps():
        saved.append(run.saved)
        now[0] += 25
    assert saved == [0, 0, 0, 4, 4, 4, 7]


def test_a_resumed_run_may_have_more_steps(tmp_path, experts):
    """To the same bits as a run that had them from its start; config.yaml says what it has now."""
    list(start(tmp_path / "whole", experts, {"steps": 9}).steps())
    list(start(tmp_path / "run", experts).steps())
    list(start(tmp_path / "run", experts, {"steps": 9}, resume=True).steps())
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["steps"] == 9


def test_a_resumed_run_may_have_fewer_steps_but_not_fewer_than_it_has_taken(tmp_path, experts, measured):
    layer, out = {"evaluate_every": 2}, tmp_path / "run"
    list(start(tmp_path / "whole", experts, layer, {"steps": 5}).steps())
    list(itertools.islice(start(out, experts, layer).steps(), 5))  # the checkpoint is of step 3
    before = tree(out), bits(out)
    words = f"{out} is at step 3 already, and steps = 2 asks for fewer: use --set steps=3 to end there, or more"
    with pytest.raises(ValueError, match=re.escape(words)):
        start(out, experts, layer, {"steps": 2}, resume=True)
    assert (tree(out), bits(out)) == before
    list(start(out, experts, layer, {"steps": 5}, resume=True).steps())
    assert bits(out) == bits(tmp_path / "whole")
    assert [entry["step"] for entry in SyntheticSet.load(out / "synset.arrow").history] == [2, 4, 5]


@pytest.mark.parametrize("layer", [{}, {"evaluate_every": 3}], ids=["plain", "scored"])
def test_a_set_of_an_unfinished_run_says_so_and_the_run_still_goes_on_to_the_same_bits(
    layer, tmp_path, experts, measured, folder
):
    list(start(tmp_path / "short", experts, layer, {"steps": 3}).steps())
    list(start(tmp_path / "whole", experts, layer).steps())
    out = tmp_path / "run"
    list(itertools.islice(start(out, experts, layer).steps(), 5))
    assert progress_of(out) == "step 3 of 7"
    state = (out / "checkpoint" / "state.arrow").read_bytes()
    synset, step = finish(out, buffer=folder, device="cpu")
    assert (step, synset.provenance["unfinished"]) == (3, "step 3 of 7")
    short = SyntheticSet.load(tmp_path / "short" / "synset.arrow")
    assert torch.equal(synset.images, short.images)
    assert synset.history == short.history
    assert (out / "synset.png").is_file()
    assert (progress_of(out), (out / "checkpoint" / "state.arrow").read_bytes()) == (None, state)
    (out / "synset.png").unlink()
    list(start(out, experts, layer, resume=True).steps())
    assert bits(out) == bits(tmp_path / "whole")
    whole = SyntheticSet.load(out / "synset.arrow")
    assert "unfinished" not in whole.provenance
    before = (out / "synset.arrow").stat().st_mtime_ns
    assert finish(out, buffer=folder, device="cpu")[1] == 7
    assert (out / "synset.arrow").stat().st_mtime_ns == before


def test_a_set_cannot_be_made_of_what_is_no_run_has_no_checkpoint_or_lacks_its_experts(tmp_path, experts):
    with pytest.raises(ValueError, match="holds no run; name a folder that raydd distill wrote"):
        finish(tmp_path)
    out = tmp_path / "run"
    list(itertools.islice(start(out, experts).steps(), 1))
    with pytest.raises(ValueError, match="no checkpoint yet, at step 0 of 7"):
        finish(out)
    list(itertools.islice(start(out, experts, resume=True).steps(), 5))
    with pytest.raises(ValueError, match="its experts are not in the cache; name its --buffer"):
        finish(out)


def test_every_scored_set_is_kept_as_it_was(tmp_path, experts, scored):
    out, results = tmp_path / "run", {}
    run = start(out, experts, {"evaluate_every": 3, "keep_scored": True})
    for step in run.steps():
        if step.step in (3, 6, 7):
            results[step.step] = run._distillation.result
    kept = load_scored_sets(out)
    assert sorted(path.name for path in (out / "steps").iterdir()) == ["000003.arrow", "000006.arrow", "000007.arrow"]
    assert list(kept) == [3, 6, 7]
    for step, synset in kept.items():
        assert torch.equal(synset.images, results[step].images)
        assert torch.equal(synset.lr, results[step].lr)
        assert synset.history[-1]["step"] == step
        assert synset.provenance["chosen"] == f"outer step {step}"
    chosen = SyntheticSet.load(out / "synset.arrow")
    assert torch.equal(chosen.images, kept[6].images)  # scores 0.31, 0.51, 0.41
    list(start(tmp_path / "plain", experts, {"evaluate_every": 3}).steps())
    assert not (tmp_path / "plain" / "steps").exists()


def test_nothing_is_kept_of_a_run_without_scores(tmp_path, experts):
    with pytest.raises(ValueError, match=r"^keep_scored keeps scored sets, and none is scored: .*evaluate_every=N"):
        check_settings(toy({"keep_scored": True}))
    with pytest.raises(ValueError, match=r"has no kept steps.* evaluate_every=N --set keep_scored=true$"):
        load_scored_sets(tmp_path)


def test_steps_that_are_taken_again_are_kept_no_longer(tmp_path, experts, monkeypatch):
    monkeypatch.setattr(runs, "evaluate", lambda synset, *rest: float(synset.images.std()) / 10 + rest[-1])
    layer, out = {"evaluate_every": 1, "keep_scored": True}, tmp_path / "a"
    steps = start(out, experts, layer).steps()
    list(itertools.islice(steps, 5))
    assert list(load_scored_sets(out)) == [1, 2, 3, 4, 5]
    steps.close()
    again = start(out, experts, layer, resume=True)
    assert list(load_scored_sets(out)) == [1, 2, 3], "the checkpoint is of step 3"
    list(again.steps())
    list(start(tmp_path / "whole", experts, layer).steps())
    assert bits(out) == bits(tmp_path / "whole")


def test_a_rollback_keeps_the_steps_of_the_second_attempt(tmp_path, experts, monkeypatch):
    monkeypatch.setattr(runs, "evaluate", lambda synset, *rest: float(synset.images.std()) / 10 + rest[-1])
    original, layer, seen = METHODS["mtt"], {"evaluate_every": 1, "keep_scored": True}, {}

    def spoil(setup):
        recipe = original(setup)
        return recipe._replace(objective=Spoiled(recipe.objective))

    monkeypatch.setitem(METHODS, "mtt", replace(original, compose=spoil))
    run = start(tmp_path / "whole", experts, layer)
    for step in run.steps():
        if step.rolled_back_to is not None:
            assert list(load_scored_sets(tmp_path / "whole")) == [1, 2, 3]
        else:
            seen.setdefault(step.step, []).append(run._distillation.result.images)
    kept = load_scored_sets(tmp_path / "whole")
    assert list(kept) == [1, 2, 3, 4, 5, 6, 7]
    assert not torch.equal(*seen[4]), "taken twice, with other draws"
    assert all(torch.equal(synset.images, seen[step][-1]) for step, synset in kept.items())
    for killed in (4, 6):  # before the rollback, and after it
        out = tmp_path / str(killed)
        list(itertools.islice(start(out, experts, layer).steps(), killed))
        list(start(out, experts, layer, resume=True).steps())
        assert bits(out) == bits(tmp_path / "whole")


def test_an_heir_keeps_no_steps_of_another_set(tmp_path, experts, scored):
    list(itertools.islice(start(tmp_path / "donor", experts, {"evaluate_every": 3}).steps(), 6))
    out, layer = tmp_path / "heir", {"keep_scored": True, "evaluate_every": 3}
    list(itertools.islice(start(out, experts, layer).steps(), 5))
    assert list(load_scored_sets(out)) == [3]
    run = start(out, experts, layer, resume=True)
    run.inherit(tmp_path / "donor" / "checkpoint" / "state.arrow")
    assert scored_set_paths(out) == {}
    list(run.steps())
    assert list(load_scored_sets(out)) == [7]


def test_killed_twice_and_resumed_when_done(tmp_path, experts):
    list(start(tmp_path / "whole", experts).steps())
    out = tmp_path / "killed"
    for killed in (5, 2):
        list(itertools.islice(start(out, experts, resume=True).steps(), killed))
    list(start(out, experts, resume=True).steps())
    assert bits(out) == bits(tmp_path / "whole")
    assert list(start(out, experts, resume=True).steps()) == []
    assert bits(out) == bits(tmp_path / "whole")


def test_a_run_killed_between_its_last_step_and_its_set_is_finished(tmp_path, experts):
    list(start(tmp_path / "a", experts).steps())
    before = bits(tmp_path / "a")
    (tmp_path / "a" / "synset.arrow").unlink()
    assert list(start(tmp_path / "a", experts, resume=True).steps()) == []
    assert bits(tmp_path / "a") == before


def test_a_rollback_is_told_in_the_metrics_and_resumes_to_the_same_bits(tmp_path, experts, monkeypatch):
    def spoil(setup):
        recipe = original(setup)
        return recipe._replace(objective=Spoiled(recipe.objective))

    original = METHODS["mtt"]
    monkeypatch.setitem(METHODS, "mtt", replace(original, compose=spoil))
    steps = list(start(tmp_path / "whole", experts).steps())
    assert [(step.step, step.rolled_back_to) for step in steps if step.rolled_back_to is not None] == [(5, 3)]
    assert [line["step"] for line in metrics(tmp_path / "whole")] == [1, 2, 3, 4, 5, 4, 5, 6, 7]
    told = [line for line in metrics(tmp_path / "whole") if "rolled_back_to" in line]
    assert told == [{"step": 5, "loss": "nan", "lr": steps[4].lr, "stepped": False, "rolled_back_to": 3}]
    for killed in (4, 5, 6, 8):
        out = tmp_path / str(killed)
        list(itertools.islice(start(out, experts).steps(), killed))
        list(start(out, experts, resume=True).steps())
        assert bits(out) == bits(tmp_path / "whole")


@pytest.mark.parametrize(
    "layer",
    [
        {"evaluate_every": 2, "keep_scored": True},
        *(pytest.param(layer, marks=pytest.mark.integration) for layer in ({}, {"evaluate_every": 3})),
    ],
)
def test_a_checkpoint_of_a_state_whose_loss_is_not_finite_leads_back_to_the_one_before(
    layer, tmp_path, experts, monkeypatch
):
    """Step 6 is a checkpoint's, and scored; only the step after it shows that it is broken. Killed at any place."""
    monkeypatch.setattr(runs, "evaluate", lambda synset, *rest: float(synset.images.std()) / 10 + rest[-1])
    original = METHODS["mtt"]

    def spoil(setup):
        recipe = original(setup)
        return recipe._replace(objective=Spoiled(recipe.objective, step=6))

    monkeypatch.setitem(METHODS, "mtt", replace(original, compose=spoil))
    steps = list(start(tmp_path / "whole", experts, layer).steps())
    assert [(step.step, step.rolled_back_to) for step in steps if step.rolled_back_to is not None] == [(7, 3)]
    assert [line["step"] for line in metrics(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    for killed in range(3, 12):
        out = tmp_path / str(killed)
        list(itertools.islice(start(out, experts, layer).steps(), killed))
        list(start(out, experts, layer, resume=True).steps())
        assert bits(out) == bits(tmp_path / "whole")


class Spoiled:
    """Gives NaN at an outer step for the draws of the first attempt, as an unlucky draw would."""

    parts, joint = 1, False

    def __init__(self, objective, step=4):
        self.objective, self.step = objective, step

    def init(self, rng):
        return self.objective.init(rng)

    def loss(self, synset, state, step, rng, part=0):
        unlucky = rng.initial_seed() == generator(0, "outer", self.step, 0).initial_seed()
        loss, state = self.objective.loss(synset, state, step, rng, part)
        return loss * float("nan") if unlucky else loss, state


def test_a_run_is_not_started_over_another(tmp_path, experts):
    list(itertools.islice(start(tmp_path / "a", experts).steps(), 4))
    before = bits(tmp_path / "a")
    with pytest.raises(ValueError, match="holds a run already; go on with --resume, or name another --out"):
        start(tmp_path / "a", experts)
    assert bits(tmp_path / "a") == before


@pytest.mark.parametrize(
    ("layer", "difference"),
    [
        ({"seed": 5}, "seed was 0 and is 5"),
        ({"span": 2}, "span was 1 and is 2"),
        ({"lr": {"images": 3}}, "lr.images was 20.0 and is 3.0"),
        ({"experts": {"milestones": [2]}}, r"experts.milestones was \(\) and is \(2,\)"),
    ],
)
def test_other_settings_are_refused_by_name(layer, difference, tmp_path, experts):
    list(itertools.islice(start(tmp_path / "a", experts).steps(), 4))
    before = bits(tmp_path / "a")
    with pytest.raises(ValueError, match=f"was started with other settings: {difference}; ") as caught:
        start(tmp_path / "a", experts, layer, resume=True)
    assert "\n" not in str(caught.value)
    assert bits(tmp_path / "a") == before


def test_a_damaged_checkpoint_is_refused(tmp_path, experts):
    list(itertools.islice(start(tmp_path / "a", experts).steps(), 4))
    state = tmp_path / "a" / "checkpoint" / "state.arrow"
    state.write_bytes(state.read_bytes()[:-20])
    with pytest.raises(ValueError, match="is not a complete raydd file"):
        start(tmp_path / "a", experts, resume=True)


def test_a_window_beyond_the_buffer_is_refused():
    for layer in ({"window": {"high": 3}}, {"span": 4}, {"window": {"low": 3}}):
        with pytest.raises(ValueError, match=r"window|span"):
            check_run(toy(layer, {"experts": {"epochs": 9}}), CPU, epochs=3)


REFUSED = [
    ({"method": "magic"}, "unknown method 'magic'; use one of ast"),
    ({"ipc": 1000}, "ipc 1000 is larger than class"),
    ({"window": {"high": 3}}, r"window \(0, 3\) with a span of 1 epochs needs experts of 4 epochs but they have 3"),
    ({"window": {"low": 2, "high": 1}}, r"window \(2, 1\) holds no epoch"),
    ({"span": 4}, "a span of 4 epochs is longer than the experts' 3; use a span of at most 3"),
    ({"span": 3, "window": {"low": 1}}, r"window \(1, 0\) holds no epoch"),
]


@pytest.mark.parametrize(("layer", "message"), REFUSED)
def test_what_cannot_run_is_refused_with_the_remedy(layer, message):
    check_run(toy(), CPU)
    with pytest.raises(ValueError, match=message) as caught:
        check_run(complete(toy(layer)), CPU)
    assert "\n" not in str(caught.value)


def test_selection_without_a_validation_split_is_refused():
    layer = {"evaluate_every": 2, "data": {"validation": 0}}
    config = build(DistillConfig, TOY, layer, partial=True)  # as a trial's, which the schema does not check
    work = open_workspace(config.data, "ConvNetW8", CPU)
    for call in (lambda: toy(layer), lambda: check_settings(config), lambda: check_data(config, work)):
        with pytest.raises(ValueError, match="evaluate_every = 2 needs a validation split"):
            call()


def test_a_buffer_opens_with_its_own_preprocessing(folder, experts):
    buffer, work = experts
    assert work.transform.hash == load_transform(folder).hash == buffer.spec.preprocessing_hash
    with pytest.raises(ValueError, match="has preprocessing 'normalise', not 'zca'"):
        open_buffer(folder, toy({"data": {"preprocessing": "zca"}}), CPU)
    with pytest.raises(ValueError, match="has network 'ConvNetW8', not 'ConvNet'"):
        open_buffer(folder, toy({"experts": {"network": "ConvNet"}}), CPU)


def test_threads_are_settled_once_for_a_run(tmp_path, experts):
    out, buffer = tmp_path / "a", experts[0]
    assert settle(toy({"threads": 3}), buffer).threads == 3
    assert settle(toy(), buffer).threads >= 1
    assert settle(toy({"shards": 2}), buffer).threads == settle(toy({"rollouts": 2}), buffer).threads == 1
    start(out, experts, {"threads": 5})
    assert settle(toy(), buffer, previous_run(out, True)).threads == 5
    assert settle(toy({"threads": 3}), buffer, previous_run(out, True)).threads == 3


def test_a_run_tells_of_the_experts_it_really_has(experts):
    config = settle(toy({"experts": {"num_experts": 50, "epochs": 9, "lr": 7}}), experts[0])
    assert config.experts == toy().experts


def test_the_commit_is_known_in_a_checkout_only(monkeypatch):
    def missing(*arguments, **options):
        raise FileNotFoundError("git")

    found = commit()
    assert found is None or (len(found) == 12 and int(found, 16) >= 0)
    monkeypatch.setattr(subprocess, "run", missing)
    assert commit() is None


def memories(out):
    return [json.loads(line) for line in (out / "memory.jsonl").read_text().splitlines()]


def test_memory_is_noted_once_at_every_checkpoint_whether_resumed_or_not(tmp_path, experts):
    list(start(tmp_path / "whole", experts).steps())
    assert [line["step"] for line in memories(tmp_path / "whole")] == [3, 6, 7]
    assert all(50 < line["resident_mb"] < 20_000 and line["device_mb"] is None for line in memories(tmp_path / "whole"))
    for killed in (4, 5, 7):
        out = tmp_path / str(killed)
        list(itertools.islice(start(out, experts).steps(), killed))
        for _ in range(2):  # the second time there is nothing left to do
            list(start(out, experts, resume=True).steps())
            assert [line["step"] for line in memories(out)] == [3, 6, 7]


def test_what_a_method_makes_of_the_learned_set_is_scored_and_saved_and_never_fed_back(
    tmp_path, experts, scored, monkeypatch
):
    def bright(synset):
        return synset.with_leaves({"images": synset.images + 1})

    original = METHODS["mtt"]
    run = start(tmp_path / "plain", experts, {"evaluate_every": 2})
    plain = [step.loss for step in run.steps()]
    finished = replace(original, compose=lambda setup: original(setup)._replace(finish=bright))
    monkeypatch.setitem(METHODS, "mtt", finished)
    seen, scored[:] = [images for images, _, _ in scored], []
    assert [step.loss for step in start(tmp_path / "bright", experts, {"evaluate_every": 2}).steps()] == plain
    assert len(scored) == len(seen) == 8
    for (images, _, _), before in zip(scored, seen, strict=True):
        assert torch.equal(images, before + 1)
    for name in ("synset", "best", "last"):
        found, before = (SyntheticSet.load(tmp_path / run / f"{name}.arrow").images for run in ("bright", "plain"))
        assert torch.equal(found, before + 1)


def test_a_checkpoint_by_time_goes_on_to_the_same_bits_about_a_rollback(tmp_path, experts, monkeypatch):
    """Killed at every step before, at and after a rollback, with a checkpoint of the step before the kill."""

    def spoil(setup):
        recipe = original(setup)
        return recipe._replace(objective=Spoiled(recipe.objective))

    original, old = METHODS["mtt"], {"checkpoint_seconds": 1e-9}
    monkeypatch.setitem(METHODS, "mtt", replace(original, compose=spoil))
    list(start(tmp_path / "whole", experts, old).steps())
    assert [line["step"] for line in metrics(tmp_path / "whole")] == [1, 2, 3, 4, 5, 4, 5, 6, 7]
    for killed in range(1, 9):
        out = tmp_path / str(killed)
        list(itertools.islice(start(out, experts, old).steps(), killed))
        list(start(out, experts, old, resume=True).steps())
        assert bits(out) == bits(tmp_path / "whole")
