"""What a training of a matrix is: against the same training put together by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from raydd.config.schema import DataConfig
from raydd.data.datasets import Split
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Feed, open_workspace
from raydd.evaluation.jobs import Job, Outcome
from raydd.evaluation.matrix import Matrix, Scorer, ScoreRow, restrict_to_classes, same_training, select_classes
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.student import evaluate, evaluate_real
from raydd.evaluation.successive_halving import Rungs
from raydd.models import zoo
from raydd.models.spaces import ConvNetRow
from raydd.numerics.augment import augment
from raydd.numerics.formation import Formation
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Request, real

CPU = torch.device("cpu")
NAME = "ConvNetW8D2"
SHORT = Protocol(name="short", epochs=12, plain_epochs=10, real_epochs=1, lr=None, milestones=())
JOB = Job(0, NAME, 7)


@pytest.fixture(scope="module")
def work():
    return open_workspace(DataConfig(), NAME, CPU)


@pytest.fixture(scope="module")
def synset(work):
    images, labels = real(Request(work.dataset, work.transform, 3, generator(0)))
    order = torch.randperm(len(labels), generator=generator(1))
    images, labels = images[order], labels[order]
    return SyntheticSet(images, labels, torch.tensor(0.1), work.transform, "digits", work.dataset.classes)


@pytest.fixture(scope="module")
def soft(synset):
    """The same images with logits, of which the largest is not always the label's."""
    logits = 2 * torch.nn.functional.one_hot(synset.labels, 10) + torch.randn(30, 10, generator=generator(2))
    return replace(synset, labels=logits)


def matrix(*entries, protocol=SHORT, networks=(NAME,), data=None, **changes):
    return Matrix(entries, networks, range(7, 10), protocol, data or DataConfig(), "cpu", **changes)


def entry(synset, **changes):
    return ScoreRow("a", "distilled", (synset,), **changes)


def score(*entries, job=JOB, **changes):
    return Scorer(matrix(*entries, **changes)).score(job).value


def builder(work, classes=10, name=NAME):
    shape = {"channels": 1, "size": 8, "classes": classes}
    return lambda: zoo.build(name, **shape)


def feed(images, labels, work):
    """Stored images of a list of their own."""
    return Feed(Split(images, labels, np.arange(len(labels))), work.transform, CPU)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_accuracy_is_that_of_the_split(split, synset, work):
    part = getattr(work.dataset, split)
    images = feed(part.images[part.index], part.labels[part.index], work)
    expected = evaluate(synset, work.build, images, SHORT, work.augment, 7)
    assert score(entry(synset, split=split)) == expected
    expected = evaluate_real(work.feed(work.dataset.train), work.build, images, SHORT, work.augment, 7)
    assert score(entry(synset), ScoreRow("w", "whole", (), split=split), job=Job(1, NAME, 7)) == expected


def test_the_splits_give_other_accuracies(synset):
    """A test that the last one can fail."""
    assert score(entry(synset, split="test")) != score(entry(synset, split="validation"))


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("name", ["dsa", "none"])
def test_an_entry_may_go_without_augmentation(augmented, name, synset, work):
    """Without it the protocol's plain epochs count."""
    drawn = augment(name, flip=False) if augmented else augment("none")
    expected = evaluate(synset, work.build, work.feed(work.dataset.test), SHORT, drawn, 7)
    assert score(entry(synset, augment=augmented), data=DataConfig(augment=name)) == expected


@pytest.mark.parametrize("flip", [None, True])
def test_a_protocol_may_have_a_rule_of_its_own_for_images_that_are_augmented(flip, synset, work):
    """Digits are mirrored where that is asked for, and nowhere else."""
    protocol, data = SHORT.model_copy(update={"rule": "dsa_idc", "strategy": "color_flip_crop"}), DataConfig(flip=flip)
    seen = augment("dsa_idc", flip=bool(flip), strategy="color_flip_crop")
    wanted = evaluate(synset, builder(work), work.feed(work.dataset.test), protocol, seen, 7)
    assert score(entry(synset), protocol=protocol, data=data) == wanted
    plain = evaluate(synset, builder(work), work.feed(work.dataset.test), protocol, augment("none"), 7)
    assert score(entry(synset, augment=False), protocol=protocol, data=data) == plain


