"""Selections of real images: what is chosen, that it is chosen once, and what is refused."""

import shutil
from dataclasses import replace

import pytest
import torch
from toy_runs import train_buffer

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.convexified import convexify
from raydd.config.schema import DataConfig, ExpertConfig, ExpertsConfig
from raydd.data.preprocessing import fit_transform
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.baselines import MOSAIC_CLUSTERS, SCHEMA, baselines, mosaics, open_experts
from raydd.evaluation.protocols import Protocol
from raydd.evaluation.student import REAL_LR, evaluate, evaluate_real
from raydd.numerics.formation import Formation, encode
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Request, real
from raydd.selection.coresets import CORESETS

DATA = DataConfig(augment="none")
CPU = torch.device("cpu")
SLOW = ("kmeans", "herding", "kcenter")


@pytest.fixture(scope="module")
def work():
    return open_workspace(DATA, "ConvNetW8", CPU)


def synset(work, seed=0, ipc=2):
    images, labels = real(Request(work.dataset, work.transform, ipc, generator(seed)))
    return SyntheticSet(images, labels, torch.tensor(0.05), work.transform, "digits", work.dataset.classes)


def rows(entries):
    return [(entry.name, entry.kind, len(entry.sets)) for entry in entries]


def test_baselines_are_as_large_as_the_set_and_fresh_for_each_seed_where_drawn(work):
    start = synset(work, ipc=3)
    entries = baselines(start, work, range(2, 5))
    assert rows(entries) == [
        ("random, 3 a class", "random", 3),
        ("kmeans, 3 a class", "kmeans", 3),
        ("herding (pixels), 3 a class", "herding", 1),
        ("kcenter (pixels), 3 a class", "kcenter", 1),
    ]
    stored = work.transform(work.dataset.train.take(torch.arange(len(work.dataset.train)))).flatten(1)
    for entry in entries:
        for chosen in entry.sets:
            assert chosen.images.shape == start.images.shape
            assert torch.equal(chosen.labels, start.labels)
            assert (chosen.dataset, chosen.classes) == ("digits", start.classes)
            assert all(bool((image == stored).all(1).any()) for image in chosen.images.flatten(1))
    random = entries[0].sets
    assert not torch.equal(random[0].images, random[1].images)
    again = baselines(start, work, range(3, 4))
    assert torch.equal(again[0].sets[0].images, random[1].images)
    assert torch.equal(again[1].sets[0].images, entries[1].sets[1].images)


def test_random_and_kmeans_are_drawn_by_seed_and_name(work):
    entries = baselines(synset(work, ipc=3), work, range(2, 4))
    for entry in entries[:2]:
        for seed, chosen in zip((2, 3), entry.sets, strict=True):
            rng = generator(seed, "coreset", entry.kind)
            expected, _ = CORESETS[entry.kind](Request(work.dataset, work.transform, 3, rng, None))
            assert torch.equal(chosen.images, expected)


def test_with_experts_baselines_are_of_features_and_forgetting_joins(work, small_buffer):
    start = synset(work, ipc=3)
    experts = open_experts(small_buffer, DataConfig(), [start], "cpu")
    entries, plain = (baselines(start, work, range(2, 5), given) for given in (experts, None))
    assert rows(entries) == [
        ("random, 3 a class", "random", 3),
        ("kmeans, 3 a class", "kmeans", 3),
        ("herding (features), 3 a class", "herding", 1),
        ("kcenter (features), 3 a class", "kcenter", 1),
        ("forgetting, 3 a class", "forgetting", 1),
        ("glister, 3 a class", "glister", 1),
    ]
    for entry, before in zip(entries[:2], plain[:2], strict=True):
        assert all(torch.equal(a.images, b.images) for a, b in zip(entry.sets, before.sets, strict=True))
    for entry in entries[2:]:
        rng = generator(2, "coreset", entry.kind)
        expected, labels = CORESETS[entry.kind](Request(work.dataset, work.transform, 3, rng, experts))
        assert torch.equal(entry.sets[0].images, expected)
        assert torch.equal(entry.sets[0].labels, labels)
    assert not torch.equal(entries[2].sets[0].images, plain[2].sets[0].images)


