"""Experts with batch norm as classifiers: what they say of an image does not depend on the images beside it."""

import dataclasses

import pytest
import torch
from torch import nn
from toy_runs import train_buffer
from variants import first

from raydd.analysis.expert_networks import expert_network, load_snapshot
from raydd.buffer.arrow_buffer import ArrowBuffer, create_buffer, refresh_manifest
from raydd.buffer.convexified import Convexified, convexify
from raydd.buffer.expert_file import ExpertTrajectory, write_expert
from raydd.buffer.expert_model import expert_model
from raydd.buffer.segments import InMemory
from raydd.config.parsing import build
from raydd.config.schema import DataConfig, DistillConfig, ExpertConfig, ExpertsConfig
from raydd.data.workspace import open_workspace
from raydd.distillation.rollouts import step_generator
from raydd.distillation.setup import Setup, initial
from raydd.distillation.trajectory_matching import label_by_experts, labels_from_expert
from raydd.methods import METHODS, complete
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Experts, Request, real
from raydd.selection.coresets import forgetting, forgetting_counts, herding
from raydd.selection.starting_images import correctly_classified, correctly_classified_mean, representative

NETWORK, EPOCHS, CPU = "ResNet18BNW8", 4, torch.device("cpu")
RECIPE = {"network": NETWORK, "num_experts": 2, "epochs": EPOCHS, "optimizer": "momentum", "lr": 0.05, "batch_size": 64}
DATA = DataConfig(augment="none")


@pytest.fixture(scope="module")
def buffer(cache, tmp_path_factory):
    config = ExpertsConfig(data=DATA, experts=ExpertConfig(**RECIPE))
    return ArrowBuffer(train_buffer(tmp_path_factory.mktemp("batch-norm") / "full", config))


def trajectory(buffer, expert, kept=True):
    """All that a buffer holds of an expert, with or without the running statistics."""
    epochs = range(EPOCHS + 1)
    theta, statistics = (
        torch.stack([of(expert, epoch) for epoch in epochs]) for of in (buffer.snapshot, buffer.running_stats)
    )
    nothing = [float("nan")] * len(epochs)
    return ExpertTrajectory(theta, statistics if kept else None, epochs, nothing, nothing)


@pytest.fixture(scope="module")
def work(buffer):
    return open_workspace(DATA, NETWORK, CPU)


@pytest.fixture(scope="module")
def seen(work):
    """The validation images, preprocessed, and their classes."""
    held = work.dataset.validation
    return work.transform(held.take(torch.arange(len(held)))), held.targets


@pytest.fixture(scope="module")
def asked(buffer, work):
    return Experts(FlatModel(work.build), buffer, CPU)


def oracle(work, buffer, expert, epoch):
    """torch's own module in evaluation mode, its tensors filled one by one from the buffer's numbers."""
    network = work.build()
    theta, statistics = buffer.snapshot(expert, epoch), buffer.running_stats(expert, epoch)
    for values, tensors in (
        (theta, [parameter.data for parameter in network.parameters()]),
        (statistics, [value for value in network.buffers() if value.is_floating_point()]),
    ):
        place = 0
        for tensor in tensors:
            tensor.copy_(values[place : place + tensor.numel()].view(tensor.shape))
            place += tensor.numel()
        assert place == len(values) > 0
    return network.eval()


def share(logits, classes):
    return float((logits.argmax(dim=1) == classes).double().mean())


@pytest.mark.parametrize("epoch", first([EPOCHS, 0, 1], 1))
def test_asked_class_by_class_an_expert_is_as_accurate_as_on_a_mixed_batch(epoch, buffer, work, seen, asked):
    images, classes = seen
    for expert in buffer.experts:
        network = oracle(work, buffer, expert, epoch)
        with torch.no_grad():
            expected, wanted = network(images), network.features(images)
        mixed, alone = asked.logits(expert, images, epoch), torch.empty_like(expected)
        features = torch.empty_like(wanted)
        for label in range(10):
            rows = classes == label
            alone[rows] = asked.logits(expert, images[rows], epoch)
            if epoch == EPOCHS:
                features[rows] = asked.features(expert, images[rows])
        torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-4)
        assert share(alone, classes) == share(mixed, classes) == share(expected, classes)
        assert share(alone, classes) == pytest.approx(float(buffer.accuracy[expert, epoch]), abs=1e-12)
        if epoch == EPOCHS:
            torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-4)
            assert share(alone, classes) > 0.8
            model = FlatModel(work.build)  # what it says in training mode, of one class a batch, is far from that
            batches = [model(buffer.snapshot(expert, epoch), images[classes == label]) for label in range(10)]
            wrong = sum(share(said, torch.full((len(said),), label)) for label, said in enumerate(batches)) / 10
            assert wrong < 0.6


