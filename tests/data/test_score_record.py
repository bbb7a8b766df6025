"""Score records and their JSON: what every version has written is read, and written alike."""

import json

import pytest

from raydd.data.score_record import Comparison, RobustScore, Score, StepScore, table_rows
from raydd.io.document import validate

PLAIN = {
    "name": "mtt, 1 a class",
    "kind": "distilled",
    "dataset": "digits",
    "network": "MLP",
    "protocol": "mtt",
    "selection": "honest",
    "ipc": 1.0,
    "networks": 2,
    "mean": 0.5,
    "std": 0.1,
    "values": [0.4, 0.6],
    "seconds": 1.5,
    "commits": ["abc"],
}
SPECIAL = {"asked": True, "part": "distilled_own", "of": "mtt, 1 a class", "labels": "hard", "seeds": [3, 4]}
TUNED = {"split": "validation", "augment": False, "lrs": [0.01, 0.1], "part": "random_plain", "of": "mtt, 1 a class"}
WHOLE = PLAIN | {"kind": "whole", "ipc": None, "std": None, "networks": 1, "values": [0.5]}


@pytest.mark.parametrize("document", [PLAIN, PLAIN | SPECIAL, PLAIN | TUNED, PLAIN | {"step": 4}, WHOLE])
def test_a_document_is_written_as_it_was_read(document):
    score = validate(Score, json.loads(json.dumps(document)))
    assert score.to_document() == document
    assert validate(Score, score.to_document()) == score


def test_documents_of_earlier_versions_lack_what_they_did_not_know():
    score = validate(Score, {key: PLAIN[key] for key in PLAIN if key not in ("ipc", "seconds", "commits")})
    assert (score.ipc, score.seconds, score.commits, score.requested) == (None, None, (), False)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"mean": 1.5}, "mean: .*less than or equal to 1"), ({"values": "0.5"}, "values: "), ({"std": "0"}, "std: ")],
)
def test_damaged_documents_are_refused_by_key(change, words):
    with pytest.raises(ValueError, match=words):
        validate(Score, PLAIN | change)


def test_steps_are_no_part_of_a_scores_document():
    step = StepScore(step=4, mean=0.5, std=None, values=(0.5,))
    score = validate(Score, PLAIN).model_copy(update={"steps": (step,), "step": 4})
    assert score.to_document() == PLAIN | {"step": 4}


def test_a_table_has_no_trainings_that_only_a_robust_score_needs():
    plain, own, part = (validate(Score, document) for document in (PLAIN, PLAIN | SPECIAL, PLAIN | TUNED))
    other = part.model_copy(update={"of": "another"})
    assert table_rows([plain, own, other]) == [plain, own]


def test_a_single_network_has_no_spread():
    assert validate(Score, PLAIN).spread == 0.1
    assert validate(Score, WHOLE | {"std": 0.0}).spread is None


def test_what_networks_were_trained_on_in_words():
    kinds = ("distilled", "whole", "random")
    words = [validate(Score, PLAIN | {"kind": kind}).source for kind in kinds]
    assert words == ["synthetic images", "all real images", "real images, random"]


def test_comparisons_and_robust_scores_keep_their_keys():
    test = {"network": "MLP", "first": "a", "second": "b", "difference": 0.1, "low": None, "high": None, "p": None}
    test |= {"method": "welch", "freedom": None, "counts": [2, 1], "best_baseline": True, "p_adjusted": None}
    assert validate(Comparison, test).to_document() == test
    robust = {"of": "a", "network": "MLP", "score": "lrs", "mean": 0.2, "std": 0.1, "values": [0.1, 0.3]}
    robust |= {"how": "by seed", "weight": 0.5, "parts": {"whole_hard": 0.9}}
    assert validate(RobustScore, robust).to_document() == robust
