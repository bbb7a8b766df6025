"""The search spaces: their rows, the networks of their rows, and files of rows."""

import pickle
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from raydd.models import zoo
from raydd.models.cells import EDGES, OPERATIONS, Cell, CellRow, Reduction
from raydd.models.convnet import NORMS
from raydd.models.spaces import SPACES, ConvNetRow, Grid, build, load_rows, nasbench201, parse, sample
from raydd.numerics.flat import FlatModel, seeded
from raydd.numerics.rng import generator

CONVNETS, CELLS = SPACES["convnet720"], SPACES["nasbench201"]
ARCH = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
CONVOLUTIONS = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
SIZES = [(1, 8), (3, 32)]


def images(channels: int, size: int, count: int = 2) -> Tensor:
    return torch.randn(count, channels, size, size, dtype=torch.float64, generator=generator(5))


# ---- rows


def test_convnet720_is_the_product_of_the_published_axes() -> None:
    axes = (
        (32, 64, 128, 256),
        (1, 2, 3, 4),
        ("none", "batch", "layer", "instance", "group"),
        ("sigmoid", "relu", "leakyrelu"),
        ("none", "max", "avg"),
    )
    found = [(row.width, row.depth, row.norm, row.activation, row.pooling) for row in CONVNETS]
    assert found == list(product(*axes))
    assert len(CONVNETS) == len(set(CONVNETS)) == len({str(row) for row in CONVNETS}) == 720


def test_nasbench201_has_every_cell_once() -> None:
    names = [str(row) for row in CELLS]
    assert len(CELLS) == len(names) == len(set(names)) == len(set(CELLS)) == 5**6 == 15_625
    assert {name for row in CELLS for name in row.operations} == set(OPERATIONS)
    assert {row.cells for row in CELLS} == {5}


@pytest.mark.rows("space", [CONVNETS, CELLS, nasbench201(1)], ids=["convnet720", "nasbench201", "N=1"])
def test_the_identity_of_a_row_is_read_back(space: Grid) -> None:
    assert [parse(str(row)) for row in space] == list(space)
    assert not any(character in str(row) for row in space for character in "\n,;\"'")


@pytest.mark.rows("name", SPACES)
def test_rows_are_made_when_asked_for(name: str) -> None:
    space = SPACES[name]
    rows = list(space)
    places = [0, 1, 7, 100, len(space) - 1]
    assert [space[place] for place in places] == [rows[place] for place in places]
    assert space[-1] == rows[-1]
    assert space[3:11:4] == (rows[3], rows[7])
    assert space.index(rows[7]) == 7
    for place in (len(space), -len(space) - 1):
        with pytest.raises(IndexError):
            space[place]
    assert pickle.loads(pickle.dumps(space)) == space
    assert len(pickle.dumps(space)) < 2000  # the axes, not the rows


def test_membership() -> None:
    assert ConvNetRow(32, 4, "none", "sigmoid", "none") in CONVNETS
    assert ConvNetRow(width=48) not in CONVNETS
    assert parse(ARCH) in CELLS
    assert parse(ARCH + " N=1") not in CELLS
    assert parse(ARCH + " N=1") in nasbench201(1)
    assert parse(ARCH) not in CONVNETS
    assert ARCH not in CELLS


def test_a_sample_is_seeded_ordered_and_nested() -> None:
    drawn = {n: sample(CONVNETS, n, generator(0, "nas")) for n in (20, 60, 720)}
    assert drawn[60] == sample(CONVNETS, 60, generator(0, "nas"))
    assert drawn[60] != sample(CONVNETS, 60, generator(1, "nas"))
    assert [len(set(rows)) for rows in drawn.values()] == [20, 60, 720]
    assert set(drawn[20]) < set(drawn[60])
    assert drawn[720] == list(CONVNETS)
    places = [CONVNETS.index(row) for row in drawn[60]]
    assert places == sorted(places)
    seen = {row for seed in range(60) for row in sample(CONVNETS, 60, generator(seed))}
    assert len(seen) > 700  # evenly drawn, (1 - 60/720)^60 of the rows are missed: 4 of 720


