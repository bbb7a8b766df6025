import dataclasses
import json
import math
import pickle
from collections import Counter
from itertools import pairwise

import pytest
import torch
from buffer_specs import make_spec

from raydd.buffer.arrow_buffer import ArrowBuffer, complete_experts, create_buffer, refresh_manifest
from raydd.buffer.convexified import Convexified, betas, convexify, knots
from raydd.buffer.describe import describe
from raydd.buffer.expert_file import ExpertTrajectory, expert_path, write_expert
from raydd.buffer.segments import InMemory
from raydd.buffer.verification import verify
from raydd.data.preprocessing import Transform, save_transform
from raydd.io.document import dump_document
from raydd.models.zoo import build
from raydd.numerics.flat import layout_of, running_statistics
from raydd.numerics.rng import generator

LAYOUT = layout_of({"a": torch.zeros(1), "b": torch.zeros(2)})
WIDE = layout_of({"w": torch.zeros(3, 5), "b": torch.zeros(4), "still": torch.zeros(2)})
SPEC = make_spec(
    WIDE,
    preprocessing={"kind": "zca", "eps": 0.1},
    network="ConvNetW32",
    buffer_layout=layout_of({"mean": torch.zeros(2)}),
)


def bent():
    """Tensor a goes 1 back and 3 on, then 2; tensor b goes 5 and 5 around a corner, then 10."""
    path = [[0.0, 0, 0], [-1, 3, 4], [2, 0, 8], [4, 6, 0]]
    return InMemory([torch.tensor(path, dtype=torch.float64)], LAYOUT)


def random_paths(experts=3, epochs=9, dtype=torch.float64):
    """The last two numbers, the tensor "still", only move after epoch 4."""
    paths = [torch.randn(epochs + 1, 21, generator=generator(1, e)).to(dtype) for e in range(experts)]
    for path in paths:
        path[:5, 19:] = path[0, 19:]
    return paths


def naive(path, layout, legs, c):
    """Eq. 8 to 10 between two stored epochs, in Python's own numbers, a tensor at a time."""
    a, b = next((a, b) for a, b in pairwise(legs) if a <= c <= b)
    point = []
    for slot in layout:
        inside = range(slot.offset, slot.offset + slot.numel)

        def norm(t, inside=inside):
            return math.sqrt(sum((float(path[t, i]) - float(path[t - 1, i])) ** 2 for i in inside))

        def beta(t, norm=norm):
            total = sum(norm(s) for s in range(a + 1, b + 1))
            return sum(norm(s) for s in range(a + 1, t + 1)) / total if total else (t - a) / (b - a)

        eta = c - math.floor(c)
        share = (1 - eta) * beta(math.floor(c)) + eta * beta(math.ceil(c))
        point += [(1 - share) * float(path[a, i]) + share * float(path[b, i]) for i in inside]
    return point


def full_buffer(folder, spec=SPEC, experts=(0, 2, 7), epochs=9):
    """A buffer of random experts; loss and accuracy differ at every epoch."""
    create_buffer(folder, spec)
    for index in experts:
        trajectory = ExpertTrajectory(
            theta=random_paths(index + 1, epochs, torch.float32)[index],
            buffers=torch.randn(epochs + 1, 2, generator=generator(2, index)),
            epochs=range(epochs + 1),
            accuracy=[0.1 * t + 0.01 * index for t in range(epochs + 1)],
            train_loss=[float("nan")] + [1.0 / t for t in range(1, epochs + 1)],
        )
        write_expert(folder, spec, index, trajectory)
    refresh_manifest(folder)
    save_transform(folder, Transform("raw01"))
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("c", "expected"),
    [
        (0, [0, 0, 0]),
        (0.5, [0.25, 0, 2]),  # half way to beta(1): an eighth of a's line, a quarter of b's
        (1, [0.5, 0, 4]),  # beta(1) is 1 / (1 + 3) and 5 / (5 + 5); the expert itself is elsewhere
        (1.5, [1.25, 0, 6]),
        (2, [2, 0, 8]),
        (2.75, [3.5, 4.5, 2]),
        (3, [4, 6, 0]),
    ],
)
def test_points_worked_out_by_hand(c, expected):
    assert Convexified(bent(), (2,)).point(0, c).tolist() == expected