def places(labels, classes):
    """Rows whose class is one of these, and its place among them; counted out."""
    found = [(row, classes.index(label)) for row, label in enumerate(labels.tolist()) if label in classes]
    return [row for row, _ in found], [place for _, place in found]


@pytest.mark.parametrize("classes", [(3, 1), (1, 3), (9,), (0, 2, 4, 6, 8), tuple(range(10)), tuple(range(9, -1, -1))])
def test_a_restricted_set_has_the_images_of_its_classes_in_their_order(classes, synset):
    found = restrict_to_classes(synset, classes)
    rows, labels = places(synset.labels, classes)
    assert torch.equal(found.images, synset.images[rows])
    assert found.labels.dtype == synset.labels.dtype
    assert found.labels.tolist() == labels
    assert found.classes == tuple(synset.classes[label] for label in classes)
    assert found.ipc == 3


@pytest.mark.parametrize("classes", [(3, 1), (0, 2, 4, 6, 8)])
def test_of_soft_labels_the_columns_stay_and_the_largest_logit_says_whose_an_image_is(classes, soft, synset):
    found = restrict_to_classes(soft, classes)
    rows, _ = places(soft.labels.argmax(1), classes)
    assert torch.equal(found.images, soft.images[rows])
    assert found.labels.tolist() == [[soft.labels[row, label].item() for label in classes] for row in rows]
    assert rows != places(synset.labels, classes)[0]


@pytest.mark.parametrize("classes", [(3, 1), (8, 9, 0)])
def test_a_restricted_split_has_the_images_of_its_classes_in_their_order(classes, work):
    for part in (work.dataset.train, work.dataset.validation, work.dataset.test):
        found = select_classes(part, classes)
        rows, labels = places(part.targets, classes)
        assert torch.equal(found.take(np.arange(len(found))), part.take(np.array(rows)))
        assert found.targets.tolist() == labels
        assert found.targets.dtype == part.targets.dtype


@pytest.mark.parametrize("kind", ["hard", "soft", "mosaics"])
def test_a_training_on_some_classes_knows_only_these(kind, synset, soft, work):
    classes = (4, 0, 7)
    whole = {"hard": synset, "soft": soft, "mosaics": replace(synset, formation=Formation(2))}[kind]
    rows, labels = places(whole.hard_labels, classes)
    labels = whole.labels[rows][:, list(classes)] if kind == "soft" else torch.tensor(labels)
    names = tuple(whole.classes[label] for label in classes)
    part = replace(whole, images=whole.images[rows], labels=labels, classes=names)
    test = work.dataset.test
    rows, labels = places(test.targets, classes)
    images = feed(test.images[test.index][rows], np.array(labels), work)
    expected = evaluate(part, builder(work, 3), images, SHORT, work.augment, 7)
    assert score(entry(whole, classes=classes)) == expected
    assert expected != score(entry(whole))


def test_the_whole_data_of_some_classes(synset, work):
    classes = (4, 0, 7)
    feeds = []
    for part in (work.dataset.train, work.dataset.test):
        rows, labels = places(part.targets, classes)
        feeds.append(feed(part.images[part.index][rows], np.array(labels), work))
    expected = evaluate_real(feeds[0], builder(work, 3), feeds[1], SHORT, work.augment, 7)
    assert score(entry(synset), ScoreRow("w", "whole", (), classes=classes), job=Job(1, NAME, 7)) == expected


