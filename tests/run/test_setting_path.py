"""The files that a setting passes from `raydd distill`, or from a search space, to the gradient step.

Counted are the files of raydd on the call stack at two moments: where the settings become an objective and its learned
parts, and where the optimiser takes its first step.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

import raydd
from raydd.cli import run
from raydd.tuning.space_files import make_space
from raydd.tuning.trial import SearchContext, run_trial

ROOT = Path(raydd.__file__).parent
MOMENTS = {"composed": ("distillation/setup.py", "leaves"), "stepped": ("numerics/sgd.py", "step")}
MOST = 8
ONCE = {
    ("methods/__init__.py", "complete"),
    ("run/resolve.py", "check_settings"),
    ("run/resolve.py", "check_data"),
    ("run/run_folder.py", "read_config"),
    ("data/workspace.py", "open_workspace"),
}
"""What completes, checks and opens a run."""
SMALL = {"steps": 1, "student_steps": 1, "span": 1, "window": {"high": 1}}


def stack(frame):
    """The files of raydd on a call stack, the outermost first."""
    files = []
    while frame:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT):
            files.append(path.relative_to(ROOT).as_posix())
        frame = frame.f_back
    return list(dict.fromkeys(reversed(files)))


@contextmanager
def followed():
    """By moment: the stack of its first call; and how often each of `ONCE` was called until the first step."""
    stacks, calls = {}, Counter()
    names = {function for _, function in ONCE | set(MOMENTS.values())}

    def profile(frame, event, _):
        name = frame.f_code.co_name
        if event != "call" or name not in names:
            return
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(ROOT):
            return
        file = path.relative_to(ROOT).as_posix()
        calls[file, name] += 1
        for moment in (moment for moment, place in MOMENTS.items() if place == (file, name)):
            stacks.setdefault(moment, stack(frame))
        if "stepped" in stacks:
            sys.setprofile(before)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield stacks, calls
    finally:
        sys.setprofile(before)


def test_from_the_command_to_the_step(small_buffer, tmp_path):
    words = ["distill", "--buffer", str(small_buffer), "--network", "MLP", "--out", str(tmp_path / "run")]
    settings = ["experts.epochs=3", "steps=1", "student_steps=1", "span=1", "window.high=1"]
    with followed() as (stacks, calls):
        assert run([*words, *(word for setting in settings for word in ("--set", setting))]) == 0
    assert stacks.keys() == MOMENTS.keys()
    for moment, files in stacks.items():
        assert "api/distill.py" in files, moment
        assert len(files) <= MOST, (moment, files)
    assert {place: calls[place] for place in ONCE} == dict.fromkeys(ONCE, 1)


@pytest.mark.usefixtures("cache")
def test_from_a_space_to_the_step(small_buffer, tmp_path):
    tree = {"method": "mtt", "set": SMALL | {"experts": {"network": "MLP", "num_experts": 2, "epochs": 3}}}
    tree |= {"preset": str(tmp_path / "none.yaml"), "buffer": str(small_buffer)}
    tree |= {"domains": {"lr.images": {"log_uniform": [1, 1000]}}, "budget": {"samples": 1}}
    (tmp_path / "none.yaml").write_text("{}\n")
    with followed() as (stacks, _):
        list(run_trial(SearchContext(make_space(tree), small_buffer, tmp_path / "out", "cpu"), 0, {"lr.images": 30.0}))
    assert stacks.keys() == MOMENTS.keys()
    for moment, files in stacks.items():
        assert "tuning/trial.py" in files, moment
        assert len(files) <= MOST, (moment, files)
