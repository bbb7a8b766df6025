import pytest
import torch
from torch import nn

from raydd.models.zoo import build
from raydd.numerics.flat import FlatModel, flatten, layout_of, running_statistics, seeded, split
from raydd.numerics.rng import generator

NETWORKS = ["ConvNetW8", "ConvNetW8BN", "ResNet10BN"]


def make(name):
    return lambda: build(name, channels=3, size=8, classes=4)


def images(device, dtype=torch.float64, count=5):
    return torch.randn(count, 3, 8, 8, generator=generator(0, "x"), dtype=torch.float64).to(device, dtype)


def loaded(name, theta):
    """An ordinary network with theta's numbers, copied in by counting them off."""
    network, place = make(name)().to(theta), 0
    for parameter in network.parameters():
        count = parameter.numel()
        parameter.data = theta[place : place + count].clone().reshape(parameter.shape)
        place += count
    assert place == len(theta)
    return network.train()


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_network_in_train_mode_with_its_gradient(name, device):
    model = FlatModel(make(name))
    theta = model.init(generator(1)).to(device, torch.float64).requires_grad_()
    x = images(device).requires_grad_()
    network = loaded(name, theta.detach())
    other = x.detach().clone().requires_grad_()
    ours, theirs = model(theta, x), network(other)
    assert (ours.shape, ours.dtype, ours.device.type) == ((5, 4), torch.float64, device.type)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights = torch.randn(5, 4, generator=generator(2), dtype=torch.float64).to(device)
    by_theta, by_x = torch.autograd.grad((ours * weights).sum(), [theta, x])
    expected = torch.autograd.grad((theirs * weights).sum(), [*network.parameters(), other])
    torch.testing.assert_close(by_theta, torch.cat([g.reshape(-1) for g in expected[:-1]]), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(by_x, expected[-1], rtol=1e-9, atol=1e-11)


def test_batch_norm_uses_the_batchs_own_statistics():
    model = FlatModel(make("ConvNetW8BN"))
    theta = model.init(generator(1)).double()
    x = images("cpu")
    assert (model(theta, x)[:2] - model(theta, x[:2])).abs().max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_features_feed_the_last_layer(name, device):
    model = FlatModel(make(name))
    theta = model.init(generator(1)).to(device, torch.float64)
    x, network = images(device), loaded(name, theta)
    features = model.features(theta, x)
    torch.testing.assert_close(features, network.features(x), rtol=1e-12, atol=1e-12)
    weight, bias = list(split(theta, model.layout).values())[-2:]
    torch.testing.assert_close(features @ weight.T + bias, model(theta, x), rtol=1e-10, atol=1e-12)


@pytest.mark.rows("name", NETWORKS)
def test_layout_is_the_parameters_in_order(name):
    model, network = FlatModel(make(name)), make(name)()
    named = list(network.named_parameters())
    assert [(slot.name, slot.shape, slot.numel) for slot in model.layout] == [
        (key, tuple(value.shape), value.numel()) for key, value in named
    ]
    assert [slot.offset for slot in model.layout] == [
        sum(value.numel() for _, value in named[:i]) for i in range(len(named))
    ]
    assert model.size == sum(value.numel() for _, value in named)


def test_split_undoes_flatten_and_gives_views():
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7.0), "c": torch.tensor([8.0])}
    vector = flatten(tensors)
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, 7, 8]
    parts = split(vector, layout_of(tensors))
    assert list(parts) == ["a", "b", "c"]
    assert all(torch.equal(parts[name], value) for name, value in tensors.items())
    vector[6] = -1
    assert parts["b"].item() == -1
    assert flatten({}).shape == (0,)


def test_init_depends_on_its_generator_alone():
    model = FlatModel(make("ConvNetW8"))
    torch.manual_seed(1)
    a = model.init(generator(5))
    torch.manual_seed(2)
    assert torch.equal(model.init(generator(5)), a)
    assert torch.equal(FlatModel(make("ConvNetW8")).init(generator(5)), a)
    assert not torch.equal(model.init(generator(6)), a)
    assert (a.dtype, a.shape, a.requires_grad) == (torch.float32, (model.size,), False)


