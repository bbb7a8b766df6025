import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

from raydd.numerics.augment import AUGMENTS, OPERATIONS, DrawnView, augment, identity
from raydd.numerics.rng import generator

B, C, H, W = 6, 2, 9, 12  # odd and even sides: cutouts of 5 and 6, crops by up to 1 and 2
CASES = [("dsa", word) for word in OPERATIONS] + [("dsa_idc", None)]


def images(*shape, dtype=torch.float64):
    return torch.randn(shape or (B, C, H, W), generator=generator(0, "images"), dtype=dtype)


def integer(u, low, high):
    """An integer in low..high (both included) for a uniform number in [0, 1)."""
    return low + math.floor(float(u) * (high - low + 1))


def naive_color(x, u):
    out = x.clone()
    for b in range(len(x)):
        bright, saturate, contrast = (float(value) for value in u[b])
        image = x[b] + (bright - 0.5) * 1.0
        for i in range(H):
            for j in range(W):
                grey = float(image[:, i, j].sum()) / C
                image[:, i, j] = (image[:, i, j] - grey) * (saturate * 2.0) + grey
        mean = float(image.sum()) / (C * H * W)
        out[b] = (image - mean) * (contrast + 0.5) + mean
    return out


def naive_crop(x, u):
    out = torch.zeros_like(x)
    for b in range(len(x)):
        down, right = (integer(u[b, 0], -1, 1), integer(u[b, 1], -2, 2))
        for i in range(H):
            for j in range(W):
                if 0 <= i + down < H and 0 <= j + right < W:
                    out[b, :, i, j] = x[b, :, i + down, j + right]
    return out


def naive_cutout(x, u):
    out = x.clone()
    for b in range(len(x)):
        row, column = integer(u[b, 0], 0, H - 1), integer(u[b, 1], 0, W)  # odd: side places; even: side + 1
        for i in range(5):
            for j in range(6):
                r, c = row + i - 5 // 2, column + j - 6 // 2
                out[b, :, min(max(r, 0), H - 1), min(max(c, 0), W - 1)] = 0
    return out


def naive_flip(x, u):
    return torch.stack([image.flip(-1) if u[b, 0] < 0.5 else image for b, image in enumerate(x)])


def naive_bilinear(x, matrices):
    out = torch.zeros_like(x)
    for b, ((xx, xy), (yx, yy)) in enumerate(matrices):
        for i in range(H):
            for j in range(W):
                right, down = (2 * j + 1) / W - 1, (2 * i + 1) / H - 1
                column = ((xx * right + xy * down + 1) * W - 1) / 2
                row = ((yx * right + yy * down + 1) * H - 1) / 2
                for r in (math.floor(row), math.floor(row) + 1):
                    for c in (math.floor(column), math.floor(column) + 1):
                        if 0 <= r < H and 0 <= c < W:
                            out[b, :, i, j] += (1 - abs(row - r)) * (1 - abs(column - c)) * x[b, :, r, c]
    return out


def naive_scale(x, u):
    low, high = 1 / 1.2, 1.2
    return naive_bilinear(x, [((low + float(a) * (high - low), 0), (0, low + float(b) * (high - low))) for a, b in u])


def naive_rotate(x, u):
    angles = [math.radians((float(a) - 0.5) * 30) for (a,) in u]
    return naive_bilinear(x, [((math.cos(a), -math.sin(a)), (math.sin(a), math.cos(a))) for a in angles])


NAIVE = {
    "color": (naive_color, 1e-12),
    "crop": (naive_crop, 0),
    "cutout": (naive_cutout, 0),
    "flip": (naive_flip, 0),
    "scale": (naive_scale, 1e-12),
    "rotate": (naive_rotate, 1e-12),
}


def uniforms(word, rows, seed=0):
    return torch.rand(rows, OPERATIONS[word].uniforms, generator=generator(seed, word))


