"""`raydd distill` killed in mid-run and gone on with: the bits of a run that nobody disturbed."""

import json
import subprocess
import sys
import time

import pytest

from raydd.cli import run
from raydd.io.tensor_file import load_tensors

STEPS = 60


@pytest.mark.integration
@pytest.mark.slow
def test_a_killed_distillation_resumes_to_the_same_bits(small_buffer, tmp_path):
    words = ["distill", "--network", "MLP", "--buffer", str(small_buffer), "--set", "window.high=1"]
    words += ["--set", f"steps={STEPS}", "--set", "student_steps=40", "--set", "checkpoint_every=5"]
    words += ["--set", "threads=1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run([*words, "--out", str(whole)]) == 0

    process = subprocess.Popen(
        [sys.executable, "-m", "raydd", *words, "--out", str(killed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoint, end = killed / "checkpoint" / "state.arrow", time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    process.kill()
    assert process.communicate()[0] == ""
    assert process.returncode == -9, "the run ended before it could be killed: give it more steps"
    reached = load_tensors(checkpoint)[1]["plain"]["step"]
    assert 0 < reached < STEPS
    assert not (killed / "synset.arrow").exists()

    assert run([*words, "--out", str(killed)]) == 2
    assert run([*words, "--out", str(killed), "--resume"]) == 0
    for name in ("synset.arrow", "metrics.jsonl", "synset.png", "config.yaml"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
