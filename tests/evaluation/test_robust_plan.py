"""Which trainings robust scores add to an evaluation, and what comes of their accuracies."""

import math
from dataclasses import replace

import pytest
import torch

from raydd.api.trainings import first_equal_rows
from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.config.schema import DataConfig, EvaluateConfig
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import open_workspace
from raydd.evaluation.jobs import Outcome
from raydd.evaluation.robust_plan import LRS, robust_scores
from raydd.evaluation.scores import plan, summarise
from raydd.numerics.flat import FlatModel
from raydd.numerics.rng import generator
from raydd.selection.class_sampler import Request, real
from raydd.selection.coresets import CORESETS

ASKED = EvaluateConfig(seeds=2, networks=("MLP",), baselines=("random",), scores=("lrs", "ars"))
LRS_PARTS = ("whole_hard", "distilled_hard", "distilled_own", "random_own")
ARS_PARTS = ("distilled_own", "random_own", "distilled_plain", "random_plain")


def normalised(x):
    return (math.exp(x) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def label_robust_score(*, whole_hard, distilled_hard, distilled_own, random_own, weight=0.5):
    return normalised(weight * (distilled_own - random_own) - (1 - weight) * (whole_hard - distilled_hard))


def augmentation_robust_score(*, distilled_own, random_own, distilled_plain, random_plain, weight=0.5):
    return normalised(weight * (distilled_own - random_own) + (1 - weight) * (distilled_plain - random_plain))


@pytest.fixture(scope="module")
def work():
    return open_workspace(DataConfig(), "MLP", torch.device("cpu"))


@pytest.fixture(scope="module")
def hard(work):
    images, labels = real(Request(work.dataset, work.transform, 2, generator(0)))
    return SyntheticSet(images, labels, torch.tensor(0.05), work.transform, "digits", work.dataset.classes)


@pytest.fixture(scope="module")
def soft(hard):
    logits = torch.randn((20, 10), generator=generator(1))
    return replace(hard, labels=logits)


def planned(sets, config=ASKED, buffer=None):
    return plan(sets, None, config, "cpu", buffer)[0]


def parts(matrix):
    return {entry.part: entry for entry in matrix.rows if entry.part}


def test_without_scores_nothing_is_added(hard):
    matrix = planned([hard], ASKED.model_copy(update={"scores": ()}))
    assert [entry.kind for entry in matrix.rows] == ["distilled", "random", "whole"]
    assert parts(matrix) == {}


def test_trainings_of_a_hard_set(hard, work):
    matrix = planned([hard])
    found = parts(matrix)
    title = "set, 2 a class"
    assert list(found) == ["distilled_own", "whole_hard", "random_own", "distilled_plain", "random_plain"]
    assert {entry.of for entry in found.values()} == {title}
    assert found["distilled_own"] is matrix.rows[0]
    assert found["distilled_own"].name == title
    assert found["distilled_plain"].sets == (hard,)
    assert {name for name, entry in found.items() if not entry.augment} == {"distilled_plain", "random_plain"}
    assert {name for name, entry in found.items() if entry.lrs == LRS} == {"random_own", "random_plain"}
    assert {name for name, entry in found.items() if entry.lrs not in (LRS, ())} == set()
    assert found["whole_hard"].sets == ()
    assert found["random_own"].sets is found["random_plain"].sets
    for seed, chosen in enumerate(found["random_own"].sets):
        images, labels = CORESETS["random"](
            Request(work.dataset, hard.transform, 2, generator(seed, "coreset", "random"), None)
        )
        assert torch.equal(chosen.images, images)
        assert torch.equal(chosen.labels, labels)
    assert len({entry.name for entry in matrix.rows}) == len(matrix.rows)


def test_trainings_of_a_set_with_logits(soft, small_buffer):
    found = parts(planned([soft], buffer=small_buffer))
    assert list(found)[1:] == ["whole_hard", "distilled_hard", "random_own", "distilled_plain", "random_plain"]
    (learned,) = found["distilled_hard"].sets
    assert torch.equal(learned.labels, soft.labels.argmax(dim=1))
    assert learned.images is soft.images
    assert found["distilled_hard"].lrs == LRS
    assert (found["distilled_own"].lrs, found["distilled_plain"].lrs) == ((), ())
    assert found["distilled_plain"].sets == (soft,)
    assert {chosen.label_kind for chosen in found["random_own"].sets} == {"logits"}


def test_targets_of_a_regression_have_the_same_trainings_as_logits(soft, small_buffer):
    targets = replace(soft, regression=True)
    found, others = (parts(planned([one], buffer=small_buffer)) for one in (targets, soft))
    assert list(found) == list(others)
    assert found["distilled_own"].sets == (targets,)
    (hard,) = found["distilled_hard"].sets
    assert torch.equal(hard.labels, soft.labels.argmax(dim=1))
    assert not hard.regression
    for own, other in zip(found["random_own"].sets, others["random_own"].sets, strict=True):
        assert torch.equal(own.labels, other.labels)
        assert own.label_kind == "logits"


def test_only_what_a_score_needs_is_trained(soft, small_buffer):
    config = ASKED.model_copy(update={"scores": ("hlr",)})
    assert list(parts(planned([soft], config))) == ["distilled_own", "whole_hard", "distilled_hard"]
    config = ASKED.model_copy(update={"scores": ("ior",), "real_epochs": 0})
    assert list(parts(planned([soft], config, small_buffer))) == ["distilled_own", "random_own"]


def test_teachers_are_experts_after_their_last_epoch_drawn_by_seed(soft, small_buffer, work):
    config = ASKED.model_copy(update={"seeds": 6, "seed": 3})
    sets = parts(planned([soft], config, small_buffer))["random_own"].sets
    buffer, model = ArrowBuffer(small_buffer), FlatModel(work.build)
    chosen = []
    with torch.no_grad():
        for seed, random in zip(range(3, 9), sets, strict=True):
            answers = [model(buffer.snapshot(expert, 3), random.images) for expert in buffer.experts]
            (teacher,) = [place for place, answer in enumerate(answers) if torch.equal(answer, random.labels)]
            chosen.append(teacher)
            assert teacher == int(torch.randint(2, (), generator=generator(seed, "teacher")))
    assert set(chosen) == {0, 1}
    again = parts(planned([soft], config.model_copy(update={"seed": 4}), small_buffer))["random_own"].sets
    assert torch.equal(again[0].labels, sets[1].labels)


def test_a_protocol_with_a_step_size_is_not_tuned(soft, small_buffer):
    matrix = planned([soft], ASKED.model_copy(update={"protocol": "dm"}), small_buffer)
    assert {entry.lrs for entry in matrix.rows} == {()}


def test_a_row_that_is_another_ones_is_done_once(hard, work):
    matrix = planned([hard, replace(hard, lr=torch.tensor(0.2))], ASKED.model_copy(update={"protocol": "dm"}))
    names = [(entry.of and entry.of[-3:], entry.part or entry.kind) for entry in matrix.rows]
    first = {names[row]: names[same] for row, same in enumerate(first_equal_rows(matrix, work.dataset))}
    one, two = "ass", "(2)"  # ends of "set, 2 a class" and "set, 2 a class (2)"
    assert first[one, "whole_hard"] == first[two, "whole_hard"] == ("", "whole")
    assert first[one, "random_own"] == first[two, "random_own"] == ("", "random")
    assert first[two, "random_plain"] == first[one, "random_plain"] == (one, "random_plain")
    assert first[two, "distilled_own"] == (one, "distilled_own"), "the protocol has the step size"
    assert first[two, "distilled_plain"] == (one, "distilled_plain")
    learned = planned([hard, replace(hard, lr=torch.tensor(0.2))])
    plain = [row for row, entry in enumerate(learned.rows) if entry.part == "distilled_plain"]
    assert [first_equal_rows(learned, work.dataset)[row] for row in plain] == plain, "the sets' own step sizes differ"


def test_what_cannot_be_trained_is_refused_in_one_line(hard, soft):
    without = replace(hard, recipe={"data": {"validation": 0}})
    given = {
        "has soft labels, and a robust score of it needs a teacher's .* --buffer": ([soft], {}),
        "has targets of a regression, and a robust score .* --buffer": ([replace(soft, regression=True)], {}),
        "whole data, which real_epochs = 0 leaves out; .* --scores ior,ars": ([hard], {"real_epochs": 0}),
        "chosen on a validation split, and digits has none; use --protocol dm": ([without], {}),
        "unknown score 'LRS'; use one of hlr, ior, lrs, ars": ([hard], {"scores": ("LRS",)}),
    }
    for words, (sets, changes) in given.items():
        with pytest.raises(ValueError, match=words) as caught:
            planned(sets, ASKED.model_copy(update=changes))
        assert "\n" not in str(caught.value)
    matrix = planned([without], ASKED.model_copy(update={"protocol": "dm"}))
    assert "random_own" in parts(matrix), "nothing is chosen on a validation split"


def pretended(matrix):
    """Accuracies by hand: every row and seed has its own."""
    values = {}
    for job in matrix.jobs():
        part = matrix.rows[job.row].part or "other"
        network = 0.05 * matrix.networks.index(job.network)
        values[job] = Outcome(ACCURACIES[part] + 0.01 * (job.seed - 3) ** 2 + network, 1.0)
    return values


ACCURACIES = {
    "whole_hard": 0.9,
    "distilled_hard": 0.5,
    "distilled_own": 0.7,
    "random_own": 0.45,
    "distilled_plain": 0.6,
    "random_plain": 0.4,
    "other": 0.1,
}


@pytest.mark.parametrize("weight", [0.5, 0.8])
def test_scores_are_those_of_the_definition_seed_by_seed(weight, soft, small_buffer):
    config = ASKED.model_copy(update={"seeds": 3, "seed": 2, "networks": ("MLP", "LeNet")})
    matrix = planned([soft], config, small_buffer)
    found = robust_scores(summarise(matrix, pretended(matrix)), ("lrs", "ars"), weight)
    assert [(row.network, row.score) for row in found] == [
        ("MLP", "lrs"), ("MLP", "ars"), ("LeNet", "lrs"), ("LeNet", "ars"),
    ]  # fmt: skip
    for row in found:
        function, names = {"lrs": (label_robust_score, LRS_PARTS), "ars": (augmentation_robust_score, ARS_PARTS)}[
            row.score
        ]
        more = 0.05 * (row.network == "LeNet")
        by_hand = [
            function(**{name: ACCURACIES[name] + more + 0.01 * away for name in names}, weight=weight)
            for away in (1, 0, 1)
        ]
        assert row.values == pytest.approx(by_hand)
        assert row.mean == pytest.approx(sum(by_hand) / 3)
        assert (row.of, row.how, row.weight) == ("set, 2 a class", "by seed", weight)
        assert row.parts == {name: pytest.approx(ACCURACIES[name] + more + 0.02 / 3) for name in names}
        assert 0 <= row.mean <= 1
    # alpha = 0.5 (0.7 - 0.45) - 0.5 (0.9 - 0.5) = -0.075; (e^-0.075 - e^-1) / (e - e^-1)
    if weight == 0.5:
        assert found[0].mean == pytest.approx((0.9277435 - 0.3678794) / 2.3504024, abs=1e-6)


def test_a_hard_set_takes_its_own_row_for_its_hard_labels(hard):
    matrix = planned([hard, replace(hard, images=hard.images + 0.1)])
    records = summarise(matrix, pretended(matrix))
    found = robust_scores(records, ("lrs",))
    assert [row.of for row in found] == ["set, 2 a class", "set, 2 a class (2)"]
    given = {name: ACCURACIES[name] for name in LRS_PARTS} | {"distilled_hard": ACCURACIES["distilled_own"]}
    by_hand = [
        label_robust_score(**{name: value + 0.01 * (seed - 3) ** 2 for name, value in given.items()}) for seed in (0, 1)
    ]
    assert found[0].values == pytest.approx(by_hand)
    assert found[0].parts["distilled_hard"] == found[0].parts["distilled_own"]
    own = [record for record in records if record.part == "distilled_own"]
    assert [(record.labels, record.seeds) for record in own] == [("hard", (0, 1))] * 2


def test_a_score_that_was_not_asked_for_lacks_its_trainings(hard):
    matrix = planned([hard], ASKED.model_copy(update={"scores": ("ior",)}))
    records = summarise(matrix, pretended(matrix))
    assert robust_scores(records, ("ior",))[0].mean == pytest.approx(0.25)
    with pytest.raises(ValueError, match="there is no accuracy of whole_hard"):
        robust_scores(records, ("lrs",))