@pytest.mark.rows("word", OPERATIONS)
def test_operation_equals_naive_loops(word):
    naive, tolerance = NAIVE[word]
    x = images()
    for seed in range(4):
        u = uniforms(word, B, seed)
        torch.testing.assert_close(OPERATIONS[word].apply(x, u), naive(x, u), rtol=0, atol=tolerance)


@pytest.mark.rows("word", OPERATIONS)
def test_one_row_of_draws_serves_every_sample(word):
    x, u = images(), uniforms(word, 1)
    torch.testing.assert_close(
        OPERATIONS[word].apply(x, u), OPERATIONS[word].apply(x, u.expand(B, -1)), rtol=0, atol=1e-14
    )


@pytest.mark.rows("word", ["crop", "cutout"])
def test_integers_stay_in_range_at_the_largest_uniform(word):
    x = images()
    u = torch.full((B, 2), 1 - 2**-24)
    naive, _ = NAIVE[word]
    assert torch.equal(OPERATIONS[word].apply(x, u), naive(x, u))


def test_crop_shifts_are_uniform_over_81_places():
    x = torch.zeros(8100, 1, 32, 32)
    x[:, :, 16, 16] = 1
    out = OPERATIONS["crop"].apply(x, uniforms("crop", 8100))
    places = Counter(map(tuple, (out[:, 0].nonzero()[:, 1:] - 16).tolist()))
    assert set(places) == {(i, j) for i in range(-4, 5) for j in range(-4, 5)}
    assert all(50 < count < 150 for count in places.values())


def test_flip_mirrors_half_of_the_samples():
    x = torch.tensor([0.0, 1.0]).expand(4000, 1, 1, 2)
    flipped = OPERATIONS["flip"].apply(x, uniforms("flip", 4000))[:, 0, 0, 0]
    assert 0.46 < float(flipped.mean()) < 0.54


@pytest.mark.rows(("name", "strategy"), CASES)
@pytest.mark.rows("siamese", [False, True])
def test_views_are_twice_differentiable(name, strategy, siamese):
    x = images(2, 2, 4, 5).requires_grad_()
    view = augment(name, siamese=siamese, strategy=strategy).draw(x.shape, generator(1))
    cubed = lambda x: view(x).pow(3)  # noqa: E731
    assert torch.autograd.gradcheck(cubed, x)
    assert torch.autograd.gradgradcheck(cubed, x)


@pytest.mark.rows(("name", "strategy"), CASES)
def test_gradient_of_a_gradient_reaches_the_images(name, strategy):
    x = images(2, 2, 4, 5).requires_grad_()
    theta = torch.randn(40, generator=generator(2), dtype=torch.float64).requires_grad_()
    v = torch.randn(40, generator=generator(3), dtype=torch.float64)
    view = augment(name, strategy=strategy).draw(x.shape, generator(1))

    def directional(x):
        loss = (view(x).flatten(1) @ theta).tanh().pow(2).sum()
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        return gradient @ v

    assert torch.autograd.gradcheck(directional, x)


@pytest.mark.rows("name", AUGMENTS)
@pytest.mark.rows("siamese", [False, True])
def test_views_replay_and_seeds_repeat(name, siamese):
    x = images(dtype=torch.float32)
    for seed in range(12):
        view = augment(name, siamese=siamese).draw(x.shape, generator(seed))
        again = augment(name, siamese=siamese).draw(x.shape, generator(seed))
        assert torch.equal(view(x), view(x))
        assert torch.equal(view(x), again(x))
        assert view(x).dtype == x.dtype
        assert view(x).is_contiguous()
        torch.testing.assert_close(view(x.double()), view(x).double(), rtol=0, atol=1e-5)


@pytest.mark.rows("name", ["dsa", "dsa_idc"])
def test_other_seeds_give_other_views(name):
    x = images()
    results = [augment(name, strategy="color").draw(x.shape, generator(seed))(x) for seed in range(4)]
    assert not any(torch.equal(a, b) for a, b in pairwise(results))


@pytest.mark.rows("name", AUGMENTS)
def test_global_generator_is_neither_read_nor_moved(name):
    x, results = images(), []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            before = torch.random.get_rng_state()
            results.append([augment(name).draw(x.shape, generator(0, i))(x) for i in range(12)])
            assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.rows(("name", "strategy"), CASES)