@pytest.mark.rows("n", [0, -1, 721])
def test_samples_it_refuses(n: int) -> None:
    with pytest.raises(ValueError, match=rf"a sample of {n} rows from a space of 720: use 1 to 720"):
        sample(CONVNETS, n, generator(0))


# ---- networks of convnet720


@pytest.mark.rows(("channels", "size"), SIZES)
def test_all_720_build_and_differ(channels: int, size: int) -> None:
    with torch.device("meta"):
        networks = [build(row, channels=channels, size=size, classes=10) for row in CONVNETS]
    assert len({str(network) for network in networks}) == 720
    for row, network in zip(CONVNETS, networks, strict=True):
        layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        assert [layer.out_channels for layer in layers] == [row.width] * row.depth


@pytest.mark.rows(("channels", "size"), [*SIZES, (1, 28), (3, 64)])
def test_a_row_is_the_network_of_the_zoo_that_its_name_spells(channels: int, size: int) -> None:
    numbers = {"channels": channels, "size": size, "classes": 10}
    fitting = [row for row in CONVNETS if size > 8 or row.depth < 4 or row.pooling == "none"]
    assert len(fitting) == (720 if size > 8 else 600)
    with torch.device("meta"):
        for row in fitting[::7]:  # 7 shares no factor with an axis
            assert str(build(row, **numbers)) == str(zoo.build(str(row), **numbers))


@pytest.mark.rows(("channels", "size"), SIZES)
def test_networks_of_a_sample_run(channels: int, size: int) -> None:
    for row in sample(CONVNETS, 24, generator(2)):
        network = seeded(lambda row=row: build(row, channels=channels, size=size, classes=7), generator(0))
        x = images(channels, size).float()
        with torch.no_grad():
            features, logits = network.features(x), network(x)
        halvings = 0 if row.pooling == "none" else min(row.depth, size.bit_length() - 1)
        assert features.shape == (2, row.width * (size // 2**halvings) ** 2)
        assert logits.shape == (2, 7)
        torch.testing.assert_close(logits, network.classifier(features))


@pytest.mark.rows("norm", NORMS)
@pytest.mark.rows("size", [2, 3, 5, 8])
def test_no_row_makes_small_images_alike_or_leaves_a_parameter_out(norm: str, size: int) -> None:
    rows = [row for row in CONVNETS if row.width == 32 and row.norm == norm]
    assert len(rows) == 36
    for row in rows:
        network = seeded(lambda row=row: build(row, channels=1, size=size, classes=4), generator(0)).double()
        features = network.features(images(1, size, count=3))
        assert (features[0] - features[1]).abs().max() > 1e-6, row
        assert (features.std(dim=0) / features.abs().mean()).max() > 1e-5, row
        network.classifier(features).square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters()), row


@pytest.mark.rows(("size", "sides"), [(8, [8, 4, 2, 2]), (5, [5, 2, 2, 2]), (4, [4, 2, 2, 2]), (2, [2] * 4)])
@pytest.mark.rows("norm", ["layer", "instance"])
def test_pooling_on_images_too_small_for_the_depth(size: int, sides: list[int], norm: str) -> None:
    network = build(ConvNetRow(32, 4, norm, pooling="max"), channels=1, size=size, classes=4)
    seen: list[int] = []
    for layer in network.body:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[-1]))
    features = network.features(images(1, size).float())
    assert seen == sides
    assert features.shape == (2, 32)  # the last block halves what is left


def test_depths_beyond_the_space_keep_the_padding_of_28_pixels() -> None:
    network = build(ConvNetRow(16, 7, "batch"), channels=1, size=28, classes=4)
    assert [layer.padding for layer in network.body if isinstance(layer, nn.Conv2d)] == [(3, 3)] + [(1, 1)] * 6
    assert network(images(1, 28).float()).shape == (2, 4)


# ---- networks of nasbench201


