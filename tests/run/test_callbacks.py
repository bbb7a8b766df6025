"""What a run shows while it goes: frames, TensorBoard's event files, the panel. None of it changes the run."""

import io
import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from raydd.api.distill import distill
from raydd.config.parsing import build
from raydd.config.placement import Where
from raydd.config.schema import DistillConfig
from raydd.data.preprocessing import Transform
from raydd.data.synset import SyntheticSet
from raydd.figures import frames
from raydd.figures.frames import drawn_rows, drop_frames, frame, frame_path, frame_paths, frame_steps, save_frame
from raydd.figures.text_graphics import UPPER, Tiles, small, spark, tiles
from raydd.io import console
from raydd.io.console import Screen
from raydd.io.document import without_checksum
from raydd.methods import METHODS
from raydd.numerics.rng import generator
from raydd.run import callbacks as live, run as runs, tensorboard as events
from raydd.run.experts import open_buffer, settle
from raydd.run.resolve import bind
from raydd.run.run import Run

HERE = Where(num_workers=1, device="cpu")
CELL = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀\x1b\[0m")
SPARK = re.compile(r"loss ([▁▂▃▄▅▆▇█]+)")
TOY = {
    "ipc": 2,
    "steps": 7,
    "student_steps": 2,
    "span": 1,
    "checkpoint_every": 3,
    "threads": 1,
    "window": {"high": 1},
    "lr": {"images": 20, "lr": 1e-4, "start": 0.05},
    "experts": {"network": "MLP", "num_experts": 2, "epochs": 3},
}


def toy(*layers):
    return build(DistillConfig, TOY, *layers)


def distilled(out, buffer, *layers, **options):
    return distill(toy(*layers), out, buffer=buffer, where=HERE, **options)


def synset(count=3, ipc=2, side=4, channels=3, **changes):
    """Noise of so many classes."""
    images = torch.rand((count * ipc, channels, side, side), generator=generator(0, "set"))
    labels = torch.arange(count).repeat_interleave(ipc)
    names = tuple(f"class {label}" for label in range(count))
    plain = SyntheticSet(images, labels, torch.tensor(0.1), Transform("raw01"), "toy", names)
    return replace(plain, **changes)


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def held(folder):
    """All frames and what is said of them."""
    return {path.name: path.read_bytes() for path in (folder / "frames").iterdir()}


def index(folder):
    return without_checksum(json.loads((folder / "frames" / "frames.json").read_bytes()))


@pytest.mark.parametrize("steps", [0, 1, 2, 18, 19, 20, 21, 100, 5000, 10_001])
def test_frames_are_evenly_spread_from_the_start_to_the_last_step(steps):
    found = frame_steps(steps)
    assert (found[0], found[-1], len(found)) == (0, steps, min(20, steps + 1))
    gaps = [after - before for before, after in pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_frame_has_a_row_a_class_and_a_column_an_image_at_their_own_size(channels):
    data = synset(channels=channels)
    found = np.asarray(frame(data)).reshape(3 * 4, 2 * 4, channels)
    wanted = (data.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for row in range(3):
        for column in range(2):
            place = found[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert np.array_equal(place, wanted[2 * row + column])


def test_preprocessing_is_undone_and_soft_labels_move_nothing(device):
    q = torch.linalg.qr(torch.rand((48, 48), generator=generator(0, "q"))).Q
    arrays = {"mean": torch.full((48,), 0.25), "matrix": q, "inverse": q.T.contiguous()}
    data = synset(transform=Transform("zca", arrays), labels=torch.rand((6, 3), generator=generator(1, "labels")))
    assert not torch.equal(data.hard_labels, synset().labels)
    first = data.pixels()[2]  # class 1 begins in the second row
    wanted = (first * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    found = np.asarray(frame(data.to(device)))[4:8, 0:4]
    assert np.abs(found.astype(int) - wanted).max() <= (device.type == "cuda")  # it may sum in another order
    assert len(np.unique(wanted)) > 10


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        ((3, 12, 4), (3, 10, 12)),
        ((120, 11, 2), (100, 10, 11)),
        ((10, 4, 256), (10, 3, 4)),  # 2 million pixels
        ((100, 1, 256), (32, 1, 1)),
        ((1, 1, 2048), (1, 1, 1)),
    ],
)
def test_a_frame_shows_no_more_than_can_be_looked_at(made, shown):
    data = synset(*made, channels=1)
    rows = drawn_rows(data)
    assert (len(rows), len(rows[0])) == shown[:2]
    assert rows[-1][-1] == (shown[0] - 1) * shown[2] + shown[1] - 1
    assert frame(data).size == (shown[1] * made[2], shown[0] * made[2])


def test_what_is_shown_is_said_beside_the_frames(tmp_path):
    for step in (0, 50, 1_000_000):
        save_frame(tmp_path, step, synset(ipc=12))
    assert [path.name for path in frame_paths(tmp_path).values()] == [
        "step-000000.png",
        "step-000050.png",
        "step-1000000.png",
    ]
    classes = ["class 0", "class 1", "class 2"]
    said = {"columns": 10, "classes": classes, "size": [4, 4], "images_a_class": 10, "of": 12}
    assert index(tmp_path) == said | {"steps": [0, 50, 1_000_000]}
    drop_frames(tmp_path, 50)
    assert index(tmp_path) == said | {"steps": [0, 50]}
    assert sorted(held(tmp_path)) == ["frames.json", "step-000000.png", "step-000050.png"]


@pytest.fixture
def watched(monkeypatch):
    """The sets of a run as it took its steps, by step; the last of each."""
    seen, original = {}, Run.steps

    def steps(run):
        seen[0] = run.synset
        for step in original(run):
            seen[step.step] = run.synset
            yield step

    monkeypatch.setattr(Run, "steps", steps)
    return seen


def stop(monkeypatch, after, out, buffer, *layers, **options):
    """A distillation that ends after so many steps, as a killed one would."""
    with monkeypatch.context() as patch:
        original = Run.steps
        patch.setattr(Run, "steps", lambda run: islice(original(run), after))
        with pytest.raises(ValueError, match=r"synset\.arrow"):
            distilled(out, buffer, *layers, **options)


def test_a_run_leaves_frames_of_its_set_from_the_start_to_the_end(small_buffer, tmp_path, watched):
    result = distilled(tmp_path, small_buffer, {"steps": 30})
    assert index(tmp_path)["steps"] == [*frame_paths(tmp_path)] == [*frame_steps(30)]
    assert index(tmp_path)["classes"] == [*result.classes]
    for step, path in frame_paths(tmp_path).items():
        assert np.array_equal(read(path), np.asarray(frame(watched[step]))), step
    assert np.array_equal(read(frame_path(tmp_path, 30)), np.asarray(frame(result)))
    assert not np.array_equal(read(frame_path(tmp_path, 0)), read(frame_path(tmp_path, 30)))
    assert read(frame_path(tmp_path, 0)).shape == (80, 16)


def test_looking_on_changes_no_bit_and_draws_no_number(small_buffer, tmp_path, monkeypatch):
    config = toy({"steps": 12, "ema": 0.5})
    buffer, work = open_buffer(small_buffer, config, torch.device("cpu"))
    screen, states = drawing(monkeypatch)[0], []
    for name, take in (("alone", lambda run: list(run.steps())), ("seen", lambda run: live.follow(run, screen))):
        run = Run(bind(settle(config, buffer), tmp_path / name, buffer, work, None))
        torch.manual_seed(5)
        np.random.seed(5)
        take(run)
        states.append((torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()))
    assert states[0] == states[1]
    for name in ("synset.arrow", "metrics.jsonl", "checkpoint/state.arrow"):
        assert (tmp_path / "seen" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    assert not (tmp_path / "alone" / "frames").exists()
    assert not (tmp_path / "alone" / "tensorboard").exists()


@pytest.fixture(scope="module")
def whole(small_buffer, tmp_path_factory):
    """A run that nobody disturbs; read only."""
    out = tmp_path_factory.mktemp("whole")
    distilled(out, small_buffer)
    return out


@pytest.mark.parametrize("killed", [0, 3, 5, 7])
def test_frames_of_a_run_that_is_gone_on_with_are_the_same_bytes(killed, small_buffer, whole, tmp_path, monkeypatch):
    stop(monkeypatch, killed, tmp_path, small_buffer)
    assert index(tmp_path)["steps"] == [*range(killed + 1)]
    stop(monkeypatch, 0, tmp_path, small_buffer, resume=True)
    assert index(tmp_path)["steps"] == [*range(max(0, killed - 1) // 3 * 3 + 1)], "the others are taken again"
    distilled(tmp_path, small_buffer, resume=True)
    assert held(tmp_path) == held(whole)
    assert Told(tmp_path).computed == Told(whole).computed
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    distilled(tmp_path, small_buffer, resume=True)  # there is nothing to do
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert {path.name for path in after if before.get(path) != after[path]} <= {"synset.arrow", "synset.png"} | {
        *("metrics.jsonl", "memory.jsonl", "checkpoint", "state.arrow", tmp_path.name)
    }


def test_a_run_killed_between_a_frame_and_its_mention_is_gone_on_with(small_buffer, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(frames, "_write_index", die_at(frames._write_index, 4))
        with pytest.raises(KeyboardInterrupt):
            distilled(tmp_path, small_buffer)
    assert index(tmp_path)["steps"] == [0, 1, 2]
    assert [*frame_paths(tmp_path)] == [0, 1, 2, 3]
    distilled(tmp_path, small_buffer, resume=True)
    assert held(tmp_path) == held(whole)


def die_at(function, call):
    calls = []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*arguments)

    return dies


KILLED = """
import os, sys
from raydd.cli import run
from raydd.run.run import Run
original = Run.steps
def steps(run):
    for step in original(run):
        yield step
        if step.step == 5:
            os.kill(os.getpid(), 9)
Run.steps = steps
run(sys.argv[1:])
"""


def test_a_run_that_the_system_kills_leaves_all_it_has_told_of(small_buffer, whole, tmp_path):
    (tmp_path / "toy.yaml").write_text(json.dumps(TOY))
    words = ["distill", "--preset", str(tmp_path / "toy.yaml"), "--buffer", str(small_buffer), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words, "--out", str(tmp_path / "run")], capture_output=True, timeout=60
    )
    assert done.returncode == -9, done.stderr.decode()
    assert index(tmp_path / "run")["steps"] == [0, 1, 2, 3, 4, 5]
    first = Told(tmp_path / "run")
    assert [*first.scalars["loss"]] == [1, 2, 3, 4, 5]
    distilled(tmp_path / "run", small_buffer, resume=True)
    assert held(tmp_path / "run") == held(whole)
    told = Told(tmp_path / "run")
    assert told.computed == Told(whole).computed
    assert told.pictures == Told(whole).pictures
    assert told.text == first.text
    assert told.repeated == 2, "steps 4 and 5, which came after the checkpoint"


class Spoiled:
    """Gives NaN at outer step 5 for the draws of the first attempt, as an unlucky draw would."""

    parts, joint = 1, False

    def __init__(self, objective):
        self.objective = objective

    def init(self, rng):
        return self.objective.init(rng)

    def loss(self, synset, state, step, rng, part=0):
        unlucky = rng.initial_seed() == generator(0, "outer", 4, 0).initial_seed()
        loss, state = self.objective.loss(synset, state, step, rng, part)
        return loss * float("nan") if unlucky else loss, state


def test_a_rollback_takes_back_what_was_shown(small_buffer, tmp_path, monkeypatch, watched, capsys):
    original, dropped = METHODS["mtt"], []

    def spoil(setup):
        recipe = original(setup)
        return recipe._replace(objective=Spoiled(recipe.objective))

    def drop(folder, step):
        drop_frames(folder, step)
        dropped.append((step, index(folder)["steps"] if frame_paths(folder) else []))

    monkeypatch.setitem(METHODS, "mtt", replace(original, compose=spoil))
    monkeypatch.setattr(live, "drop_frames", drop)
    distilled(tmp_path, small_buffer)
    assert dropped == [(0, []), (3, [0, 1, 2, 3])]
    assert "step 5: loss nan, rolled back to step 3" in capsys.readouterr().err
    for step, path in frame_paths(tmp_path).items():
        assert np.array_equal(read(path), np.asarray(frame(watched[step]))), step
    told, lines = Told(tmp_path), metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert told.scalars["loss"] == {line["step"]: np.float32(line["loss"]) for line in lines[:3] + lines[5:]}
    assert told.repeated == 1


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def crc32c(data):
    """The Castagnoli checksum, a bit at a time."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def checked(data, stored):
    value = crc32c(data)
    assert struct.unpack("<I", stored)[0] == ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return data


def records(path):
    """The events of a file, their checksums compared."""
    from tensorboardX.proto.event_pb2 import Event

    with path.open("rb") as file:
        while size := file.read(8):
            length = struct.unpack("<Q", checked(size, file.read(4)))[0]
            data = file.read(length)
            yield Event.FromString(checked(data, file.read(4)))


class Told:
    """What TensorBoard shows of a run: files in the order of their names, of each step what the last process said."""

    def __init__(self, folder):
        self.scalars, self.pictures, self.text, self.repeated, self.files = {}, {}, {}, 0, []
        for path in sorted((folder / "tensorboard").iterdir()):
            assert path.name.startswith("events.out.tfevents."), path
            self.files.append([*records(path)])
            assert self.files[-1][0].file_version == "brain.Event:2"
            for event in self.files[-1][1:]:
                self._take(event)

    @property
    def computed(self):
        """All numbers but those of memory, which is measured."""
        return {name: series for name, series in self.scalars.items() if not name.startswith("memory/")}

    def _take(self, event):
        if event.HasField("session_log"):
            assert event.session_log.status == event.session_log.START
            gone = {step for step in self.scalars.get("loss", {}) if step >= event.step}
            self.repeated += len(gone)
            for series in (*self.scalars.values(), self.pictures):
                for step in [step for step in series if step >= event.step]:
                    del series[step]
        for value in event.summary.value:
            match value.WhichOneof("value"):
                case "simple_value":
                    self._once(self.scalars.setdefault(value.tag, {}), event.step, np.float32(value.simple_value))
                case "image":
                    assert value.tag == "synthetic images"
                    self._once(self.pictures, event.step, value.image.encoded_image_string)
                case "tensor":
                    self._once(self.text, (value.tag, event.step), value.tensor.string_val[0].decode())

    @staticmethod
    def _once(series, step, value):
        assert step not in series, "two lines for one step"
        series[step] = value


def test_event_files_tell_what_the_logs_tell(small_buffer, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "evaluate", lambda synset, *rest: float(synset.images.std()) / 10 + rest[-1])
    distilled(tmp_path, small_buffer, {"steps": 40, "evaluate_every": 15, "lr": {"images": 1}})
    told, lines = Told(tmp_path), metrics(tmp_path)
    for name in ("loss", "lr"):
        assert told.scalars[name] == {line["step"]: np.float32(line[name]) for line in lines}
    assert [*told.scalars["loss"]] == [*range(1, 41)]
    history = SyntheticSet.load(tmp_path / "synset.arrow").history
    assert told.scalars["accuracy/validation"] == {entry["step"]: np.float32(entry["mean"]) for entry in history}
    assert [entry["step"] for entry in history] == [15, 30, 40]
    assert told.pictures == {step: path.read_bytes() for step, path in frame_paths(tmp_path).items()}
    assert [*told.pictures] == [*told.scalars["memory/resident_mb"]] == [*frame_steps(40)]
    assert all(50 < value < 50_000 for value in told.scalars["memory/resident_mb"].values())
    assert "memory/device_mb" not in told.scalars
    (((tag, step), text),) = told.text.items()
    assert (tag, step) == ("config/text_summary", 0)
    assert text == f"```yaml\n{(tmp_path / 'config.yaml').read_text()}\n```"
    image = next(value.image for event in told.files[0] for value in event.summary.value if value.HasField("image"))
    assert (image.height, image.width, image.colorspace) == (80, 16, 1)
    assert all(before.wall_time <= after.wall_time for before, after in pairwise(told.files[0]))


@pytest.mark.gpu
def test_a_run_on_a_gpu_is_shown_as_one_on_the_cpu_is(small_buffer, tmp_path, monkeypatch):
    screen, file = drawing(monkeypatch)
    where = Where(num_workers=1, device="cuda")
    result = distill(toy(), tmp_path, buffer=small_buffer, where=where, screen=screen)
    told = Told(tmp_path)
    assert [*told.pictures] == [*told.scalars["memory/device_mb"]] == [*range(8)]
    assert all(0 < value < 50_000 for value in told.scalars["memory/device_mb"].values())
    assert np.array_equal(read(frame_path(tmp_path, 7)), np.asarray(frame(result)))
    assert file.getvalue().count("mtt, ipc 2") >= 7


def test_a_run_without_steps_tells_of_its_start_and_its_score(small_buffer, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "evaluate", lambda *rest: 0.25)
    for resume in (False, True):
        distilled(tmp_path, small_buffer, {"steps": 0, "evaluate_every": 1}, resume=resume)
        told = Told(tmp_path)
        assert (told.scalars["accuracy/validation"], len(told.files)) == ({0: 0.25}, 1)
        assert index(tmp_path)["steps"] == [*told.pictures] == [0]


def test_without_tensorboardx_it_is_said_once_and_the_frames_are_there(
    small_buffer, whole, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "tensorboardX.proto.event_pb2", None)
    distilled(tmp_path, small_buffer)
    assert capsys.readouterr().err.splitlines().count(events.MISSING) == 1
    assert not (tmp_path / "tensorboard").exists()
    assert held(tmp_path) == held(whole)


class FullDisk:
    """A file of a disk that takes a few bytes more, and then none."""

    def __init__(self, left):
        self.data, self.left = bytearray(), left

    def write(self, data):
        if not self.left:
            raise OSError(28, "No space left on device")
        taken = bytes(data[: self.left])
        self.data, self.left = self.data + taken, self.left - len(taken)
        return len(taken)

    def close(self):
        pass


def test_a_disk_without_room_for_pictures_ends_no_run(small_buffer, whole, tmp_path, monkeypatch, capsys):
    def full(*rest):
        raise OSError(28, "No space left on device")

    disks, opened = [], events.Path.open

    def room(self, mode="r", **options):
        if "tfevents" not in self.name:
            return opened(self, mode, **options)
        disks.append(FullDisk(200))
        return disks[-1]

    monkeypatch.setattr(live, "save_frame", full)
    monkeypatch.setattr(events.Path, "open", room)
    distilled(tmp_path, small_buffer)
    told = capsys.readouterr().err
    assert "no frame of step 7: [Errno 28] No space left on device" in told
    assert told.count("TensorBoard's file ends at step") == 1
    assert [len(disk.data) for disk in disks] == [200]
    assert (tmp_path / "synset.arrow").read_bytes() == (whole / "synset.arrow").read_bytes()


def test_several_rollouts_a_step_are_shown_as_one_is(small_buffer, tmp_path, monkeypatch):
    layer = {"rollouts": 2}
    distilled(tmp_path / "whole", small_buffer, layer)
    stop(monkeypatch, 5, tmp_path / "run", small_buffer, layer)
    distilled(tmp_path / "run", small_buffer, layer, resume=True)
    assert held(tmp_path / "run") == held(tmp_path / "whole")
    told = Told(tmp_path / "run")
    assert told.scalars["loss"] == {line["step"]: np.float32(line["loss"]) for line in metrics(tmp_path / "run")}
    assert index(tmp_path / "run")["steps"] == [*range(8)]


def drawing(monkeypatch, width=100, height=40, colours="truecolor"):
    """A screen on a terminal that draws whenever it is asked to, and what it has drawn."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    screen, file = Screen(), io.StringIO()
    screen._err = Console(file=file, force_terminal=True, color_system=colours, width=width, height=height)
    monkeypatch.setattr(console, "DRAW_SECONDS", 0)
    monkeypatch.setattr(console, "DRAW_SHARE", float("inf"))
    return screen, file


def test_the_panel_shows_the_set_as_it_stands(small_buffer, tmp_path, monkeypatch):
    screen, file = drawing(monkeypatch)
    result = distilled(tmp_path, small_buffer, screen=screen)
    text = file.getvalue()
    panel = text[text.rindex("mtt, ipc 2") :]
    wanted = (result.pixels()[::2, 0] * 255).round().to(torch.uint8).tolist()  # the first of each class
    lines = [line for line in panel.splitlines() if "▀" in line]
    assert len(lines) == 4  # ten images of 8 x 8 beside one another
    for row, line in enumerate(lines):
        cells = CELL.findall(line)
        assert len(cells) == 80
        for column, colours in enumerate(cells):
            image, x = divmod(column, 8)
            upper, lower = (wanted[image][2 * row + half][x] for half in (0, 1))
            assert [int(value) for value in colours] == 3 * [upper] + 3 * [lower]
    assert "7/7" in panel
    assert f"loss {metrics(tmp_path)[-1]['loss']:.4f}, lr" in panel
    assert text.index("needs at least") < text.index("mtt, ipc 2")
    assert len(SPARK.search(panel)[1]) == 7


def test_a_narrow_terminal_has_the_bar_and_none_has_plain_lines(small_buffer, tmp_path, monkeypatch, capsys):
    screen, file = drawing(monkeypatch, width=59)
    distilled(tmp_path / "narrow", small_buffer, screen=screen)
    assert "▀" not in file.getvalue()
    assert "0/7" in file.getvalue()
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0)
    distilled(tmp_path / "plain", small_buffer)
    err = capsys.readouterr().err
    assert "\x1b" not in err
    loss = metrics(tmp_path / "plain")[3]
    assert f"mtt, ipc 2: 4 of 7 loss {loss['loss']:.4f}, lr {loss['lr']:.2e}" in err
    assert os.environ["TERM"] == "xterm-256color"


def drawn(data, width=80, height=60, colours="truecolor"):
    """What a terminal is sent for a set."""
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system=colours, width=width, height=height).print(tiles(data), end="")
    return file.getvalue()


@pytest.mark.parametrize(
    ("side", "width", "height", "across", "shown"),
    [
        (8, 80, 60, 9, 25),  # 9 columns each, less the last gap
        (8, 79, 60, 8, 25),
        (8, 71, 60, 8, 25),
        (8, 70, 60, 7, 25),
        (16, 84, 60, 5, 25),
        (64, 84, 60, 5, 25),
        (28, 84, 60, 5, 25),  # 14 columns
        (16, 84, 34, 5, 15),  # three rows of nine lines
        (16, 84, 33, 5, 10),
        (16, 84, 3, 5, 5),
    ],
)
def test_images_are_wrapped_into_the_terminal(side, width, height, across, shown):
    data = synset(25, 1, side, channels=1, classes=tuple("abcdefghijklmnopqrstuvwxy"))
    lines = drawn(data, width, height).splitlines()
    cells = [line.count(UPPER) for line in lines if UPPER in line]
    names = [line.split() for line in lines if UPPER not in line]
    found, drawn_side = sum(len(row) for row in names), side if side <= 16 else side // -(-side // 16)
    assert found == min(20, shown)
    assert [len(row) for row in names[:-1]] == [across] * (len(names) - 1)
    assert [name for row in names for name in row] == list("abcdefghijklmnopqrstuvwxy")[:found]
    assert sum(cells) == found * drawn_side * drawn_side // 2
    assert len(cells) == len(names) * drawn_side // 2


def test_a_name_sends_no_orders_to_the_terminal():
    """Classes of a folder data set are named by its folders."""
    shown = drawn(synset(1, 1, side=16, classes=("\x1b]0;x\x07",)))
    assert "?]0;x?" in shown.splitlines()[0]
    assert "\x1b]" not in shown


def test_colours_are_those_of_the_pixels_means():
    data = synset(2, 3, side=32)
    lines = [CELL.findall(line) for line in drawn(data).splitlines() if UPPER in line]
    blocks = data.images[::3].unflatten(3, (16, 2)).unflatten(2, (16, 2)).mean(dim=(3, 5))
    wanted = (blocks * 255).round().to(torch.uint8).permute(0, 2, 3, 1).tolist()
    assert len(lines) == 8
    for row, cells in enumerate(lines):
        found = [[int(value) for value in cell] for cell in cells]
        assert found == [wanted[k][2 * row][x] + wanted[k][2 * row + 1][x] for k in (0, 1) for x in range(16)]


def test_an_odd_last_row_has_nothing_below_it():
    found = Tiles([tiles(synset(1, 1, side=5)).images[0]])
    file = io.StringIO()
    Console(file=file, force_terminal=True, color_system="truecolor", width=80).print(found, end="")
    last = file.getvalue().splitlines()[-1]
    values = (synset(1, 1, side=5).images[0, :, 4] * 255).round().to(torch.uint8).T.tolist()
    assert last == "".join(f"\x1b[38;2;{r};{g};{b}m{UPPER}\x1b[0m" for r, g, b in values)


def test_of_256_colours_the_nearest_are_taken():
    data = synset(1, 1, side=2)
    data = data.with_leaves({"images": torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)})
    assert "\x1b[38;5;196;48;5;196m▀" in drawn(data, colours="256")


@pytest.mark.parametrize(("side", "width"), [(1, 1), (16, 16), (17, 8), (32, 16), (33, 11), (224, 16)])
def test_images_are_made_small_by_whole_factors(side, width):
    found = small(torch.rand((1, side, side), generator=generator(0, "small")))
    assert found.shape == (width, width, 3)
    assert (found[..., 0] == found[..., 2]).all()


def test_a_line_of_blocks_goes_from_the_least_to_the_most():
    assert spark([float("nan"), 1, 8, float("inf"), 4.5]) == "▁█▅"
    assert len(spark(range(1000), 30)) == 30
    assert spark([2.0] * 99, 3) == "▁▁▁"
    assert spark([float("nan")]) == ""