def test_a_mosaic_stands_beside_as_many_real_images_as_it_stores(work):
    mosaics = replace(synset(work, ipc=2), formation=Formation(2))
    entries = baselines(mosaics, work, range(1))
    assert [len(entry.sets[0].images) for entry in entries] == [20] * 4
    assert all(entry.sets[0].formation.plain for entry in entries)


@pytest.mark.parametrize("decode", ["uniform", "multi", "bounded"])
def test_a_mosaic_stands_beside_mosaics_of_real_images_that_networks_see_alike(decode, work):
    own = replace(synset(work, ipc=2), formation=Formation(2, decode, 8))
    entries = mosaics(own, work, range(3, 5))
    assert rows(entries) == [
        ("random mosaics (2 x 2), 2 a class", "random-mosaic", 2),
        ("kmeans mosaics (2 x 2), 2 a class", "kmeans-mosaic", 2),
    ]
    for entry in entries:
        for seed, chosen in zip((3, 4), entry.sets, strict=True):
            kind = entry.kind.removesuffix("-mosaic")
            real_ones, _ = CORESETS[kind](
                Request(work.dataset, work.transform, 8, generator(seed, "coreset", kind), None)
            )
            assert torch.equal(chosen.images, encode(real_ones, 2))
            assert torch.equal(chosen.labels, own.labels)
            assert chosen.formation == own.formation
            assert chosen.decoded().images.shape == own.decoded().images.shape
            assert float(chosen.lr) == float(torch.tensor(REAL_LR))


def test_mosaics_are_of_the_kinds_that_were_named(work):
    own = replace(synset(work, ipc=2), formation=Formation(2))
    found = {kinds: [entry.kind for entry in mosaics(own, work, range(1), kinds)] for kinds in (("random",), (), SLOW)}
    assert found == {("random",): ["random-mosaic"], (): [], SLOW: ["kmeans-mosaic"]}
    assert mosaics(replace(own, formation=Formation(1)), work, range(1)) == []


def test_kmeans_makes_mosaics_while_its_clusters_are_few(work):
    sizes = {ipc: replace(synset(work, ipc=ipc), formation=Formation(2)) for ipc in (12, 13)}
    assert 12 * 4 <= MOSAIC_CLUSTERS < 13 * 4
    found = {ipc: [entry.kind for entry in mosaics(own, work, range(1))] for ipc, own in sizes.items()}
    assert found == {12: ["random-mosaic", "kmeans-mosaic"], 13: ["random-mosaic"]}


def test_mosaics_that_a_class_cannot_fill_are_refused_in_one_line(work):
    own = replace(synset(work, ipc=20), formation=Formation(3))
    with pytest.raises(ValueError, match=r"take 180 training images a class.*digits has 1\d\d; use --base") as caught:
        mosaics(own, work, range(1))
    assert "\n" not in str(caught.value)
    assert mosaics(own, work, range(1), ("herding", "kcenter")) == []


def test_experts_that_do_not_fit_are_refused_in_one_line(work, small_buffer, images, tmp_path):
    start = synset(work)
    other = replace(start, transform=fit_transform("raw01", work.dataset))
    straight, damaged = tmp_path / "straight", tmp_path / "damaged"
    convexify(small_buffer, straight, ())
    shutil.copytree(small_buffer, damaged)
    path = damaged / "expert-00001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    given = {
        "preprocessing_hash": (small_buffer, DATA, [start, other]),
        "is convexified .* give a full --buffer": (straight, DATA, [start]),
        "is damaged": (damaged, DATA, [start]),
        "fingerprint": (small_buffer, DataConfig(dataset=str(images), preprocessing="raw01"), [start]),
        "does not exist": (tmp_path / "none", DATA, [start]),
    }
    for words, (folder, data, sets) in given.items():
        with pytest.raises(ValueError, match=words) as caught:
            open_experts(folder, data, sets, "cpu")
        assert "\n" not in str(caught.value)


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """The images that are selected in a cache without selections."""
    chosen = []

    def counting(kind, select):
        def choose(request):
            chosen.append(kind)
            return select(request)

        return choose

    for kind, select in CORESETS.items():
        monkeypatch.setitem(CORESETS, kind, counting(kind, select))
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    return chosen