def standardised(x: Tensor, norm: nn.Module) -> Tensor:
    """A batch norm in training, written out."""
    mean = x.mean((0, 2, 3), keepdim=True)
    unit = (x - mean) / ((x - mean).square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    return unit * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def convolved(x: Tensor, block: nn.Module, stride: int = 1) -> Tensor:
    """ReLU, convolution, norm."""
    _, convolution, norm = block
    weight = convolution.weight
    border = weight.shape[-1] // 2
    return standardised(F.conv2d(F.pad(x * (x > 0), (border,) * 4), weight, stride=stride), norm)


def neighbours(x: Tensor) -> Tensor:
    """Each pixel becomes the mean of those of its 3x3 neighbours that exist."""
    found, side = torch.empty_like(x), x.shape[-1]
    for row, column in product(range(side), range(side)):
        around = x[:, :, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        found[:, :, row, column] = around.mean((2, 3))
    return found


def written_out(cell: Cell, x: Tensor) -> Tensor:
    """The cell of ``ARCH``, edge by edge."""
    node1 = convolved(x, cell.edges["1<-0"])
    node2 = neighbours(x) + convolved(node1, cell.edges["2<-1"])
    return x + convolved(node2, cell.edges["3<-2"])


def halved(block: Reduction, x: Tensor) -> Tensor:
    side = x.shape[-1]
    squares = [
        torch.stack([x[:, :, r : r + 2, c : c + 2].mean((2, 3)) for c in range(0, side, 2)], -1)
        for r in range(0, side, 2)
    ]
    shortcut = torch.einsum("oi,bihw->bohw", block.shortcut[1].weight[:, :, 0, 0], torch.stack(squares, -2))
    return convolved(convolved(x, block.body[0], stride=2), block.body[1]) + shortcut


def shaken(network: nn.Module) -> nn.Module:
    """In float64, with norms whose scale and shift matter."""
    rng = generator(8)
    for module in network.double().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.normal_(generator=rng)
            module.bias.data.normal_(generator=rng)
    return network


def test_a_cell_equals_the_one_written_out() -> None:
    cell, x = shaken(Cell(parse(ARCH).operations, width=6)), images(6, 5, count=3)
    torch.testing.assert_close(cell(x), written_out(cell, x), rtol=1e-10, atol=1e-10)


@pytest.mark.rows("size", [8, 6])  # 6 halves to 3, and 3 to 2
def test_a_network_equals_the_one_written_out(size: int) -> None:
    network = shaken(build(parse(f"{ARCH} N=2"), channels=2, size=size, classes=5))
    x = images(2, size, count=3)
    body = list(network.body)
    found = standardised(F.conv2d(F.pad(x, (1,) * 4), body[0].weight), body[1])
    for stage, place in enumerate((2, 5, 8)):
        found = halved(body[place - 1], found) if stage else found
        found = written_out(body[place + 1], written_out(body[place], found))
    last = standardised(found, body[10])
    features = (last * (last > 0)).mean((2, 3))
    torch.testing.assert_close(network.features(x), features, rtol=1e-9, atol=1e-9)
    logits = features @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(x), logits, rtol=1e-9, atol=1e-9)


# With skips only, a node is as many times x as there are paths to it.
PATHS = [(None, 4), ((1, 0), 2), ((2, 0), 3), ((2, 1), 3), ((3, 0), 3), ((3, 1), 3), ((3, 2), 2)]


@pytest.mark.rows(("cut", "paths"), PATHS)
def test_a_zeroised_edge_is_cut(cut: tuple[int, int] | None, paths: int) -> None:
    x = images(3, 4)
    cell = Cell(tuple("none" if edge == cut else "skip_connect" for edge in EDGES), width=3)
    torch.testing.assert_close(cell(x), paths * x, rtol=1e-12, atol=0)


def test_nothing_passes_a_cell_of_zeros_nor_a_cut_edge() -> None:
    endless = torch.full((2, 3, 4, 4), torch.inf, requires_grad=True)
    assert torch.equal(Cell(("none",) * 6, width=3)(endless), torch.zeros(2, 3, 4, 4))
    # Node 1 overflows and nobody reads it.
    cell = Cell(("nor_conv_1x1", "avg_pool_3x3", "none", "none", "none", "skip_connect"), width=3)
    cell.edges["1<-0"][1].weight.data.fill_(torch.inf)
    assert cell(images(3, 4).float()).isfinite().all()
    # Two images that differ pass through a network of zeros alike.
    network = build(CELLS[0], channels=1, size=8, classes=4)
    assert set(CELLS[0].operations) == {"none"}
    features = network.features(images(1, 8).float())
    assert torch.equal(features[0], features[1])


def test_an_edge_after_a_cut_one_still_adds_its_shift() -> None:
    """As in the official code: a convolution of zeros, normalised, is the norm's shift."""
    cell = shaken(Cell(("none", "none", "none", "none", "nor_conv_3x3", "none"), width=3))
    expected = cell.edges["3<-1"][2].bias.view(-1, 1, 1).expand(2, 3, 4, 4)
    torch.testing.assert_close(cell(images(3, 4)), expected, rtol=1e-12, atol=0)


@pytest.mark.rows(("arch", "count"), [(CONVOLUTIONS, 1_531_546), (str(CELLS[0]), 73_306)])
def test_the_published_extremes_of_the_parameter_count_on_cifar10(arch: str, count: int) -> None:
    with torch.device("meta"):
        network = build(parse(arch), channels=3, size=32, classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.integration
@pytest.mark.slow
def test_all_15625_cells_build_and_differ() -> None:
    """A network is a fixed frame around copies of one cell, so that the cells prove the networks."""

    def form(module: nn.Module) -> tuple[object, ...]:
        kernels = [layer.kernel_size for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.AvgPool2d)]
        return (type(module), *kernels)

    cells = (Cell(row.operations, width=1).edges.items() for row in CELLS)
    assert len({tuple((edge, form(module)) for edge, module in edges) for edges in cells}) == 15_625


def test_a_sample_of_the_networks_is_the_frame_around_its_cells() -> None:
    with torch.device("meta"):
        for row in sample(nasbench201(1), 200, generator(3)):
            network = build(row, channels=1, size=8, classes=10)
            cells = [module for module in network.body if isinstance(module, Cell)]
            expected = [Cell(row.operations, width) for width in (16, 32, 64)]
            assert list(map(str, cells)) == list(map(str, expected))
            assert sum(isinstance(module, Reduction) for module in network.body) == 2


@pytest.mark.rows("cells", [1, 5])
@pytest.mark.rows(("channels", "size"), [*SIZES, (1, 28), (3, 2)])
def test_cell_networks_run(channels: int, size: int, cells: int) -> None:
    for row in sample(nasbench201(cells), 3, generator(4)):
        network = build(row, channels=channels, size=size, classes=7)
        x = images(channels, size).float()
        with torch.no_grad():
            assert network.features(x).shape == (2, 64)
            assert network(x).shape == (2, 7)
        assert sum(isinstance(module, Cell) for module in network.modules()) == 3 * cells
        assert not [module for module in network.modules() if getattr(module, "inplace", False)]


# ---- both


@pytest.mark.rows("text", ["ConvNetW32D4BNALMP", f"{ARCH} N=1"])
def test_equal_draws_of_the_seed_give_equal_weights(text: str) -> None:
    model = FlatModel(lambda: build(parse(text), channels=1, size=8, classes=10))
    theta = model.init(generator(0, "student", 3))
    torch.manual_seed(99)
    assert torch.equal(model.init(generator(0, "student", 3)), theta)
    assert not torch.equal(model.init(generator(0, "student", 4)), theta)
    leaf = theta.requires_grad_()
    loss = F.cross_entropy(model(leaf, images(1, 8).float()), torch.tensor([1, 2]))
    (slope,) = torch.autograd.grad(loss, leaf)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0


@pytest.mark.rows("row", [CONVNETS[100], CELLS[100]], ids=str)
def test_numbers_it_refuses(row: ConvNetRow | CellRow) -> None:
    for what in ("channels", "size", "classes"):
        with pytest.raises(ValueError, match=f"{what} of a network is 0: use at least 1"):
            build(row, **({"channels": 1, "size": 8, "classes": 10} | {what: 0}))
    with pytest.raises(ValueError, match=r"cannot run on 1x1 images: use 2x2 or larger ones") as caught:
        build(row, channels=1, size=1, classes=10)
    assert str(caught.value).startswith(str(row))


@pytest.mark.rows(
    "text",
    [
        "",
        "ConvNet",
        "ConvNetW32D3BNAR",
        "ConvNetD3W32BNARMP",
        "ConvNetW32D3BNARMP ",
        ARCH[:-1],
        ARCH.replace("~2", "~1"),
        ARCH + "+|none~0|",
        ARCH + " N=x",
        ARCH + "\n",
    ],
)
def test_names_it_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown architecture .*: write ConvNetW32D3BNARMP .* or \|op~0\|") as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.rows(
    ("make", "said"),
    [
        (lambda: parse("ConvNetW0D3BNARMP"), r"width of a ConvNet is 0: use a whole number of at least 1"),
        (lambda: parse("ConvNetW30D3GNARMP"), r"group norm cannot split width 30 into 4 groups: use a multiple of 4"),
        (lambda: parse(ARCH + " N=0"), r"cells of a stage, N, is 0: use a whole number of at least 1"),
        (lambda: parse(ARCH.replace("none", "conv")), r"unknown operation 'conv' of a cell: choose from none, skip"),
        (lambda: CellRow(("none",) * 5), r"a cell of 5 operations: give 6, one an edge"),
        (lambda: ConvNetRow(norm="Batch"), r"unknown norm 'Batch' of a ConvNet: choose from none, batch, layer"),
        (lambda: ConvNetRow(depth=True), r"depth of a ConvNet is True: use a whole number"),
    ],
)
def test_rows_it_refuses(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# ---- files of rows


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_space_from_a_file(tmp_path: Path) -> None:
    text = f"- {{width: 48, depth: 2, norm: none, pooling: none}}\n- ConvNetW64D3INARAP\n- '{ARCH}'\n- '{ARCH} N=1'\n"
    rows = load_rows(written(tmp_path, text), yaml.safe_load)
    assert rows == (
        ConvNetRow(48, 2, "none", "relu", "none"),
        ConvNetRow(64, 3, "instance", "relu", "avg"),
        CellRow(parse(ARCH).operations),
        CellRow(parse(ARCH).operations, cells=1),
    )
    assert sample(rows, 4, generator(0)) == list(rows)
    with torch.no_grad():
        assert [build(row, channels=1, size=8, classes=3)(images(1, 8).float()).shape for row in rows] == [(2, 3)] * 4


def test_the_shipped_spaces_survive_a_file(tmp_path: Path) -> None:
    for space in (CONVNETS, CELLS[:50]):
        text = yaml.safe_dump([str(row) for row in space])
        assert load_rows(written(tmp_path, text), yaml.safe_load) == tuple(space)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"mine.yaml holds no list of rows: write one a line, such as '- ConvNetW32D3BNARMP'"),
        ("rows: 3", r"mine.yaml holds no list of rows"),
        (f"- {ARCH}", r"mine.yaml is no list of rows \(.*\): check it, and quote arch strings"),
        ("- {width: 32}\n- {widht: 64}", r"mine.yaml, row 2: unknown axis 'widht' of a ConvNet: choose from width, d"),
        ("- {norm: }", r"mine.yaml, row 1: unknown norm None of a ConvNet: choose from none, batch"),
        ("- {norm: [batch]}", r"mine.yaml, row 1: unknown norm \['batch'\] of a ConvNet"),
        ("- {width: '32'}", r"mine.yaml, row 1: width of a ConvNet is '32': use a whole number"),
        ("- {depth: 2.5}", r"mine.yaml, row 1: depth of a ConvNet is 2.5: use a whole number"),
        ("- ResNet18", r"mine.yaml, row 1: unknown architecture 'ResNet18': write ConvNetW32D3BNARMP"),
        ("- 7", r"mine.yaml, row 1: 7 is no row: write its axes \(width, depth, norm, activation, pooling\)"),
        ("- {}\n- {width: 64}\n- ConvNetW128D3INARAP", r"row 3: ConvNetW128D3INARAP is row 1 again: keep one"),
    ],
)
def test_files_it_refuses(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        load_rows(written(tmp_path, text), yaml.safe_load)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"space '.*none.yaml' cannot be read: No such file or directory; give a"):
        load_rows(tmp_path / "none.yaml", yaml.safe_load)
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"bytes.yaml is no list of rows \(.*decode.*\): check it"):
        load_rows(path, yaml.safe_load)
