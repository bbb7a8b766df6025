import math

import pytest
import torch
from torch.nn import functional as F

from raydd.numerics.formation import DECODE, PLAIN, Formation, borders, decode, encode
from raydd.numerics.rng import generator

EVERY = list(DECODE)


def images(count, height=8, width=8, channels=2, dtype=torch.float64):
    return torch.rand(count, channels, height, width, generator=generator(0, "images"), dtype=dtype)


def edges(side, factor):
    return [math.floor(k * side / factor) for k in range(factor + 1)]


def enlarged(tile, height, width):
    """Bilinear interpolation between pixel centres, a new pixel at a time; none is looked for beyond the outer ones."""
    out = torch.zeros(tile.shape[0], height, width, dtype=tile.dtype)
    for i in range(height):
        for j in range(width):
            y = max((i + 0.5) * tile.shape[1] / height - 0.5, 0.0)
            x = max((j + 0.5) * tile.shape[2] / width - 0.5, 0.0)
            y0, x0 = math.floor(y), math.floor(x)
            y1, x1 = min(y0 + 1, tile.shape[1] - 1), min(x0 + 1, tile.shape[2] - 1)
            upper = tile[:, y0, x0] * (1 - (x - x0)) + tile[:, y0, x1] * (x - x0)
            lower = tile[:, y1, x0] * (1 - (x - x0)) + tile[:, y1, x1] * (x - x0)
            out[:, i, j] = upper * (1 - (y - y0)) + lower * (y - y0)
    return out


def weights(before, after):
    """The triangle filter, as wide as the reduction, around every new pixel's centre: (after, before)."""
    scale = before / after
    table = torch.zeros(after, before, dtype=torch.float64)
    for i in range(after):
        for k in range(before):
            table[i, k] = max(0.0, 1 - abs(k + 0.5 - (i + 0.5) * scale) / scale)
        table[i] /= table[i].sum()
    return table


def naive_uniform(x, factor):
    height, width = x.shape[2:]
    rows, columns, found, origins = edges(height, factor), edges(width, factor), [], []
    for n in range(len(x)):
        for i in range(factor):
            for j in range(factor):
                tile = x[n, :, rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
                found.append(enlarged(tile, height, width))
                origins.append(n)
    return torch.stack(found), origins


def shares(count, factor, bound):
    """How many images a bounded decoding takes apart at each factor, the finest first: the most that leave room."""
    found, decoded, left = [], 0, count
    for f in range(factor, 1, -1):
        free = bound - decoded - left
        found.append(max(n for n in range(left + 1) if n * f**2 <= free))
        decoded, left = decoded + found[-1] * f**2, left - found[-1]
    return [*found, left]


def naive(x, formation):
    factor, whole = formation.factor, list(range(len(x)))
    if formation.decode == "uniform":
        scales = [(factor, whole)]
    elif formation.decode == "multi":
        scales = [(f, whole) for f in range(1, factor + 1)]
    else:
        counts, queue = shares(len(x), factor, formation.bound), list(whole)
        scales = [(factor - k, [queue.pop(0) for _ in range(count)]) for k, count in enumerate(counts)]
    found, origins = [], []
    for f, members in scales:
        for n in members:
            found.append(naive_uniform(x[n : n + 1], f)[0])
            origins += [n] * f**2
    return torch.cat(found), origins


@pytest.mark.rows(("height", "width"), [(8, 8), (7, 9)])
@pytest.mark.rows("factor", [1, 2, 3])
@pytest.mark.rows("kind", EVERY)
def test_decodings_and_their_gradients_are_those_of_a_loop(kind, factor, height, width):
    formation = Formation(factor, kind, 1000)
    x, again = (images(2, height, width).requires_grad_() for _ in range(2))
    found, rows = decode(x, formation)
    expected, origins = naive(again, formation)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (rows.tolist(), rows.dtype) == (origins, torch.int64)
    probe = torch.randn(found.shape, generator=generator(0, "probe"), dtype=torch.float64)
    (slope,) = torch.autograd.grad((found * probe).sum() + found.square().sum(), x)
    (wanted,) = torch.autograd.grad((expected * probe).sum() + expected.square().sum(), again)
    torch.testing.assert_close(slope, wanted, rtol=0, atol=1e-11)


@pytest.mark.rows(("side", "factor"), [(8, 2), (8, 3), (7, 2), (6, 6)])
def test_a_mosaic_is_its_images_under_the_triangle_filter(side, factor):
    x = images(2 * factor**2, side, side)
    found, cuts = encode(x, factor), edges(side, factor)
    expected = torch.zeros(2, 2, side, side, dtype=torch.float64)
    for n in range(2):
        for k in range(factor**2):
            i, j = divmod(k, factor)
            rows = weights(side, cuts[i + 1] - cuts[i])
            columns = weights(side, cuts[j + 1] - cuts[j])
            tile = torch.einsum("ah,chw,bw->cab", rows, x[n * factor**2 + k], columns)
            expected[n, :, cuts[i] : cuts[i + 1], cuts[j] : cuts[j + 1]] = tile
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_values_computed_by_hand():
    x = torch.tensor([[0.0, 4.0], [8.0, 12.0]], dtype=torch.float64).view(1, 1, 2, 2)
    found, rows = decode(x, Formation(2))
    assert found.shape == (4, 1, 2, 2)
    assert [tile.unique().tolist() for tile in found] == [[0.0], [4.0], [8.0], [12.0]]
    assert rows.tolist() == [0, 0, 0, 0]
    wide = torch.tensor([0.0, 4.0, 1.0, 1.0], dtype=torch.float64).expand(1, 1, 4, 4)
    assert decode(wide, Formation(2))[0][0, 0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]  # centres at 1/4 and 3/4
    mosaic = encode(torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2), 2)
    assert mosaic.tolist() == [[[[0.0, 1.0], [2.0, 3.0]]]]