def test_init_is_drawn_as_the_constructor_draws():
    """PyTorch's linear layer of fan-in 4: uniform in +-1/2; the seeds must differ within one generator."""
    rng, model = generator(5), FlatModel(lambda: nn.Linear(4, 100))
    first, second = model.init(rng), model.init(rng)
    for theta in (first, second):
        assert 0.49 < theta.abs().max() <= 0.5
        assert abs(theta.std() - 0.5 / 3**0.5) < 0.03
    assert not torch.equal(first, second)


def test_the_global_generator_is_left_as_it_was(device):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    there = torch.cuda.get_rng_state() if device.type == "cuda" else None
    model = FlatModel(make("ConvNetW8BN"))
    theta = model.init(generator(5)).to(device)
    model(theta, images(device, torch.float32))
    seeded(make("ConvNetW8"), generator(0))
    assert torch.equal(torch.get_rng_state(), state)
    if there is not None:
        assert torch.equal(torch.cuda.get_rng_state(), there)


def test_the_gpus_generators_are_not_reseeded(monkeypatch):
    """Where there is no GPU, too: ``torch.manual_seed`` would have them reseeded once one is used."""
    calls = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", calls.append)
    torch.manual_seed(0)
    assert calls == [0]
    FlatModel(make("ConvNetW8")).init(generator(5))
    assert calls == [0]


@pytest.mark.parametrize("name", ["ConvNetW8BN", "ResNet10BN"])
def test_calls_leave_no_trace(name, device):
    made = []

    def remember():
        made.append(make(name)())
        return made[-1]

    model = FlatModel(remember)
    before = {key: value.clone() for key, value in made[0].state_dict().items()}
    assert set(running_statistics(made[0])) == {key for key in before if "running_" in key}
    assert len(running_statistics(made[0])) > 0
    theta, x = model.init(generator(1)).to(device), images(device, torch.float32)
    first = model(theta, 3 + 2 * x)
    model(theta, x), model.features(theta, x)
    assert torch.equal(model(theta, 3 + 2 * x), first)
    after = made[0].state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert made[0].training


@pytest.mark.rows("change", [-1, 1])
def test_a_theta_of_the_wrong_size_is_refused(change):
    model = FlatModel(make("ConvNetW8"))
    wrong = model.size + change
    message = rf"^theta has shape \({wrong},\), but the network has {model.size} parameters$"
    for call in (model, model.features):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(wrong), torch.zeros(1, 3, 8, 8))


def test_layers_end_where_the_next_weights_begin(device):
    """A ConvNet's blocks end with their pooling, the flattening of an MLP belongs to its first layer."""
    x = images(device)
    for name, ends in {"ConvNetW8": nn.AvgPool2d, "MLP": nn.ReLU}.items():
        model = FlatModel(make(name))
        theta = model.init(generator(1)).to(device, torch.float64)
        found, shown, expected = model.layers(theta, x), x, []
        for part in loaded(name, theta).body:
            shown = part(shown)
            if isinstance(part, ends):
                expected.append(shown.flatten(1))
        assert len(found) == len(expected) == 2
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        assert torch.equal(found[-1], model.features(theta, x))


@pytest.mark.rows("name", ["VGG11", "ResNet10BN", "LeNet"])
def test_the_last_layer_is_the_features(name):
    model, x = FlatModel(lambda: build(name, channels=3, size=32, classes=4)), torch.ones(2, 3, 32, 32)
    theta = model.init(generator(1))
    found = model.layers(theta, x)
    assert len(found) > 2
    assert torch.equal(found[-1], model.features(theta, x))


def test_a_network_without_a_sequence_of_layers_is_refused():
    class Odd(nn.Linear):
        body = None

    model = FlatModel(lambda: Odd(3, 2))
    with pytest.raises(ValueError, match=r"body is not a sequence of layers; use statistic.of=features$"):
        model.layers(model.init(generator(0)), torch.ones(1, 3))