def pictures(entries):
    return {entry.name: [(chosen.images, chosen.labels) for chosen in entry.sets] for entry in entries}


def same(one, other):
    """Bit for bit, and of one layout in memory."""
    flat = [[tensor for row in found.values() for pair in row for tensor in pair] for found in (one, other)]
    return one.keys() == other.keys() and all(
        torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride() for a, b in zip(*flat, strict=True)
    )


def test_what_takes_long_is_chosen_once(work, small_buffer, counted):
    start = synset(work, ipc=3)
    experts = open_experts(small_buffer, DataConfig(), [start], "cpu")
    fresh = pictures(baselines(start, work, range(2, 5), experts))
    assert counted == ["random"] * 3 + ["kmeans"] * 3 + ["herding", "kcenter", "forgetting", "glister"]
    counted.clear()
    again = open_experts(small_buffer, DataConfig(), [start], "cpu")
    assert same(pictures(baselines(start, work, range(2, 5), again)), fresh)
    assert counted == ["random"] * 3
    counted.clear()
    baselines(start, work, range(4, 6), kinds=("kmeans",))
    assert counted == ["kmeans"], "seed 4 is there, and k-means asks no experts"


def other_images(work):
    """The same images, of which others are held out; the first three of every class may be the same."""
    return open_workspace(DATA.model_copy(update={"validation": 0.2}), None, CPU, work.transform)