def test_in_float64_an_image_alone_gives_what_it_gives_among_others(buffer, work, seen):
    images = seen[0][:40].double()
    model = expert_model(FlatModel(work.build), buffer, 1, EPOCHS).to(images)
    network = oracle(work, buffer, 1, EPOCHS).double()
    together = model.logits(images)
    torch.testing.assert_close(together, network(images), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([model.logits(x[None]) for x in images]), together, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.features(images[:1]), network.features(images)[:1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_stored_in_half_the_bytes_the_running_statistics_are_whole(storage, buffer, work, seen, tmp_path):
    spec = dataclasses.replace(buffer.spec, storage=storage)
    create_buffer(tmp_path, spec)
    for expert in buffer.experts:
        write_expert(tmp_path, spec, expert, trajectory(buffer, expert))
    refresh_manifest(tmp_path)
    half = ArrowBuffer(tmp_path)
    images, classes = seen
    dtype = getattr(torch, storage)
    for expert in half.experts:
        assert torch.equal(half.running_stats(expert, EPOCHS), buffer.running_stats(expert, EPOCHS))
        assert torch.equal(half.snapshot(expert, EPOCHS), buffer.snapshot(expert, EPOCHS).to(dtype).float())
        said = Experts(FlatModel(work.build), half, CPU).logits(expert, images)
        with torch.no_grad():
            expected = oracle(work, half, expert, EPOCHS)(images)
        torch.testing.assert_close(said, expected, rtol=1e-5, atol=1e-5)
        assert share(said, classes) == share(expected, classes)


def test_a_network_of_an_analysis_is_the_same_expert(buffer, seen, asked):
    network = expert_network(buffer, CPU)
    load_snapshot(network, buffer, 1, EPOCHS)
    with torch.no_grad():
        torch.testing.assert_close(network(seen[0]), asked.logits(1, seen[0]), rtol=1e-5, atol=1e-5)


def test_datms_starts_are_images_and_logits_of_experts_that_are_right(buffer, work, asked):
    """Its mislabelling rule: images that the expert classifies correctly, in evaluation mode."""
    for start in (correctly_classified, correctly_classified_mean):
        images, logits = start(Request(work.dataset, work.transform, 3, generator(1), asked))
        expert = asked.pick(generator(1))
        classes = torch.arange(10).repeat_interleave(3)
        with torch.no_grad():
            said = {index: oracle(work, buffer, index, EPOCHS)(images) for index in buffer.experts}
        assert torch.equal(said[expert].argmax(dim=1), classes)
        assert torch.equal(logits.argmax(dim=1), classes)
        if start is correctly_classified:
            torch.testing.assert_close(logits, said[expert], rtol=1e-4, atol=1e-4)
            continue
        right = torch.stack([(value.argmax(dim=1) == classes)[:, None] for value in said.values()])
        mean = (torch.stack([*said.values()]) * right).sum(dim=0) / right.sum(dim=0)
        torch.testing.assert_close(logits, mean, rtol=1e-4, atol=1e-4)


def test_selections_by_features_and_by_forgetting_see_each_class_as_the_whole(buffer, work, asked):
    train_split = work.dataset.train
    for start in (herding, representative):
        images, _ = start(Request(work.dataset, work.transform, 1, generator(2), asked))
        expert = generator(2)
        for label in range(10):  # the draws that come before that of the expert
            members = torch.nonzero(train_split.targets == label).flatten()
            torch.randperm(len(members), generator=expert)
        if start is representative:
            expert = generator(2)
        network = oracle(work, buffer, asked.pick(expert), EPOCHS)
        for label in range(10):
            members = work.transform(train_split.take(torch.nonzero(train_split.targets == label).flatten()))
            with torch.no_grad():
                features = network.features(members).double()
            nearest = (features - features.mean(dim=0)).norm(dim=1).argmin()  # of one image both are this
            assert torch.equal(images[label], members[nearest])
    images, _ = forgetting(Request(work.dataset, work.transform, 2, generator(3), asked))
    members = work.transform(train_split.take(torch.nonzero(train_split.targets == 4).flatten()))
    counts = torch.zeros(len(members), dtype=torch.int64)
    for expert in buffer.experts:
        with torch.no_grad():
            said = [oracle(work, buffer, expert, epoch)(members).argmax(dim=1) == 4 for epoch in range(EPOCHS + 1)]
        counts += forgetting_counts(torch.stack(said))
    chosen = [int(torch.nonzero((members == image).flatten(1).all(dim=1))[0]) for image in images[8:10]]
    assert sorted(counts[chosen].tolist()) == sorted(counts.tolist())[-2:]


def tesla(work, source, **layer):
    settings = {"method": "tesla", "ipc": 2, "span": 1, "data": DATA.model_dump(), "experts": RECIPE}
    return Setup(complete(build(DistillConfig, settings, layer)), work, source)


def test_teslas_labels_are_those_of_the_target_in_evaluation_mode(buffer, work):
    setup = tesla(work, buffer)
    synset = initial(setup)
    segment = buffer.segment((2, 2), 1, generator(0))
    images = synset.images.clone().requires_grad_()
    labels = labels_from_expert(setup)(synset.with_leaves({"images": images}), segment)
    network = oracle(work, buffer, segment.expert, 3)
    torch.testing.assert_close(labels, network(synset.images).softmax(dim=1), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(labels[0].square().sum(), images)
    assert gradient[0].abs().sum() > 0
    assert not gradient[1:].any()  # no other image has a part in a label
    finished = label_by_experts(setup)(synset)
    with torch.no_grad():
        said = torch.stack([oracle(work, buffer, expert, EPOCHS)(synset.images) for expert in buffer.experts])
    torch.testing.assert_close(finished.labels.exp(), said.softmax(dim=2).mean(dim=0), rtol=1e-4, atol=1e-5)


def test_students_of_an_unroll_keep_the_statistics_of_their_batches(buffer, work):
    """As the official code of trajectory matching has its students in training mode."""
    setup = tesla(work, buffer, labels="own", student_steps=2, lr={"start": 0.1})
    recipe = METHODS["tesla"](setup)
    loss, _ = recipe.objective.loss(recipe.synset, None, 0, step_generator(0, 0, 0))
    segment = buffer.segment(recipe.objective.window(0), 1, step_generator(0, 0, 0))
    network, place = work.build().train(), 0
    for parameter in network.parameters():
        parameter.data = segment.start[place : place + parameter.numel()].clone().view(parameter.shape)
        place += parameter.numel()
    for _ in range(2):
        network.zero_grad()
        nn.functional.cross_entropy(network(recipe.synset.images), recipe.synset.labels).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.1 * parameter.grad
    end = torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
    wanted = (end - segment.target).square().sum() / (segment.start - segment.target).square().sum()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-3)


def test_convexified_experts_are_asked_at_the_epochs_that_they_keep(buffer, work, seen, tmp_path):
    convexify(buffer.folder, tmp_path / "straight", (2,))
    for source in (Convexified(ArrowBuffer(tmp_path / "straight")), Convexified(buffer, (2,))):
        said = Experts(FlatModel(work.build), source, CPU)
        for epoch in (0, 2, EPOCHS):
            expected = Experts(FlatModel(work.build), buffer, CPU).logits(1, seen[0], epoch)
            assert torch.equal(said.logits(1, seen[0], epoch), expected)
        with pytest.raises(
            ValueError, match=r"at the epochs 0, 2, 4 alone, not at 3; use .* such as ConvNet"
        ) as caught:
            said.logits(1, seen[0], 3)
        assert "\n" not in str(caught.value)


def test_experts_without_running_statistics_are_not_asked(buffer, work, seen, tmp_path):
    """As a buffer made by hand, or experts in memory, may lack them: a network put there would have fresh ones."""
    spec = dataclasses.replace(buffer.spec, buffer_layout=())
    create_buffer(tmp_path, spec)
    write_expert(tmp_path, spec, 0, trajectory(buffer, 0, kept=False))
    refresh_manifest(tmp_path)
    bare, message = (
        ArrowBuffer(tmp_path),
        r"^the experts hold 0 running statistics .* batch norm has \d+.*`raydd experts`",
    )
    theta, statistics = trajectory(buffer, 0).theta, trajectory(buffer, 0).buffers
    for source in (bare, InMemory([theta], buffer.layout)):
        with pytest.raises(ValueError, match=message) as caught:
            Experts(FlatModel(work.build), source, CPU).logits(0, seen[0])
        assert "\n" not in str(caught.value)
        assert len(real(Request(work.dataset, work.transform, 1, generator(0)))[0]) == 10  # what asks nobody goes on
    with pytest.raises(ValueError, match=message):
        load_snapshot(expert_network(bare, CPU), bare, 0, 1)
    whole = Experts(FlatModel(work.build), InMemory([theta], buffer.layout, [statistics]), CPU)
    assert torch.equal(whole.logits(0, seen[0]), Experts(FlatModel(work.build), buffer, CPU).logits(0, seen[0]))