@pytest.mark.rows(
    ("side", "factor", "expected"),
    [(8, 3, [2, 3, 3]), (128, 3, [42, 43, 43]), (32, 2, [16, 16]), (5, 5, [1] * 5), (7, 1, [7])],
)
def test_tiles_cover_a_side_and_differ_by_a_pixel_at_most(side, factor, expected):
    tiles = borders(side, factor)
    assert [last - first for first, last in tiles] == expected
    assert [first for first, _ in tiles] == [0] + [last for _, last in tiles[:-1]]
    assert tiles[-1][1] == side


@pytest.mark.rows("side", [8, 9])
@pytest.mark.rows("factor", [1, 2, 3])
@pytest.mark.rows("dtype", [torch.float32, torch.float64])
def test_images_of_one_colour_come_back_from_a_mosaic(side, factor, dtype):
    colours = torch.rand(2 * factor**2, 3, 1, 1, generator=generator(1), dtype=dtype).expand(-1, 3, side, side)
    found, rows = decode(encode(colours, factor), Formation(factor))
    torch.testing.assert_close(found, colours, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0)
    assert found.dtype == dtype
    assert rows.tolist() == [n for n in range(2) for _ in range(factor**2)]


def test_a_mosaic_comes_back_from_its_smooth_tiles():
    slope = torch.linspace(0, 1, 32, dtype=torch.float64)
    smooth = torch.stack([slope.expand(32, 32), slope[:, None].expand(32, 32), 1 - slope.expand(32, 32)])
    mosaic = encode(smooth[[0, 1, 2, 0, 2, 2, 1, 0]][:, None], 2)
    again = encode(decode(mosaic, Formation(2))[0], 2)
    assert float((again - mosaic).abs().max()) < 0.03  # the outer pixels of a slope are flattened
    inner = (again - mosaic).abs()[:, :, 2:14, 2:14]
    assert float(inner.max()) < 1e-12


def test_a_tile_sees_nothing_of_its_neighbours():
    x = images(1)
    found, other = decode(x, Formation(2))[0], x.clone()
    other[:, :, :, 4:] = 0
    changed = decode(other, Formation(2))[0]
    assert torch.equal(changed[[0, 2]], found[[0, 2]])
    assert not torch.equal(changed[1], found[1])


@pytest.mark.rows("kind", EVERY)
def test_factor_one_gives_the_images_themselves(kind):
    x = images(3)
    assert encode(x, 1) is x
    found, rows = decode(x, Formation(1, kind, 1))
    assert found is x
    assert rows.tolist() == [0, 1, 2]
    assert PLAIN.plain
    assert not Formation(2).plain


@pytest.mark.rows(
    ("count", "factor", "bound", "factors"),
    [
        (3, 2, 11, [2, 2, 1]),  # 8 places beside the three images': two in parts, 9 decoded
        (3, 2, 15, [2, 2, 2]),
        (3, 2, 14, [2, 2, 1]),
        (3, 2, 6, [1, 1, 1]),
        (3, 2, 3, [1, 1, 1]),
        (4, 3, 20, [3, 2, 2, 1]),  # 16 places: nine parts take 8, the image's own being one, and 8 are left
        (4, 3, 13, [3, 1, 1, 1]),
        (5, 3, 22, [3, 2, 2, 1, 1]),
        (2, 3, 11, [3, 1]),
        (1, 3, 10, [3]),
        (1, 3, 9, [2]),
    ],
)
def test_a_bound_gives_every_image_one_scale(count, factor, bound, factors):
    found, rows = decode(images(count), Formation(factor, "bounded", bound))
    assert rows.tolist() == [n for n, f in enumerate(factors) for _ in range(f**2)]
    assert len(found) == sum(f**2 for f in factors) <= bound