CHANGES = {
    "ipc": lambda work, start: (synset(work, ipc=2), work, 5),
    "seed": lambda work, start: (start, work, 6),
    "rows": lambda work, start: (start, other_images(work), 5),
    "transform": lambda work, start: (replace(start, transform=fit_transform("raw01", work.dataset)), work, 5),
    "name": lambda work, start: (start, replace(work, dataset=replace(work.dataset, name="figures")), 5),
    "fingerprint": lambda work, start: (start, replace(work, dataset=replace(work.dataset, fingerprint="0")), 5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_decides_a_selection_is_part_of_its_key(change, work, counted):
    start = synset(work, ipc=3)
    baselines(start, work, range(5, 6), kinds=SLOW)
    counted.clear()
    other, ground, seed = CHANGES[change](work, start)
    found = pictures(baselines(other, ground, range(seed, seed + 1), kinds=SLOW))
    assert counted == list(SLOW)
    for kind, row in zip(SLOW, found.values(), strict=True):
        rng = generator(seed, "coreset", kind)
        expected = CORESETS[kind](Request(ground.dataset, other.transform, round(other.ipc), rng, None))
        assert all(torch.equal(a, b) for a, b in zip(row[0], expected, strict=True))


def test_the_version_and_the_schema_are_part_of_a_key(work, counted, monkeypatch):
    start = synset(work)
    baselines(start, work, range(1), kinds=SLOW)
    monkeypatch.setattr("raydd.evaluation.baselines.SCHEMA", SCHEMA + 1)
    baselines(start, work, range(1), kinds=SLOW)
    monkeypatch.setattr("raydd.evaluation.baselines.version", lambda package: f"{package} of another day")
    baselines(start, work, range(1), kinds=SLOW)
    assert counted == list(SLOW) * 3


def test_experts_that_are_asked_are_part_of_a_key(work, small_buffer, counted, tmp_path):
    """Fewer of them, others under the same numbers, or none."""
    start, kinds = synset(work), ("herding", "forgetting")
    experts = open_experts(small_buffer, DataConfig(), [start], "cpu")
    fewer = replace(experts, source=ArrowBuffer(small_buffer, most=1))
    recipe = ExpertConfig(network="MLP", num_experts=2, epochs=3)
    retrained = train_buffer(tmp_path / "buffer", ExpertsConfig(experts=recipe, seed=1))
    others = open_experts(retrained, DataConfig(), [start], "cpu")
    for asked in (experts, fewer, others):
        baselines(start, work, range(1), asked, kinds)
    assert counted == [*kinds] * 3
    baselines(start, work, range(1), kinds=kinds[:1])
    assert counted == [*kinds * 3, "herding"]


def test_experts_of_no_buffer_are_asked_every_time(work, small_buffer, counted):
    start = synset(work)
    experts = open_experts(small_buffer, DataConfig(), [start], "cpu")

    class Elsewhere:
        def __getattr__(self, name):
            return getattr(experts.source, name)

    asked = replace(experts, source=Elsewhere())
    for _ in range(2):
        baselines(start, work, range(1), asked, ("herding",))
    assert counted == ["herding"] * 2


def files(tmp_path):
    return sorted((tmp_path / "cache" / "coresets").iterdir())


def cut(path, other):
    path.write_bytes(path.read_bytes()[:-100])


def turned(path, other):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swapped(path, other):
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [cut, turned, swapped])
def test_a_damaged_selection_is_chosen_anew(damage, work, counted, tmp_path):
    start = synset(work)
    fresh = pictures(baselines(start, work, range(2), kinds=("kmeans",)))
    before = {path: path.read_bytes() for path in files(tmp_path)}
    first, second = before
    damage(first, second)
    assert same(pictures(baselines(start, work, range(2), kinds=("kmeans",))), fresh)
    assert counted == ["kmeans"] * 3
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


def test_random_images_are_drawn_and_not_kept(work, counted, tmp_path):
    baselines(synset(work), work, range(3), kinds=("random",))
    assert counted == ["random"] * 3
    assert not (tmp_path / "cache").exists()


def test_a_selection_that_asks_experts_is_not_left_out_silently(work, small_buffer, counted):
    start = synset(work)
    with pytest.raises(ValueError, match=r"^--baselines forgetting .*give experts with --buffer$") as caught:
        baselines(start, work, range(2), kinds=("kmeans", "forgetting"))
    assert "\n" not in str(caught.value)
    assert counted == [], "it is told before anything is chosen"
    assert "forgetting" not in [entry.kind for entry in baselines(start, work, range(2))]
    experts = open_experts(small_buffer, DataConfig(), [start], "cpu")
    assert [entry.kind for entry in baselines(start, work, range(2), experts, ("forgetting",))] == ["forgetting"]


@pytest.mark.parametrize("kinds", [None, ("random",)])
@pytest.mark.parametrize("count", [4, 15])
def test_a_set_without_a_whole_number_a_class_has_no_selections(count, kinds, work, counted):
    start = synset(work)
    start = replace(start, images=start.images[:count], labels=start.labels[:count])
    with pytest.raises(ValueError, match=rf"^a set has {count} images of 10 classes.* --baselines none$") as caught:
        baselines(start, work, range(2), kinds=kinds)
    assert "\n" not in str(caught.value)
    assert counted == []
    assert baselines(start, work, range(2), kinds=()) == []


def test_selections_bring_the_step_size_of_real_images(work):
    """That of networks trained on the whole data, where the protocol takes the set's."""
    entries = baselines(synset(work), work, range(2))
    assert {float(chosen.lr) for entry in entries for chosen in entry.sets} == {float(torch.tensor(REAL_LR))}
    protocol = Protocol(name="short", epochs=3, plain_epochs=3, real_epochs=2, lr=None)
    given = protocol.model_copy(update={"lr": REAL_LR})
    train, test = work.feed(work.dataset.train), work.feed(work.dataset.test)
    real_ones = [evaluate_real(train, work.build, test, lr, work.augment, 0) for lr in (protocol, given)]
    assert real_ones[0] == real_ones[1]
    own, fixed, other = (
        evaluate(entries[0].sets[0], work.build, test, lr, work.augment, 0)
        for lr in (protocol, given, protocol.model_copy(update={"lr": 0.5}))
    )
    assert own == fixed != other
