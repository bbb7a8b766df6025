"""Soft labels for a finished set: an expert's logits of its images."""

import json
from dataclasses import replace

import pytest
import torch

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.cli import run
from raydd.data.synset import SyntheticSet
from raydd.evaluation.relabel import RELABELLED, relabel
from raydd.models.zoo import build
from raydd.numerics.formation import Formation


@pytest.fixture(scope="module")
def source(small_buffer, small_synset):
    return SyntheticSet.load(small_synset), ArrowBuffer(small_buffer)


@pytest.mark.parametrize(("expert", "epoch"), [(0, None), (1, 2), (1, 0)])
def test_labels_are_the_experts_logits(source, expert, epoch):
    synset, buffer = source
    found = relabel(synset, buffer, epoch, expert)
    network = build("MLP", channels=1, size=8, classes=10)
    theta, start = buffer.snapshot(expert, buffer.epochs if epoch is None else epoch), 0
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(theta[start : start + parameter.numel()].view_as(parameter))
            start += parameter.numel()
        expected = network.eval()(synset.images)
    torch.testing.assert_close(found.labels, expected)
    assert torch.equal(found.images, synset.images)
    assert found.label_kind == "logits"
    assert found.provenance[RELABELLED] == f"expert {expert} after epoch {3 if epoch is None else epoch} (MLP)"


def test_what_cannot_be_labelled_is_refused(source):
    synset, buffer = source
    with pytest.raises(ValueError, match=r"--expert 2: .* has experts 0 to 1"):
        relabel(synset, buffer, expert=2)
    with pytest.raises(ValueError, match=r"--epoch 4: the experts of .* have epochs 0 to 3"):
        relabel(synset, buffer, 4)
    with pytest.raises(ValueError, match="the set has mosaics"):
        relabel(replace(synset, formation=Formation(2, "uniform")), buffer)
    other = replace(synset, transform=replace(synset.transform, kind="raw01", tensors={}))
    with pytest.raises(ValueError, match="preprocessing"):
        relabel(other, buffer)


def test_the_command_writes_a_set_that_is_read_again(source, small_synset, small_buffer, tmp_path, capfd):
    out = tmp_path / "soft.arrow"
    words = ["relabel", str(small_synset), "--experts", str(small_buffer), "--epoch", "2", "--out", str(out)]
    assert run([*words, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    written = SyntheticSet.load(out)
    assert torch.equal(written.labels, relabel(*source, 2).labels)
    agree = (written.labels.argmax(dim=1) == source[0].hard_labels).double().mean()
    assert document == {"images": 10, "agree": pytest.approx(float(agree)), "outputs": {"synset": str(out)}}
    assert run(words) == 2
    assert f"{out} exists already; name another --out" in capfd.readouterr().err