@pytest.mark.rows("factor", [2, 3, 4])
@pytest.mark.rows("count", [1, 2, 5])
def test_a_bound_holds_and_leaves_no_image_out(count, factor):
    sizes, bounds = [], range(count, count * (factor**2 + 1) + 2)
    for bound in bounds:
        rows = decode(images(count, 4, 4, 1), Formation(factor, "bounded", bound))[1]
        factors = [factor - k for k, share in enumerate(shares(count, factor, bound)) for _ in range(share)]
        assert rows.bincount(minlength=count).tolist() == [f**2 for f in factors]
        sizes.append(len(rows))
    assert all(count <= size <= bound for size, bound in zip(sizes, bounds, strict=True))
    assert (sizes[0], sizes[-1]) == (count, count * factor**2)


@pytest.mark.rows(("factor", "bound"), [(2, 3), (2, 11), (3, 14), (3, 17)])
def test_bounded_decodings_and_their_gradients_are_those_of_a_loop(factor, bound):
    x, again = (images(3, channels=1).requires_grad_() for _ in range(2))
    found, rows = decode(x, Formation(factor, "bounded", bound))
    expected, origins = naive(again, Formation(factor, "bounded", bound))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert rows.tolist() == origins
    (slope,) = torch.autograd.grad(found.pow(3).sum(), x)
    (wanted,) = torch.autograd.grad(expected.pow(3).sum(), again)
    torch.testing.assert_close(slope, wanted, rtol=0, atol=1e-11)


def test_no_decoding_draws():
    state = torch.get_rng_state()
    for kind in EVERY:
        first, again = (decode(images(4), Formation(3, kind, 20))[0] for _ in range(2))
        assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.rows(("height", "width", "factor"), [(8, 8, 2), (9, 7, 2), (32, 32, 3), (6, 10, 5), (4, 4, 4)])
@pytest.mark.rows("dtype", [torch.float32, torch.float64])
def test_tiles_are_enlarged_as_interpolation_enlarges_them(height, width, factor, dtype):
    x, tolerance = images(2, height, width, dtype=dtype), {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    found, (rows, columns) = decode(x, Formation(factor))[0], (edges(side, factor) for side in (height, width))
    for k, tile in enumerate(found.unflatten(0, (2, -1)).unbind(1)):
        i, j = divmod(k, factor)
        part = x[:, :, rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
        expected = F.interpolate(part, (height, width), mode="bilinear", align_corners=False)
        torch.testing.assert_close(tile, expected, rtol=0, atol=tolerance)


def test_gradients_are_exact_to_the_second_order():
    x = images(1, 5, 4, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: decode(x, Formation(2))[0], x)
    assert torch.autograd.gradgradcheck(lambda x: decode(x, Formation(2))[0].pow(3), x)


@pytest.mark.parametrize("kind", EVERY)
def test_gradients_are_the_same_bits_every_time(kind, device):
    """Interpolation's gradient is not, on CUDA; no step of a decoding may be one."""
    x = images(20, 32, 32, 3, torch.float32).to(device).requires_grad_()
    found = decode(x, Formation(3, kind, 100))[0]
    slopes = [torch.autograd.grad(found.square().sum(), x, retain_graph=True)[0] for _ in range(5)]
    assert all(torch.equal(slope, slopes[0]) for slope in slopes)
    nodes, names = [found.grad_fn], set()
    while nodes:
        node = nodes.pop()
        names.add(node.name())
        nodes += [before for before, _ in node.next_functions if before is not None]
    assert "AccumulateGrad" in " ".join(names)
    assert not [name for name in names if "Upsample" in name]


def test_decode_and_encode_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="unknown decoding 'zoom'; use one of uniform, multi, bounded"):
        decode(images(1), Formation(2, "zoom"))
    with pytest.raises(ValueError, match="9 tiles do not fit a side of 8 pixels; use a factor of 8 or less"):
        decode(images(1), Formation(9))
    with pytest.raises(ValueError, match="6 images do not fill mosaics of 2 x 2; give a multiple of 4"):
        encode(images(6), 2)
    with pytest.raises(ValueError, match="9 tiles do not fit"):
        encode(images(81), 9)
    text = r"formation\.bound 4 is less than the 5 images stored of a class; use a formation\.bound of 5 or more"
    with pytest.raises(ValueError, match=text):
        decode(images(5), Formation(2, "bounded", 4))


def test_a_device_decodes_as_the_cpu_does(device):
    x = images(3, dtype=torch.float32)
    for formation in (Formation(2), Formation(3, "multi"), Formation(3, "bounded", 16)):
        found, rows = decode(x.to(device), formation)
        expected, origins = decode(x, formation)
        assert {found.device.type, rows.device.type} == {device.type}
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-6)
        assert torch.equal(rows.cpu(), origins)