def test_siamese_views_are_one_for_all_samples_and_batches(name, strategy):
    one = images(1, C, H, W)
    for seed in range(6):
        view = augment(name, siamese=True, strategy=strategy).draw((3, C, H, W), generator(seed))
        small, large = view(one.expand(2, -1, -1, -1)), view(one.expand(7, -1, -1, -1))
        assert all(torch.equal(image, small[0]) for image in (*small, *large))


@pytest.mark.rows(("name", "strategy"), CASES)
def test_views_drawn_a_sample_differ_between_samples_and_fit_one_size(name, strategy):
    view = augment(name, strategy=strategy).draw((40, C, H, W), generator(0))
    out = view(images(1, C, H, W).expand(40, -1, -1, -1))
    assert any(not torch.equal(image, out[0]) for image in out)
    for wrong in (1, 39, 41):
        with pytest.raises(ValueError, match=f"of 40 images was applied to {wrong}"):
            view(images(wrong, C, H, W))


def drawn(view):
    assert isinstance(view, DrawnView)
    return tuple(name for name, _ in view.steps)


@pytest.mark.rows("flip", [True, False])
def test_dsa_draws_each_operation_equally_often(flip):
    rng, source = generator(0), augment("dsa", flip=flip)
    counts = Counter(drawn(source.draw((1, C, H, W), rng)) for _ in range(6000))
    words = [word for word in OPERATIONS if flip or word != "flip"]
    assert set(counts) == {(word,) for word in words}
    assert all(abs(count / 6000 - 1 / len(words)) < 0.02 for count in counts.values())


@pytest.mark.rows("flip", [True, False])
def test_dsa_idc_draws_one_of_three_between_the_constant_operations(flip):
    rng, source = generator(0), augment("dsa_idc", flip=flip)
    counts = Counter(drawn(source.draw((1, C, H, W), rng)) for _ in range(3000))
    first = ("flip", "color") if flip else ("color",)
    assert set(counts) == {(*first, middle, "cutout") for middle in ("crop", "scale", "rotate")}
    assert all(abs(count / 3000 - 1 / 3) < 0.04 for count in counts.values())


def test_dsa_idc_applies_what_the_strategy_lists_in_order():
    x = images()
    view = augment("dsa_idc", strategy="cutout_crop_color").draw(x.shape, generator(0))
    assert drawn(view) == ("color", "crop", "cutout")
    (_, a), (_, b), (_, c) = view.steps
    expected = naive_cutout(naive_crop(naive_color(x, a), b), c)
    torch.testing.assert_close(view(x), expected, rtol=0, atol=1e-12)


def test_nothing_to_draw_is_the_identity():
    rng = generator(0)
    before = rng.get_state()
    assert augment("none").draw((2, 3, 8, 8), rng) is identity
    assert augment("dsa", flip=False, strategy="flip").draw((2, 3, 8, 8), rng) is identity
    assert augment("dsa_idc", flip=False, strategy="flip").draw((2, 3, 8, 8), rng) is identity
    assert torch.equal(rng.get_state(), before)


def test_unknown_names_and_words_are_refused():
    with pytest.raises(ValueError, match=r"^unknown augmentation 'dsaa'; use none, dsa, dsa_idc$"):
        augment("dsaa")
    known = "color, crop, cutout, flip, scale, rotate"
    with pytest.raises(ValueError, match=f"^unknown operation 'blur' in strategy 'color_blur'; use {known}$"):
        augment("dsa", strategy="color_blur")


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "strategy"), CASES)
@pytest.mark.parametrize("siamese", [False, True])
def test_views_are_the_same_on_a_gpu(name, strategy, siamese):
    x = images()
    view = augment(name, siamese=siamese, strategy=strategy).draw(x.shape, generator(0))
    out = view(x.cuda())
    assert out.is_cuda
    torch.testing.assert_close(out.cpu(), view(x), rtol=0, atol=1e-12)