def test_without_waypoints_there_is_one_line():
    """Lengths 1, 3, 2 and 5, 5, 10: after two epochs a is at 4/6 of its line and b at 10/20."""
    found = Convexified(bent()).point(0, 2)
    torch.testing.assert_close(found, torch.tensor([4 * 4 / 6, 3.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("waypoints", [(), (4,), (1, 2, 8)])
def test_points_against_a_loop_over_the_papers_equations(waypoints):
    source = InMemory(random_paths(), WIDE)
    straight, legs = Convexified(source, waypoints), (0, *waypoints, 9)
    for expert in range(3):
        for c in [*range(10), 0.25, 3.9, 4.1, 6.5, 8.999]:
            expected = torch.tensor(naive(source.trajectories[expert], WIDE, legs, c), dtype=torch.float64)
            torch.testing.assert_close(straight.point(expert, c), expected, rtol=1e-12, atol=1e-13)


def test_a_tensor_that_stands_still_moves_evenly_in_time():
    assert betas(torch.tensor([[0.0, 2], [0, 0], [0, 2], [0, 4]])).tolist() == [
        [0, 0],
        [0.25, 0.25],
        [0.5, 0.25],
        [0.75, 0.5],
        [1, 1],
    ]
    path = torch.zeros(4, 3)  # epochs 1 to 3 return b to its start, a never moves
    path[1, 1] = path[2, 1] = 7
    assert Convexified(InMemory([path], LAYOUT)).point(0, 1.5).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_kept_epochs_it_is_the_expert_bit_by_bit(dtype):
    paths = random_paths(dtype=dtype)
    paths[0][0, 3], paths[0][9, 3] = -0.0, 1.0
    straight = Convexified(InMemory(paths, WIDE), (4, 6))
    assert straight.kept == (0, 4, 6, 9)
    for expert, path in enumerate(paths):
        for epoch in (0, 4, 6, 9):
            for found in (straight.point(expert, epoch), straight.point(expert, float(epoch))):
                assert found.numpy().tobytes() == path[epoch].numpy().tobytes()
        assert not torch.equal(straight.point(expert, 5), path[5])
        assert straight.point(expert, 5.5).dtype == dtype


def test_a_layout_counts_layer_by_layer():
    one = Convexified(InMemory([*bent().trajectories]), (2,)).point(0, 1)
    share = math.sqrt(26) / (math.sqrt(26) + math.sqrt(34))
    torch.testing.assert_close(one, share * torch.tensor([2.0, 0, 8], dtype=torch.float64))


def test_segments_are_points_of_one_expert():
    source = InMemory(random_paths(), WIDE)
    straight, rng = Convexified(source, (4,)), generator(5)
    for _ in range(30):
        s = straight.segment((1, 4), 5, rng, between=True)
        assert 1 <= s.epoch <= 4
        assert s.between.shape == (4, 21)
        for k, found in enumerate([s.start, *s.between, s.target]):
            expected = naive(source.trajectories[s.expert], WIDE, (0, 4, 9), s.epoch + k)
            torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-13)
    assert straight.segment((1, 4), 5, rng).between is None
    assert straight.segment((1, 4), 1, rng, between=True).between.shape == (0, 21)


def test_continuous_draws_are_uniform_over_experts_and_reals():
    straight, rng = Convexified(InMemory(random_paths(), WIDE)), generator(7)
    draws = [straight.segment((1.5, 5.5), 2, rng) for _ in range(3600)]
    counts = Counter((s.expert, math.floor((s.epoch - 1.5) * 3)) for s in draws)
    assert set(counts) == {(e, k) for e in range(3) for k in range(12)}
    assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 66.7  # 0.999 quantile, 35 degrees of freedom
    assert len({s.epoch for s in draws}) == 3600


def test_whole_draws_are_those_of_the_buffer():
    source = InMemory(random_paths(), WIDE)
    straight = Convexified(source, (4,), continuous=False)
    for i in range(40):
        mine, theirs = (s.segment((1, 6), 3, generator(0, i)) for s in (straight, source))
        assert (mine.expert, mine.epoch) == (theirs.expert, theirs.epoch)
        assert torch.equal(mine.start, straight.point(mine.expert, mine.epoch))
    with pytest.raises(ValueError, match="holds no epoch"):
        straight.segment((1.2, 1.8), 3, generator(0))


def test_same_generator_same_segment_and_it_is_the_callers_own():
    source = InMemory(random_paths(), WIDE)
    a, b = (Convexified(source, (4,)).segment((0, 5), 3, generator(3), between=True) for _ in range(2))
    assert (a.expert, a.epoch) == (b.expert, b.epoch)
    before = [path.clone() for path in source.trajectories]
    straight = Convexified(source, (4,))
    for window in ((4, 4), (0, 0), (5, 5)):
        for tensor in straight.segment(window, 4, generator(0), between=True)[:2]:
            tensor.mul_(0)
    assert all(torch.equal(x, y) for x, y in zip(before, source.trajectories, strict=True))
    assert torch.equal(straight.point(a.expert, a.epoch), a.start)


@pytest.mark.parametrize("window", [(0, 7.5), (-0.5, 2), (3, 2), (math.nan, 2)])
def test_windows_that_reach_outside_are_refused(window):
    with pytest.raises(ValueError, match="window"):
        Convexified(InMemory(random_paths(), WIDE)).segment(window, 2, generator(0))
    assert Convexified(InMemory(random_paths(), WIDE)).segment((7, 7), 2, generator(0)).epoch == 7


def test_epochs_outside_are_refused():
    for c in (-0.1, 9.1, math.nan):
        with pytest.raises(ValueError, match=r"not in \[0, 9\]"):
            Convexified(InMemory(random_paths(), WIDE)).point(0, c)


@pytest.mark.parametrize("waypoints", [(0,), (9,), (12,), (5, 5), (6, 4), (-1,)])
def test_waypoints_that_do_not_fit_are_refused(waypoints):
    with pytest.raises(ValueError, match="rising order") as caught:
        Convexified(InMemory(random_paths(), WIDE), waypoints)
    assert str([*waypoints]) in str(caught.value)
    assert "between 0 and 9" in str(caught.value)
    assert knots((1, 8), 9) == (0, 1, 8, 9)


def test_a_convexified_buffer_gives_the_points_of_the_full_one(tmp_path):
    full = ArrowBuffer(full_buffer(tmp_path / "full"))
    shrunk = convexify(tmp_path / "full", tmp_path / "straight", (4, 6))
    stored = ArrowBuffer(tmp_path / "straight")
    assert (stored.kept, stored.epochs, stored.experts, stored.parameters) == ((0, 4, 6, 9), 9, (0, 2, 7), 21)
    wanted, found = Convexified(full, (4, 6)), Convexified(stored)
    for expert in (0, 2, 7):
        assert torch.equal(stored.norms(expert), full.norms(expert))
        for c in (0, 0.5, 1, 4, 4.75, 6, 7.5, 9):
            assert torch.equal(wanted.point(expert, c), found.point(expert, c))
    a, b = (straight.segment((0, 6), 3, generator(1), between=True) for straight in (wanted, found))
    assert (a.expert, a.epoch) == (b.expert, b.epoch)
    assert torch.equal(a.between, b.between)
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again.point(7, 7.25), found.point(7, 7.25))
    assert shrunk.experts == 3
    sizes = [sum(expert_path(tmp_path / f, e).stat().st_size for e in (0, 2, 7)) for f in ("full", "straight")]
    assert [shrunk.before, shrunk.after] == sizes


def test_the_waypoints_of_a_convexified_buffer_hold(tmp_path):
    full_buffer(tmp_path / "full")
    convexify(tmp_path / "full", tmp_path / "straight", (4, 6))
    stored = ArrowBuffer(tmp_path / "straight")
    assert Convexified(stored).waypoints == Convexified(stored, (4, 6)).waypoints == (4, 6)
    with pytest.raises(ValueError, match="convexified buffer") as caught:
        Convexified(stored, (4,))
    assert "(4,)" in str(caught.value)
    assert "(4, 6)" in str(caught.value)
    with pytest.raises(ValueError, match="--method mct, or a full buffer"):
        stored.segment((0, 2), 1, generator(0))
    with pytest.raises(ValueError, match="epoch 5 is not one of 0, 4, 6, 9"):
        stored.snapshot(0, 5)


def test_what_a_convexified_buffer_keeps(tmp_path):
    full = ArrowBuffer(full_buffer(tmp_path / "full"))
    convexify(tmp_path / "full", tmp_path / "straight", (4, 6))
    stored = ArrowBuffer(tmp_path / "straight")
    for epoch in (0, 4, 6, 9):
        assert torch.equal(stored.snapshot(2, epoch), full.snapshot(2, epoch))
        assert torch.equal(stored.running_stats(2, epoch), full.running_stats(2, epoch))
    assert torch.equal(stored.accuracy, full.accuracy[:, [0, 4, 6, 9]])
    table = stored._table(2).columns
    norms = full.norms(2).numpy()
    assert table["epoch"].tolist() == [0, 4, 6, 9]
    assert table["step_norm"][2].tolist() == (norms[5] + norms[6]).tolist()
    assert table["leg"].shape == (4, 4 * 3)  # the longest leg has four epochs
    assert table["leg"][2].tolist() == [*norms[5], *norms[6], 0, 0, 0, 0, 0, 0]
    found = describe(tmp_path / "straight")
    assert (found["kept"], found["epochs"], found["experts"]) == ([0, 4, 6, 9], 9, 3)
    assert found["accuracy"] == describe(tmp_path / "full")["accuracy"]
    assert found["recipe"] == {"lr": 0.01, "kept": [4, 6]}
    assert verify(tmp_path / "straight") == []
    kept = [tmp_path / name / "preprocessing.arrow" for name in ("straight", "full")]
    assert kept[0].read_bytes() == kept[1].read_bytes()


def test_one_line_an_expert(tmp_path):
    full_buffer(tmp_path / "full")
    convexify(tmp_path / "full", tmp_path / "straight")
    stored = ArrowBuffer(tmp_path / "straight")
    assert stored.kept == (0, 9)
    assert Convexified(stored).waypoints == ()
    assert describe(tmp_path / "straight")["recipe"]["kept"] == []


def test_convexify_goes_on_where_it_was_stopped(tmp_path):
    full_buffer(tmp_path / "full")
    folder = tmp_path / "straight"
    convexify(tmp_path / "full", folder, (4,))
    whole = contents(folder)
    untouched = expert_path(folder, 0).stat().st_mtime_ns
    expert_path(folder, 2).unlink()
    expert_path(folder, 7).write_bytes(whole["expert-00007.arrow"][:100])
    (folder / "preprocessing.arrow").unlink()
    manifest = json.loads(whole["manifest.json"])
    (folder / "manifest.json").write_bytes(dump_document({**manifest, "experts": []}))
    convexify(tmp_path / "full", folder, (4,))
    (folder / "expert-00007.arrow.bad").unlink()
    assert contents(folder) == whole
    assert expert_path(folder, 0).stat().st_mtime_ns == untouched


def test_convexify_refuses_what_it_must_not_do(tmp_path):
    full, folder = full_buffer(tmp_path / "full"), tmp_path / "straight"
    convexify(full, folder, (4,))
    before = contents(full), contents(folder)
    for (source, target, waypoints), words in (
        ((full, full, (4,)), "another folder"),
        ((full, tmp_path / "straight" / ".." / "full", (4,)), "another folder"),
        ((folder, tmp_path / "new", (4,)), "convexified already, it keeps epochs 0, 4, 9"),
        ((full, folder, (5,)), "recipe.kept is"),
        ((full, tmp_path / "new", (9,)), "rising order"),
        ((tmp_path / "none", tmp_path / "new", ()), "does not exist"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            convexify(source, target, waypoints)
        assert "\n" not in str(caught.value)
    assert (contents(full), contents(folder)) == before
    assert not (tmp_path / "new").exists()


def test_convexify_does_not_pass_on_damage(tmp_path):
    full = full_buffer(tmp_path / "full")
    data = bytearray(expert_path(full, 2).read_bytes())
    place = data.index(ArrowBuffer(full).snapshot(2, 3).numpy().tobytes())  # an epoch that is not kept
    data[place] ^= 1
    expert_path(full, 2).write_bytes(data)
    with pytest.raises(ValueError, match=r"expert-00002\.arrow is damaged: .*checksum"):
        convexify(full, tmp_path / "straight", (4,))
    assert not (tmp_path / "straight").exists()


@pytest.mark.parametrize("column", ["theta", "step_norm", "leg", "buffers"])
def test_verify_finds_damage_in_a_convexified_file(tmp_path, column):
    full_buffer(tmp_path / "full")
    folder = tmp_path / "straight"
    convexify(tmp_path / "full", folder, (4, 6))
    path = expert_path(folder, 2)
    data = bytearray(path.read_bytes())
    row = ArrowBuffer(folder)._table(2).columns[column][2]
    data[data.index(row.tobytes())] ^= 1
    path.write_bytes(data)
    assert [(problem.file, "checksum" in problem.what) for problem in verify(folder)] == [(path.name, True)]


def test_files_of_the_other_kind_are_refused(tmp_path):
    full, folder = full_buffer(tmp_path / "full"), tmp_path / "straight"
    convexify(full, folder, (4,))
    spec = ArrowBuffer(folder).spec
    part = ArrowBuffer(full).part(2, (0, 4, 9))
    for wrong, words in (
        (ArrowBuffer(full).part(2, (0, 5, 9)), "epochs are"),
        (dataclasses.replace(part, norms=None), "leg is None"),
        (dataclasses.replace(part, norms=part.norms + math.inf), "step_norm is not finite at epoch 4"),
    ):
        with pytest.raises(ValueError, match=words):
            write_expert(folder, spec, 2, wrong)
    with pytest.raises(ValueError, match="leg is"):
        write_expert(full, SPEC, 2, part)
    expert_path(folder, 2).write_bytes(expert_path(full, 2).read_bytes())
    assert complete_experts(folder, spec) == {0, 7}


def test_two_waypoints_of_fifty_epochs_take_a_twelfth(tmp_path):
    network = build("ConvNetW32", channels=3, size=32, classes=10)
    layout = layout_of(dict(network.named_parameters()))
    spec = dataclasses.replace(SPEC, layout=layout, buffer_layout=layout_of(running_statistics(network)))
    size = sum(slot.numel for slot in layout)
    assert size == 24714
    theta = torch.randn(51, size, generator=generator(0))
    create_buffer(tmp_path / "full", spec)
    write_expert(tmp_path / "full", spec, 0, ExpertTrajectory(theta, None, range(51), [0.5] * 51, [1.0] * 51))
    refresh_manifest(tmp_path / "full")
    _, kept, before, after = convexify(tmp_path / "full", tmp_path / "straight", (6, 25))
    assert kept == (0, 6, 25, 50)
    assert 51 * 4 * size < before
    assert 4 * 4 * size < after <= 0.1 * before
