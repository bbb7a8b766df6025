"""Styles: the hallucinator against its equation in plain loops, its gradients, its start."""

import math
from itertools import product

import pytest
import torch

from raydd.numerics.formation import Formation, decode
from raydd.numerics.rng import generator
from raydd.numerics.styles import check_styles, hallucinate, start_styles, style_size

SHAPE = (2, 5, 4)


def drawn(count=3, bases=2):
    rng = generator(0, "styles")
    styles = torch.randn(count, style_size(SHAPE), generator=rng, dtype=torch.float64)
    return torch.randn(bases, *SHAPE, generator=rng, dtype=torch.float64), styles


def by_loops(image, style):
    """One base in one style, number by number: the layout and the equation are written out once more."""
    channels, height, width = image.shape
    numbers = iter(style.tolist())

    def take(*sizes):
        return {at: next(numbers) for at in product(*map(range, sizes))}

    features = (channels, height - 2, width - 2)
    encoder, encoder_bias = take(channels, channels, 3, 3), take(channels)
    scale, shift = take(*features), take(*features)
    decoder, decoder_bias = take(channels, channels, 3, 3), take(channels)
    assert next(numbers, None) is None
    seen = {(c, y, x): decoder_bias[c,] for c, y, x in product(*map(range, image.shape))}
    for f, y, x in product(*map(range, features)):
        total = encoder_bias[f,]
        for c, dy, dx in product(range(channels), range(3), range(3)):
            total += encoder[f, c, dy, dx] * float(image[c, y + dy, x + dx])
        feature = scale[f, y, x] * total + shift[f, y, x]
        for c, dy, dx in product(range(channels), range(3), range(3)):
            seen[c, y + dy, x + dx] += decoder[f, c, dy, dx] * feature
    return torch.tensor([seen[at] for at in product(*map(range, image.shape))], dtype=torch.float64).view(image.shape)


def test_every_base_is_seen_in_every_style_as_the_equation_says():
    images, styles = drawn()
    shown, rows = hallucinate(images, styles)
    expected = torch.stack([by_loops(image, style) for image in images for style in styles])
    torch.testing.assert_close(shown, expected, rtol=1e-12, atol=1e-12)
    assert rows.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_formation_with_styles_decodes_by_them():
    images, styles = drawn()
    for given, wanted in zip(decode(images, Formation(styles=3), styles), hallucinate(images, styles), strict=True):
        assert torch.equal(given, wanted)
    assert not Formation(styles=3).plain


def test_gradients_are_exact_to_images_and_styles():
    images, styles = (tensor.requires_grad_() for tensor in drawn(2, 1))
    assert torch.autograd.gradcheck(lambda *given: hallucinate(*given)[0], (images, styles))


def test_the_size_is_that_of_the_published_layers():
    """Two convolutions of 3 x 3 with biases, and a scale and a shift of 30 x 30 features, of 3 channels each."""
    assert style_size((3, 32, 32)) == 2 * (3 * 3 * 9 + 3) + 2 * 3 * 30 * 30
    assert style_size((1, 3, 3)) == 2 * 10 + 2


def test_styles_start_as_convolutions_of_pytorch_do():
    styles = start_styles(400, (3, 6, 6), generator(0))
    weights, bias, scale, shift, back, back_bias = styles.split([81, 3, 48, 48, 81, 3], dim=1)
    assert bool((scale == 1).all() and (shift == 0).all())
    bound = 1 / math.sqrt(27)
    for drawn_values in (weights, bias, back, back_bias):
        assert float(drawn_values.abs().max()) <= bound
        assert float(drawn_values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert float(drawn_values.mean()) == pytest.approx(0, abs=0.02)
    assert torch.equal(styles, start_styles(400, (3, 6, 6), generator(0)))
    assert not torch.equal(styles[0], styles[1])


@pytest.mark.parametrize(
    ("styles", "count", "words"),
    [
        (None, 2, "styles are missing; 2 of images"),
        (torch.zeros(2, 7), 2, r"shape \(2, 7\)"),
        (torch.zeros(3, style_size(SHAPE)), 2, r"floats of shape \(2, "),
        (torch.zeros(2, style_size(SHAPE), dtype=torch.int64), 2, "int64"),
        (torch.zeros(0, style_size(SHAPE)), 0, r"shape \(0, "),
    ],
)
def test_other_tensors_are_refused(styles, count, words):
    with pytest.raises(ValueError, match=words):
        check_styles(styles, count, SHAPE)


def test_images_smaller_than_a_convolution_are_refused():
    with pytest.raises(ValueError, match="styles need images of 3 x 3 pixels or more, not 2 x 8"):
        style_size((1, 2, 8))
    assert check_styles(None, 0, (1, 2, 2)) is None
