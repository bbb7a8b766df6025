"""Half precision: against formats worked out in float64, and what is said of the error."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from buffer_specs import make_spec

from raydd.buffer.arrow_buffer import ArrowBuffer, complete_experts, create_buffer, refresh_manifest
from raydd.buffer.convexified import convexify
from raydd.buffer.describe import describe
from raydd.buffer.expert_file import ExpertTrajectory, expert_path, step_norms, write_expert
from raydd.buffer.precision import STORAGES, narrow_theta
from raydd.buffer.spec import BufferSpec
from raydd.buffer.verification import verify
from raydd.numerics.flat import layout_of
from raydd.numerics.rng import generator

HALVES = ("float16", "bfloat16")
BITS = {"float16": (11, -14), "bfloat16": (8, -126)}  # significant bits, exponent of the smallest normal number
SPEC = make_spec(layout_of({"w": torch.zeros(30, 5), "b": torch.zeros(4)}))


def rounded(values, storage):
    """To the nearest number of the format, ties to even, by its definition, in float64."""
    digits, lowest = BITS[storage]
    exponents = np.maximum(np.frexp(values)[1] - 1, lowest)
    unit = np.exp2(exponents - (digits - 1.0))
    return np.rint(values / unit) * unit  # exact: a multiplication by a power of two


def trajectory(spec=SPEC, snapshots=6, index=0):
    size = sum(slot.numel for slot in spec.layout)
    theta = torch.randn(snapshots, size, generator=generator(0, index)).cumsum(0) * 0.1
    theta[:, :3] = torch.tensor([0.0, 3e-9, -2e-5])  # nothing, lost by float16, and coarse in it
    return ExpertTrajectory(theta, None, range(snapshots), [0.1 * t for t in range(snapshots)], [1.0] * snapshots)


def make(folder, storage, experts=2):
    spec = dataclasses.replace(SPEC, storage=storage, recipe=SPEC.recipe | {"storage": storage})
    create_buffer(folder, spec)
    for index in range(experts):
        write_expert(folder, spec, index, trajectory(index=index))
    refresh_manifest(folder)
    return spec


@pytest.mark.parametrize("storage", HALVES)
def test_every_number_is_rounded_to_the_nearest_of_the_format(storage):
    draws = np.random.default_rng(0)
    values = (draws.standard_normal(200_000) * np.exp2(draws.integers(-30, 15, 200_000))).astype(np.float32)
    digits = BITS[storage][0]
    ties = np.float32(1) + np.arange(1, 65, 2, dtype=np.float32) * np.float32(2.0**-digits)
    values = np.concatenate([values, ties, -ties, np.float32([0, 6.1e-5, 5e-8, 2e-8])])
    stored, rounding = narrow_theta(values, storage, 0, 0)
    wide, exact = rounded(values.astype(np.float64), storage), values.astype(np.float64)
    assert stored.dtype == STORAGES[storage].dtype
    assert STORAGES[storage].widen(stored).dtype == torch.float32
    np.testing.assert_array_equal(STORAGES[storage].widen(stored).numpy().astype(np.float64), wide)
    lost = np.abs(wide - exact)
    number = (lost[exact != 0] / np.abs(exact[exact != 0])).max()
    np.testing.assert_allclose(rounding, [number, np.linalg.norm(lost) / np.linalg.norm(exact)], rtol=1e-12)
    normal = np.abs(exact) >= STORAGES[storage].smallest
    assert (lost[normal] / np.abs(exact[normal])).max() <= STORAGES[storage].bound
    assert (lost[normal] / np.abs(exact[normal])).max() > 0.99 * STORAGES[storage].bound / (1 + 2.0 ** -(digits - 1))


def test_float32_is_stored_as_it_is():
    values = torch.randn(50, generator=generator(1)).numpy()
    stored, rounding = narrow_theta(values, "float32", 0, 0)
    assert stored.tobytes() == values.tobytes()
    assert rounding.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("storage", HALVES)
def test_a_buffer_is_read_as_the_rounded_float32(tmp_path, storage):
    make(tmp_path, storage)
    buffer, size = ArrowBuffer(tmp_path), len(trajectory().theta[0])
    for index in range(2):
        written = trajectory(index=index)
        expected = rounded(written.theta.double().numpy(), storage)
        read = torch.stack([buffer.snapshot(index, epoch) for epoch in range(6)])
        assert read.dtype == torch.float32
        np.testing.assert_array_equal(read.double().numpy(), expected)
        norms = step_norms(written.theta.numpy(), SPEC.layout)  # of the training, not of the rounded numbers
        assert buffer.norms(index).numpy().tobytes() == norms.tobytes()
    segment = buffer.segment((1, 1), 3, generator(0), between=True)
    assert {x.dtype for x in (segment.start, segment.target, segment.between)} == {torch.float32}
    assert segment.between.shape == (2, size)
    assert verify(tmp_path) == []
    with pa.OSFile(str(expert_path(tmp_path, 1))) as file:
        kind = pa.ipc.open_file(file).schema.field("theta").type
    assert str(kind) == f"fixed_size_list<item: {'halffloat' if storage == 'float16' else 'uint16'}>[{size}]"


@pytest.mark.parametrize("storage", HALVES)
def test_the_error_is_said_for_each_expert_and_the_buffer(tmp_path, storage):
    make(tmp_path, storage)
    worst = []
    for index in range(2):
        exact = trajectory(index=index).theta.double().numpy()
        lost = np.abs(rounded(exact, storage) - exact)
        number = np.divide(lost, np.abs(exact), out=np.zeros_like(lost), where=exact != 0).max()
        worst.append((number, (np.linalg.norm(lost, axis=1) / np.linalg.norm(exact, axis=1)).max()))
    entries = json.loads((tmp_path / "manifest.json").read_text())["experts"]
    for entry, (number, snapshot) in zip(entries, worst, strict=True):
        assert entry["rounding"] == pytest.approx({"number": number, "snapshot": snapshot}, rel=1e-12)
    found = json.loads(json.dumps(describe(tmp_path), allow_nan=False))
    assert found["storage"] == storage
    assert found["rounding"] == pytest.approx(dict(zip(("number", "snapshot"), np.max(worst, 0), strict=True)))
    assert found["rounding"]["snapshot"] < STORAGES[storage].bound
    assert (found["rounding"]["number"] == 1) == (storage == "float16")  # 3e-9 became zero


def test_float32_buffers_say_nothing_of_storage(tmp_path):
    """Nor did those of before there was a choice: either opens as the other."""
    spec = make(tmp_path, "float32")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert "storage" not in manifest["spec"]
    assert "rounding" not in manifest["experts"][0]
    assert b"rounding" not in expert_path(tmp_path, 0).read_bytes()
    assert BufferSpec.from_json(manifest["spec"]) == spec
    assert (describe(tmp_path)["storage"], describe(tmp_path)["rounding"]) == ("float32", None)
    with pytest.raises(ValueError, match="storage is None instead of 'float16'"):
        create_buffer(tmp_path, dataclasses.replace(spec, storage="float16"))


def test_a_manifest_of_an_unknown_format_is_refused(tmp_path):
    make(tmp_path, "float16")
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"storage": "float16"', '"storage": "float8"'))
    with pytest.raises(ValueError, match="is corrupted"):
        ArrowBuffer(tmp_path)


@pytest.mark.parametrize(
    ("storage", "value", "remedy"), [("float16", 65520.0, "bfloat16"), ("bfloat16", 3.4e38, "float32")]
)
def test_what_is_too_large_for_the_format_is_refused(tmp_path, storage, value, remedy):
    spec = dataclasses.replace(SPEC, storage=storage)
    create_buffer(tmp_path, spec)
    large = trajectory()
    large.theta[4, 7] = -value
    with pytest.raises(ValueError, match=rf"^expert 12 reaches [\d.e+]+ at epoch 4, and {storage} ends at") as caught:
        write_expert(tmp_path, spec, 12, large)
    assert f"experts.storage={remedy}" in str(caught.value)
    assert "\n" not in str(caught.value)
    large.theta[4, 7] = 65519.99 if storage == "float16" else 3.3895e38
    write_expert(tmp_path, spec, 12, large)
    assert complete_experts(tmp_path, spec) == {12}


@pytest.mark.parametrize("storage", HALVES)
def test_a_diverged_expert_is_told_from_a_large_one(tmp_path, storage):
    spec = dataclasses.replace(SPEC, storage=storage)
    broken = trajectory()
    broken.theta[3, 1] = float("inf")
    with pytest.raises(ValueError, match="expert 0 diverged: theta is not finite at epoch 3"):
        write_expert(tmp_path, spec, 0, broken)
    with pytest.raises(ValueError, match="does not fit"):
        write_expert(tmp_path, spec, 0, dataclasses.replace(broken, theta=broken.theta.double()))


@pytest.mark.parametrize("storage", HALVES)
def test_convexifying_keeps_the_format_the_numbers_and_what_is_said_of_them(tmp_path, storage):
    make(tmp_path / "full", storage)
    convexify(tmp_path / "full", tmp_path / "straight", (2,))
    full, straight = ArrowBuffer(tmp_path / "full"), ArrowBuffer(tmp_path / "straight")
    assert (straight.spec.storage, straight.kept) == (storage, (0, 2, 5))
    assert all(torch.equal(straight.snapshot(1, epoch), full.snapshot(1, epoch)) for epoch in (0, 2, 5))
    assert torch.equal(straight.norms(1), full.norms(1))
    assert verify(tmp_path / "straight") == []
    assert 0 < straight.rounding["snapshot"] <= full.rounding["snapshot"]
