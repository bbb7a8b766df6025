"""Soft labels for a finished set: the logits of an expert."""

from dataclasses import replace

import torch

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.buffer.expert_model import expert_model
from raydd.data.synset import SyntheticSet
from raydd.models.zoo import build
from raydd.numerics.flat import FlatModel

RELABELLED = "relabelled"
"""Key of a set's provenance: the expert and the epoch that its labels are from."""
_BATCH = 256


def relabel(synset: SyntheticSet, buffer: ArrowBuffer, epoch: int | None = None, expert: int = 0) -> SyntheticSet:
    """Return a set whose labels are an expert's logits (N, K) of its images.

    Args:
        synset: The set, of single images.
        buffer: Experts on the same images and preprocessing.
        epoch: After which epoch the expert is asked; the last by default.
        expert: Which expert.

    Raises:
        ValueError: The experts are of other data, there is no such expert or epoch, or the set has mosaics.

    Reference:
        Guo et al., arXiv 2310.05773 (DATM), Table 3, which assigns soft labels to sets of FTD.
    """
    if not synset.formation.plain:
        raise ValueError(
            "the set has mosaics or styles, and networks see several images of each stored one; labels are for single "
            "images"
        )
    buffer.expect(preprocessing_hash=synset.transform.hash)
    if expert not in buffer.experts:
        raise ValueError(f"--expert {expert}: {buffer.folder} has experts {buffer.experts[0]} to {buffer.experts[-1]}")
    at = buffer.epochs if epoch is None else epoch
    if not 0 <= at <= buffer.epochs:
        raise ValueError(f"--epoch {at}: the experts of {buffer.folder} have epochs 0 to {buffer.epochs}")
    channels, size = synset.images.shape[1], synset.images.shape[-1]
    model = FlatModel(lambda: build(buffer.spec.network, channels=channels, size=size, classes=len(synset.classes)))
    teacher = expert_model(model, buffer, expert, at)
    with torch.no_grad():
        logits = torch.cat([teacher.logits(images) for images in synset.images.split(_BATCH)])
    source = f"expert {expert} after epoch {at} ({buffer.spec.network})"
    return replace(synset, labels=logits, regression=False, provenance=dict(synset.provenance) | {RELABELLED: source})
