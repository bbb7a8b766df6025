import json
from pathlib import Path

import pytest
import torch

from raydd.data.datasets import Dataset, load_dataset
from raydd.data.preprocessing import KINDS, Transform, fit_transform
from raydd.numerics.whitening import fit_zca

ALL = sorted(KINDS)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset("digits", cache=tmp_path_factory.mktemp("cache"))


def batch(dataset: Dataset) -> torch.Tensor:
    return dataset.train.take(torch.tensor([0, 5, 17]))


def test_normalise_is_its_formula(digits: Dataset) -> None:
    x = batch(digits)
    transform = fit_transform("normalise", digits).to(dtype=torch.float64)
    expected = torch.empty(x.shape, dtype=torch.float64)
    for i in range(len(x)):
        for c in range(digits.channels):
            expected[i, c] = (x[i, c].double() / 255 - digits.mean[c]) / digits.std[c]
    torch.testing.assert_close(transform(x), expected, rtol=0, atol=1e-14)


def test_zca_is_fitted_on_the_whole_train_split_and_on_nothing_else(digits: Dataset) -> None:
    train = digits.train.take(torch.arange(len(digits.train))).float() / 255
    x = batch(digits)
    assert torch.equal(fit_transform("zca", digits)(x), fit_zca(train, 0.1).apply(x.float() / 255))


def test_raw01_divides(digits: Dataset) -> None:
    assert torch.equal(fit_transform("raw01", digits)(batch(digits)), batch(digits).float() / 255)


@pytest.mark.parametrize("kind", ALL)
def test_bytes_and_fractions_agree_and_invert(kind: str, digits: Dataset) -> None:
    transform = fit_transform(kind, digits)
    x = batch(digits)
    unit = x.float() / 255
    out = transform(x)
    assert out.dtype == torch.float32
    assert out.shape == x.shape
    assert torch.equal(out, transform(unit))
    torch.testing.assert_close(transform.inverse(out), unit, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_inverse_does_not_clamp(kind: str, digits: Dataset) -> None:
    transform = fit_transform(kind, digits)
    x = torch.full((1, 1, 8, 8), 1.5)
    torch.testing.assert_close(transform.inverse(transform(x)), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_float64_by_input_or_by_request(kind: str, digits: Dataset) -> None:
    transform = fit_transform(kind, digits)
    x = batch(digits)
    wide = transform.to(dtype=torch.float64)
    assert wide(x).dtype == wide(x.float() / 255).dtype == wide.inverse(x.float()).dtype == torch.float64
    assert transform(x.double() / 255).dtype == torch.float64
    assert wide.hash == transform.hash
    torch.testing.assert_close(wide(x).float(), transform(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_gradients_reach_the_images(kind: str, digits: Dataset) -> None:
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(fit_transform(kind, digits)(x).square().sum(), x)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", ALL)
def test_saved_and_restored_exactly(kind: str, digits: Dataset, tmp_path: Path) -> None:
    transform = fit_transform(kind, digits)
    torch.save(transform.arrays(), tmp_path / "arrays.pt")
    metadata = json.loads(json.dumps(transform.metadata()))
    again = Transform.restore(metadata, torch.load(tmp_path / "arrays.pt", weights_only=True))
    assert again.hash == transform.hash
    assert torch.equal(again(batch(digits)), transform(batch(digits)))
    assert again.arrays().keys() == transform.arrays().keys()
    for name, array in again.arrays().items():
        assert array.dtype == transform.arrays()[name].dtype
        assert torch.equal(array, transform.arrays()[name])


def test_hash_tells_kinds_and_arrays_apart(digits: Dataset) -> None:
    hashes = {fit_transform(kind, digits).hash for kind in ALL}
    assert len(hashes) == len(ALL)
    assert all(len(value) == 16 for value in hashes)
    arrays = fit_transform("normalise", digits).arrays()
    changed = {**arrays, "mean": arrays["mean"] + 1e-12}
    assert Transform("normalise", changed).hash != Transform("normalise", arrays).hash
    assert Transform("normalise", arrays).hash == fit_transform("normalise", digits).hash


def test_wrong_metadata_is_refused_with_both_hashes(digits: Dataset) -> None:
    transform = fit_transform("normalise", digits)
    arrays = transform.arrays()
    arrays["std"] = arrays["std"] * 2
    with pytest.raises(ValueError, match=f"not '{transform.hash}'") as caught:
        Transform.restore(transform.metadata(), arrays)
    assert Transform("normalise", arrays).hash in str(caught.value)
    with pytest.raises(ValueError, match="lacks its array 'std'"):
        Transform.restore(transform.metadata(), {"mean": arrays["mean"]})
    with pytest.raises(ValueError, match="unknown preprocessing 'sepia'"):
        Transform.restore({"kind": "sepia", "hash": "0"}, arrays)


def test_unknown_kind_names_the_kinds(digits: Dataset) -> None:
    with pytest.raises(ValueError, match="unknown preprocessing 'pca': use one of normalise, zca, raw01"):
        fit_transform("pca", digits)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ALL)
def test_gpu_equals_cpu(kind: str, digits: Dataset) -> None:
    transform = fit_transform(kind, digits)
    x = batch(digits)
    there = transform.to("cuda")
    assert there(x.cuda()).is_cuda
    assert there.hash == transform.hash
    torch.testing.assert_close(there(x.cuda()).cpu(), transform(x), rtol=0, atol=1e-4)
