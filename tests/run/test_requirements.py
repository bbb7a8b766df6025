"""What a run takes, against what runs took; and refusals before they start."""

import shutil
import subprocess
import sys
import textwrap

import pytest
import torch

from raydd.api.distill import distill
from raydd.api.experts import train_experts
from raydd.buffer.expert_file import expert_path
from raydd.config.parsing import build
from raydd.config.placement import Where
from raydd.config.schema import DataConfig, DistillConfig, ExpertConfig, ExpertsConfig
from raydd.data.workspace import open_workspace
from raydd.methods import complete
from raydd.numerics.flat import FlatModel
from raydd.run import requirements as needs
from raydd.run.requirements import Need, check_room, free_memory, graph_bytes, kept_sets, of_distillation, of_experts
from raydd.training.expert_worker import ExpertJob, ExpertTrainer, buffer_spec, prepare

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def work(cache):
    return open_workspace(DataConfig(), "ConvNetW8", CPU)


def toy(*layers):
    plain = {"student_steps": 10, "span": 1, "experts": {"network": "ConvNetW8", "num_experts": 2, "epochs": 3}}
    return complete(build(DistillConfig, plain, *layers))


def needed(work, *layers):
    return of_distillation(toy(*layers), work, needs.parameters_of(work), 0)


def test_the_graph_of_a_known_function_is_counted_to_the_byte():
    theta, fixed = torch.ones(1000), torch.ones(1000)
    assert graph_bytes(lambda t: (t * fixed).sum(), theta, False) == 4000  # only the constant is needed backwards
    assert graph_bytes(lambda t: (t.exp() * fixed).sum(), theta, False) == 8000  # and the value of exp
    assert graph_bytes(lambda t: t.sum(), theta, False) == 0
    assert graph_bytes(lambda t: t.pow(3).sum(), theta, True) > graph_bytes(lambda t: t.pow(3).sum(), theta, False)


def test_a_full_graph_grows_with_the_students_steps_and_an_adjoint_one_does_not(work):
    parameters = needs.parameters_of(work).numel()
    ten, twenty = (needed(work, {"backprop": "full", "student_steps": n}).memory for n in (10, 20))
    step = needs.step_bytes(work, needs.parameters_of(work), 10, True)
    assert twenty - ten == 10 * step + 10 * 4 * parameters
    ten, twenty = (needed(work, {"backprop": "adjoint", "student_steps": n}).memory for n in (10, 20))
    assert twenty - ten == 10 * 4 * parameters


def test_a_step_grows_in_a_line_with_its_batch(work):
    theta = needs.parameters_of(work)
    sizes = [needs.step_bytes(work, theta, count, True) for count in (10, 20, 30)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0
    inner, x = needs.classification(FlatModel(work.build)), torch.zeros(20, 1, 8, 8, requires_grad=True)
    measured = graph_bytes(lambda t: inner(t, x, torch.zeros(20, dtype=torch.long)), theta, True)
    assert sizes[1] == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize(("kept", "storage"), [(None, "float32"), ((2,), "float32"), (None, "float16")])
def test_the_disk_of_experts_is_that_of_their_files(tmp_path, work, kept, storage):
    recipe = ExpertConfig(network="ConvNetW8", num_experts=2, epochs=4, kept=kept, storage=storage)
    job, missing = prepare(ExpertJob(DataConfig(), recipe, 0, tmp_path / "buffer", "cpu"))
    trainer = ExpertTrainer(job)
    for index in missing:
        trainer.train(index)
    found = sum(expert_path(job.folder, index).stat().st_size for index in missing)
    wanted = of_experts(recipe, work, buffer_spec(job, work), len(missing)).disk
    assert 1.5 * found <= wanted <= 1.5 * found + 3 * needs.OVERHEAD  # an expert is spooled before it is written


TAKEN = """
    import sys
    from pathlib import Path
    import torch
    from raydd.run.experts import open_buffer
    from raydd.config.schema import DistillConfig
    from raydd.methods import complete
    from raydd.run.requirements import of_distillation, parameters_of
    from raydd.run.resolve import bind
    from raydd.run.run import Run
    from raydd.config.parsing import build

    torch.set_num_threads(1)
    values = {"steps": 1, "student_steps": 40, "span": 1, "ipc": 20, "backprop": sys.argv[3], "threads": 1}
    experts = {"network": "MLP", "num_experts": 2, "epochs": 3}
    config = complete(build(DistillConfig, values, {"window": {"high": 1}, "experts": experts}))
    buffer, work = open_buffer(Path(sys.argv[1]), config, torch.device("cpu"))
    run = Run(bind(config, Path(sys.argv[2]), buffer, work, None))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    list(run.steps())
    peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    need = of_distillation(config, work, parameters_of(work), 0)
    print(need.memory, int(peak.split()[1]) * 1024 - before)
"""


@pytest.mark.slow
def test_a_run_takes_at_least_what_was_said_and_not_many_times_more(tmp_path, small_buffer):
    script = textwrap.dedent(TAKEN)
    words = [sys.executable, "-c", script, str(small_buffer), str(tmp_path / "run"), "full"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said, taken = map(int, done.stdout.split())
    assert said <= taken <= 4 * said + 150e6  # the libraries' own workspaces are beside it


def test_what_does_not_fit_is_refused_with_both_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "free_memory", lambda device: 3 * 10**9)
    remedies = ("use fewer", "go elsewhere")
    check_room(Need(10**9, 0), tmp_path, CPU, workers=3, remedies=remedies)
    with pytest.raises(ValueError, match=r"4 workers take at least 4\.0 GB of memory, and 3\.0 GB are free; use fewer"):
        check_room(Need(10**9, 0), tmp_path, CPU, workers=4, remedies=remedies)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 2 * 10**6))
    missing = tmp_path / "not" / "yet"
    with pytest.raises(ValueError, match=r"yet will take 5 MB, and its disk has 2 MB free; go elsewhere"):
        check_room(Need(0, 5 * 10**6), missing, CPU, remedies=remedies)
    assert not missing.exists()


def test_a_distillation_without_room_is_refused_before_anything_is_written(tmp_path, small_buffer, monkeypatch):
    monkeypatch.setattr(needs, "free_memory", lambda device: 10**5)
    config = toy({"backprop": "full", "window": {"high": 1}, "experts": {"network": "MLP"}})
    with pytest.raises(ValueError, match=r"this run takes at least .* and 1 MB are free; use --set backprop=adjoint"):
        distill(config, tmp_path / "run", buffer=small_buffer)
    assert not (tmp_path / "run").exists()


def test_experts_without_room_are_refused_before_any_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(needs, "free_memory", lambda device: 10**5)
    config = build(ExpertsConfig, {"experts": {"network": "MLP", "num_experts": 3, "epochs": 2}})
    with pytest.raises(ValueError, match=r"2 workers take at least .* are free; use fewer --num-workers or a smaller"):
        train_experts(config, tmp_path / "buffer", where=Where(2, device="cpu"))
    assert list((tmp_path / "buffer").glob("expert-*")) == []


def test_free_memory_is_what_the_system_says_and_less_in_a_control_group(tmp_path, monkeypatch):
    free = free_memory(CPU)
    assert 10**7 < free < 10**13
    monkeypatch.setattr("raydd.io.memory.CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 1\nshmem 5000\ninactive_file 200000\nactive_file 100000\n")
    assert free_memory(CPU) == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) > 10**7


def test_every_score_of_a_run_that_keeps_them_is_counted():
    assert kept_sets(toy({"steps": 25})) == 0
    assert kept_sets(toy({"steps": 25, "keep_scored": True, "evaluate_every": 10})) == 3