LRS = (1e-5, 0.3, 0.05, 3.0)


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("lrs", [LRS, LRS[::-1], LRS[:1]], ids=str)
def test_a_step_size_is_chosen_on_the_validation_images(split, lrs, synset, work):
    """By brute force: of every step size the accuracy on the validation images, of the best one that on the split."""

    def accuracy(part, lr):
        protocol = SHORT.model_copy(update={"lr": lr})
        images = work.feed(getattr(work.dataset, part))
        return evaluate(synset, work.build, images, protocol, work.augment, 7)

    held = [accuracy("validation", lr) for lr in lrs]
    best = lrs[held.index(max(held))]
    assert (best == lrs[0]) is (len(lrs) == 1)
    assert score(entry(synset, lrs=lrs, split=split)) == accuracy(split, best)


def test_every_network_chooses_for_itself_and_a_single_step_size_is_no_choice(synset, monkeypatch):
    taken = []

    def spy(synset, build, test, protocol, augment, seed, *watch):
        taken.append((len(test), protocol.lr, seed))
        return evaluate(synset, build, test, protocol, augment, seed, *watch)

    monkeypatch.setattr("raydd.evaluation.matrix.evaluate", spy)
    scorer = Scorer(matrix(entry(synset, lrs=(1e-5, 0.3)), entry(synset, lrs=(0.3,))))
    for seed in (7, 8):
        scorer.score(Job(0, NAME, seed))
    scorer.score(Job(1, NAME, 7))
    held, test = taken[0][0], taken[2][0]
    assert held != test
    choosing = [[(held, 1e-5, seed), (held, 0.3, seed), (test, 0.3, seed)] for seed in (7, 8)]
    assert taken == [*choosing[0], *choosing[1], (test, 0.3, 7)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lrs": (0.1, 0.2)}, "digits has no validation images of any class; hold some out with data.validation"),
        ({"split": "validation"}, "digits has no validation images of any class"),
        ({"split": "validation", "classes": (1, 2)}, r"digits has no validation images of classes \(1, 2\)"),
    ],
    ids=["lrs", "split", "classes"],
)
def test_nothing_is_chosen_or_measured_on_no_images(changes, words, synset):
    """An accuracy on none of them would be no number, of which every comparison is false."""
    with pytest.raises(ValueError, match=words) as caught:
        score(entry(synset, **changes), data=DataConfig(validation=0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_set_without_the_classes_trains_nothing(kind, synset, soft):
    whole = {"hard": synset, "soft": soft}[kind]
    rows = whole.hard_labels < 5
    part = replace(whole, images=whole.images[rows], labels=whole.labels[rows])
    with pytest.raises(ValueError, match=r"a set has no synthetic images of classes \(7, 8\)"):
        score(entry(part, classes=(7, 8)))


RUNGS = Rungs((2, 5), 2)


@pytest.mark.parametrize("network", [NAME, "ConvNetW8D2BN"])
@pytest.mark.parametrize("lrs", [(), (1e-5, 0.3)], ids=str)
def test_rungs_change_no_accuracy(network, lrs, synset):
    """Bit for bit, also where a network keeps running statistics."""
    row, job, asked = entry(synset, lrs=lrs), Job(0, network, 7), []
    plain = Scorer(matrix(row, networks=(network,))).score(job)
    watched = Scorer(matrix(row, networks=(network,), rungs=RUNGS))
    found = watched.score(job, lambda epoch, value: asked.append((epoch, value)) or True)
    assert found.value == plain.value == watched.score(job).value
    assert (plain.curve, plain.stopped) == ((), False)
    assert (found.curve, found.stopped) == (tuple(asked), False)
    assert [epoch for epoch, _ in asked] == [2, 5]
    assert watched.score(job).curve == found.curve


@pytest.mark.parametrize("stop", [2, 5])
def test_a_training_ends_at_the_rung_where_it_is_told_to(stop, synset, work):
    """What it comes to is what so many epochs come to: the step size does not fall here."""
    scorer = Scorer(matrix(entry(synset), rungs=RUNGS))
    found = scorer.score(JOB, lambda epoch, value: epoch < stop)
    test = work.feed(work.dataset.test)
    curve = [
        (epoch, evaluate(synset, work.build, test, SHORT.changed(epoch), work.augment, 7))
        for epoch in (2, 5)
        if epoch <= stop
    ]
    assert (found.curve, found.value, found.stopped) == (tuple(curve), curve[-1][1], True)
    assert scorer.score(JOB).value == score(entry(synset))


def test_whole_data_is_not_stopped_and_a_rung_at_the_end_is_none(synset):
    rows = entry(synset), ScoreRow("w", "whole", ())
    scorer = Scorer(matrix(*rows, protocol=SHORT.changed(real_epochs=3), rungs=Rungs((1, 12), 2)))

    def refuse(epoch, value):
        return epoch < 12

    whole, full = scorer.score(Job(1, NAME, 7), lambda epoch, value: False), scorer.score(JOB, refuse)
    assert (whole.curve, whole.stopped) == ((), False)
    assert ([epoch for epoch, _ in full.curve], full.stopped) == ([1], False)


def test_a_row_of_a_space_is_the_network_of_the_zoo(synset):
    """By its own name and by any other; the zoo's name of something else does not count."""
    row = ConvNetRow(8, 2, "batch", "leakyrelu", "max")
    names = str(row), "mine", "MLP"
    rows = dict.fromkeys(names, row)
    scorer = Scorer(matrix(entry(synset), networks=names, architectures=rows))
    expected = Scorer(matrix(entry(synset), networks=(str(row),))).score(Job(0, str(row), 7)).value
    assert [scorer.score(Job(0, name, 7)).value for name in names] == [expected] * 3
    assert score(entry(synset), job=Job(0, "MLP", 7)) != expected


def test_a_row_that_no_zoo_has_is_built_for_the_classes_asked(synset):
    """Four halvings of 8 pixels."""
    row = ConvNetRow(8, 4, "batch")
    with pytest.raises(ValueError, match="8x8"):
        zoo.build(str(row), channels=1, size=8, classes=2)
    rows = {"deep": row}
    found = score(entry(synset, classes=(0, 1)), networks=("deep",), architectures=rows, job=Job(0, "deep", 7))
    assert 0 <= found <= 1


@pytest.fixture
def opened(monkeypatch):
    """The feeds that are made, and the preprocessing of every workspace that is opened."""
    feeds, works = [], []

    class Counted(Feed):
        def __init__(self, split, transform, device):
            feeds.append((len(split), transform.hash))
            super().__init__(split, transform, device)

    def spy(data, network, device, transform):
        works.append(transform.hash)
        return open_workspace(data, network, device, transform)

    monkeypatch.setattr("raydd.data.workspace.Feed", Counted)
    monkeypatch.setattr("raydd.evaluation.matrix.open_workspace", spy)
    return feeds, works


def test_images_are_opened_once_for_all_jobs(synset, work, opened):
    """A feed a split, preprocessing and choice of classes, whatever the number of jobs."""
    feeds, works = opened
    raw = fit_transform("raw01", work.dataset)
    other = replace(synset, images=work.transform.inverse(synset.images), transform=raw)
    rows = [entry(synset), entry(synset, classes=(1, 2)), entry(other), ScoreRow("w", "whole", ())]
    scorer = Scorer(matrix(*rows, entry(synset, lrs=(0.1, 0.3)), networks=(NAME, "MLP")))
    first = [scorer.score(Job(row, network, 7)).value for row in range(5) for network in (NAME, "MLP")]
    sizes = len(work.dataset.train), len(work.dataset.validation), len(work.dataset.test)
    some = len(select_classes(work.dataset.test, (1, 2)))
    wanted = [(size, synset.transform.hash) for size in (sizes[2], some, sizes[0], sizes[1])]
    assert sorted(feeds) == sorted([*wanted, (sizes[2], raw.hash)])
    assert works == [synset.transform.hash, raw.hash]
    again = [scorer.score(Job(row, network, 7)).value for row in range(5) for network in (NAME, "MLP")]
    assert again == first
    assert (len(feeds), len(works)) == (5, 2)


def test_each_set_is_tested_on_images_of_its_own_preprocessing(synset, work):
    raw = open_workspace(DataConfig(), NAME, CPU, fit_transform("raw01", work.dataset))
    other = replace(synset, images=work.transform.inverse(synset.images), transform=raw.transform)
    found = score(entry(synset), entry(other), job=Job(1, NAME, 7))
    assert found == evaluate(other, raw.build, raw.feed(raw.dataset.test), SHORT, raw.augment, 7)
    whole = score(entry(other), entry(synset), ScoreRow("w", "whole", ()), job=Job(2, NAME, 7))
    train, test = raw.feed(raw.dataset.train), raw.feed(raw.dataset.test)
    assert whole == evaluate_real(train, raw.build, test, SHORT, raw.augment, 7)


def test_the_order_of_jobs_and_who_does_them_change_nothing(synset, soft):
    rows = matrix(entry(synset), entry(soft), entry(synset, lrs=(0.01, 0.1)), networks=(NAME, "MLP"))
    straight, turned = Scorer(rows), Scorer(rows)
    jobs = rows.jobs()[::2]
    found = {job: straight.score(job).value for job in jobs}
    torch.manual_seed(1)
    assert {job: turned.score(job).value for job in reversed(jobs)} == found
    assert {job: Scorer(rows).score(job).value for job in jobs[:2]} == {job: found[job] for job in jobs[:2]}
    assert len(set(found.values())) > len(jobs) // 2


def test_sets_belong_to_seeds_by_their_place(synset):
    sets = tuple(replace(synset, lr=torch.tensor(float(number + 1))) for number in range(2))
    found = matrix(ScoreRow("w", "whole", ()), ScoreRow("r", "random", sets))
    assert [found.set_of(Job(1, NAME, seed)) for seed in range(7, 10)] == [sets[0], sets[1], sets[0]]
    assert found.set_of(Job(0, NAME, 7)) is None
    assert found.first_set() is sets[0]


def test_an_outcome_tells_how_long_it_took(synset):
    found = Scorer(matrix(entry(synset))).score(JOB)
    assert found == Outcome(found.value, found.seconds, (), False)
    assert 0 < found.seconds < 60


def test_a_training_is_the_same_in_two_matrices_where_all_that_decides_it_is(synset, soft):
    whole = ScoreRow("whole", "whole", ())
    one, job, on_all = matrix(entry(synset), whole), JOB, Job(1, NAME, 7)
    copy = replace(synset, images=synset.images.clone(), recipe={"method": "another"})
    assert same_training(one, matrix(replace(entry(copy), name="b", kind="random"), whole), job)
    changed = synset.images.clone()
    changed[0, 0, 0, 0] += 1e-6
    others = [
        matrix(entry(replace(synset, images=changed))),
        matrix(entry(replace(synset, lr=torch.tensor(0.2)))),
        matrix(entry(soft)),
        matrix(entry(synset, augment=False)),
        matrix(entry(synset, split="validation")),
        matrix(entry(synset), protocol=SHORT.changed(13)),
        matrix(entry(synset), data=DataConfig(validation=0.2)),
        matrix(entry(synset), networks=("MLP",)),
        matrix(whole, entry(synset)),
        replace(matrix(entry(synset)), device="cuda"),
        replace(matrix(entry(synset)), seeds=range(8, 10)),
    ]
    assert [same_training(one, other, job) for other in others] == [False] * len(others)
    assert same_training(one, matrix(entry(soft), whole), on_all)
    assert not same_training(one, matrix(entry(soft)), on_all), "it has no such row"
    targets = matrix(entry(replace(soft, regression=True)), whole)
    assert not same_training(matrix(entry(soft), whole), targets, job)
    other = fit_transform("raw01", open_workspace(DataConfig(), NAME, CPU).dataset)
    assert not same_training(one, matrix(entry(replace(synset, transform=other)), whole), on_all)
