"""Which trainings an evaluation consists of, and what they come to.

Shapes: none; accuracies are fractions.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch

from raydd.buffer.arrow_buffer import ArrowBuffer
from raydd.config.schema import DataConfig, EvaluateConfig, ExpertConfig
from raydd.data.datasets import absolute_dataset
from raydd.data.mirroring import flips, stored_settings
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace, open_workspace
from raydd.evaluation.baselines import baselines, mosaics, open_experts
from raydd.evaluation.compatibility import check_fits
from raydd.evaluation.matrix import Entry, Job, Matrix, Outcome
from raydd.evaluation.protocols import find_protocol
from raydd.evaluation.robust import needed
from raydd.evaluation.robust_plan import OWN, Ground, components
from raydd.io.pulse import PULSE
from raydd.models.zoo import find
from raydd.selection.coresets import CORESETS
from raydd.selection.starting_images import ASKS_EXPERTS


def summarise(matrix: Matrix, results: Mapping[Job, Outcome]) -> list[dict[str, Any]]:
    """One record a row and network: mean and standard deviation (n - 1; None of one) over the seeds, as fractions."""
    records = []
    for index, entry in enumerate(matrix.entries):
        for network in matrix.networks:
            found = [results[Job(index, network, seed)] for seed in matrix.seeds_of(index)]
            values = [outcome.value for outcome in found]
            records.append(
                {
                    "name": entry.name,
                    "kind": entry.kind,
                    "dataset": Path(matrix.data.dataset).name,
                    "network": network,
                    "protocol": matrix.protocol.name,
                    "selection": entry.selection,
                    "ipc": entry.sets[0].ipc if entry.sets else None,
                    "networks": len(values),
                    "mean": statistics.fmean(values),
                    "std": statistics.stdev(values) if len(values) > 1 else None,
                    "values": values,
                    "seconds": statistics.fmean(outcome.seconds for outcome in found),
                    "commits": sorted({outcome.commit or "unknown" for outcome in found}),
                }
                | _special(entry, matrix.seeds_of(index))
            )
    return records


def _special(entry: Entry, seeds: Sequence[int]) -> dict[str, Any]:
    """What is not as usual: another split, no augmentation, a part of a robust score."""
    usual, words = Entry("", "", ()), ("split", "augment", "part", "of", "lrs", "asked")
    found = {word: getattr(entry, word) for word in words if getattr(entry, word) != getattr(usual, word)}
    if entry.part:
        found |= {"labels": entry.sets[0].label_kind if entry.sets else "hard", "seeds": list(seeds)}
    return found


def best_of_steps(records: Sequence[dict[str, Any]], steps: Mapping[str, int]) -> list[dict[str, Any]]:
    """The paper's number of each run and network, in place of those of the kept steps that it is chosen among on test.

    Args:
        records: Of `summarise`.
        steps: Of each kept set's row the outer step.

    Returns:
        The records; in place of the first step's of a run and network one named ``<name>, best of n steps on test``,
        with mean, standard deviation and values of the step with the highest mean (of equal ones the first), its
        ``step``, and ``steps``: ``step, mean, std, values`` of all.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        if record["name"] in steps:
            groups.setdefault((record["of"], record["network"]), []).append(record)
    found = []
    for record in records:
        if record["name"] not in steps:
            found.append(record)
        elif rows := groups.pop((record["of"], record["network"]), None):
            best = max(rows, key=lambda row: float(row["mean"]))
            told = [{"step": steps[row["name"]]} | {key: row[key] for key in ("mean", "std", "values")} for row in rows]
            name = f"{best['of']}, best of {len(rows)} steps on test"
            found.append(best | {"name": name, "step": steps[best["name"]], "steps": told})
    return found


def check_scoring(config: EvaluateConfig) -> None:
    """Refuse an unknown protocol, network or baseline, before anything is made that they shall score.

    Raises:
        ValueError: Naming it and those that are known.
    """
    find_protocol(config.protocol)
    for kind in config.baselines or ():
        if kind not in CORESETS:
            raise ValueError(f"unknown baseline {kind!r}; use some of {', '.join(CORESETS)}, or none")
    for network in config.networks:
        find(network)
    needed(config.scores, "logits")


def titles(synsets: Sequence[SyntheticSet], names: Sequence[str] | None = None) -> list[str]:
    """What the sets' rows are called, each differently: as given, else by method and ipc."""
    wanted = names or [f"{synset.recipe.get('method', 'set')}, {synset.ipc:g} a class" for synset in synsets]
    called: list[str] = []
    for name in wanted:
        numbered = (f"{name} ({number})" for number in count(2))
        called.append(next(title for title in chain([name], numbered) if title not in called))
    return called


def step_title(name: str, step: int) -> str:
    """What the row of a kept step is called."""
    return f"{name}, step {step}"


def plan(
    synsets: Sequence[SyntheticSet],
    names: Sequence[str] | None,
    config: EvaluateConfig,
    device: str,
    buffer: Path | None = None,
    kept: Sequence[Mapping[int, SyntheticSet]] = (),
) -> tuple[Matrix, Workspace]:
    """The trainings that score synthetic sets beside selections of real images and the whole data set.

    Args:
        synsets: The sets.
        names: What their rows are called; None takes method and ipc.
        config: Real images, networks, seeds, protocol.
        device: Where each worker trains.
        buffer: Experts that choose real images, and label random ones for robust scores; None chooses by pixels.
        kept: Of every set the sets of its run's kept steps, among which papers choose on test; empty scores none.

    Raises:
        ValueError: Unknown data set, network, protocol or score, or sets or experts that do not fit the images.
    """
    check_scoring(config)
    if buffer is not None:
        ArrowBuffer(buffer)  # it is one, before any image is decoded
    elif asking := ASKS_EXPERTS.intersection(config.baselines or ()):
        raise ValueError(
            f"--baselines {min(asking)} asks trained networks about the images; give experts with --buffer"
        )
    called, data = titles(synsets, names), _data(synsets, config)
    chosen = tuple(dict.fromkeys(config.networks)) or (
        str(synsets[0].provenance.get("network", ExpertConfig().network)),
    )
    for network in chosen:
        work = open_workspace(data, network, torch.device("cpu"), synsets[0].transform)
    asked = [_asked(title, synset, config) for title, synset in zip(called, synsets, strict=True)]
    steps = [
        Entry(step_title(row.name, step), row.kind, (synset,), "paper", of=row.name)
        for row, found in zip(asked, kept or [{}] * len(asked), strict=True)
        for step, synset in found.items()
    ]
    check_fits(((row.name, row.sets[0]) for row in (*asked, *steps)), work, named=config.dataset is not None)
    seeds = range(config.seed, config.seed + config.seeds)
    protocol = find_protocol(config.protocol).lasting(config.epochs, config.real_epochs)
    experts = None if buffer is None else open_experts(buffer, data, synsets, device)
    ground = Ground(work, seeds, protocol, experts)
    parts = [part for row in asked for part in components(row, dict.fromkeys(config.scores), ground)]
    with PULSE.doing("choosing real images"):
        entries = [*asked, *steps, *_beside(synsets, ground, config), *parts]
    distinct = titles((), [row.name for row in entries])  # a set may have the name of a selection
    rows = tuple(replace(row, name=name) for row, name in zip(entries, distinct, strict=True))
    return Matrix(rows, chosen, seeds, protocol, data, device), work


def _data(synsets: Sequence[SyntheticSet], config: EvaluateConfig) -> DataConfig:
    """The real images, as the sets' recipes have them where nothing else was asked for.

    Raises:
        ValueError: The sets were distilled with different augmentations, and none was asked for.
    """
    known = [_data_of(synset) for synset in synsets]
    kinds = dict.fromkeys(data.augment for data in known)
    if config.augment is None and len(kinds) > 1:
        raise ValueError(
            f"the sets were distilled with the augmentations {' and '.join(kinds)}, and one evaluation takes one; "
            f"say which, such as --set augment={next(iter(kinds))}"
        )
    if config.flip is None and len({flips(data) for data in known if (config.augment or data.augment) != "none"}) > 1:
        raise ValueError(
            "some of the sets were distilled with mirror images (data.flip) and others without, and one evaluation "
            "takes one; say which, such as --set flip=false"
        )
    given = config.model_dump(include={"dataset", "augment", "flip", "validation"}, exclude_none=True)
    data = known[0].model_copy(update=given)
    return data.model_copy(update={"dataset": absolute_dataset(data.dataset)})


def _data_of(synset: SyntheticSet) -> DataConfig:
    """The real images as a set's recipe has them, as far as it says."""
    if (found := synset.recipe.get("data")) is None:
        return DataConfig(dataset=synset.dataset)
    fields = {key: value for key, value in found.items() if key in DataConfig.model_fields}
    return DataConfig.model_validate(stored_settings(fields))


def _beside(synsets: Sequence[SyntheticSet], ground: Ground, config: EvaluateConfig) -> list[Entry]:
    """Selections of every size and preprocessing that the sets have, and the whole data."""
    groups = {(synset.ipc, synset.transform.hash): synset for synset in reversed(synsets)}
    cut = {(synset.ipc, synset.transform.hash, synset.formation): synset for synset in reversed(synsets)}
    several = len({hash_ for _, hash_ in groups}) > 1
    pairs = [
        (synset, baselines(synset, ground.work, ground.seeds, ground.experts, config.baselines))
        for synset in groups.values()
    ]
    pairs += [(synset, mosaics(synset, ground.work, ground.seeds, config.baselines)) for synset in cut.values()]
    entries = [
        replace(row, name=f"{row.name}, {synset.transform.kind}") if several else row
        for synset, rows in pairs
        for row in rows
    ]
    if epochs := ground.protocol.real_epochs:
        kind = f", {synsets[0].transform.kind}" if several else ""
        entries.append(Entry(f"whole data, {epochs} epoch{'s' * (epochs > 1)}{kind}", "whole", ()))
    return entries


def selection_of(synset: SyntheticSet) -> str:
    """How a set was chosen among the outer steps, as far as it says: ``honest`` or ``unknown``.

    The best files of other projects were chosen on test, as a rule, and do not say.
    """
    chosen = str(synset.provenance.get("chosen", ""))
    return "honest" if chosen.startswith("last ") or chosen.endswith("validation split") else "unknown"


def _asked(title: str, synset: SyntheticSet, config: EvaluateConfig) -> Entry:
    """The row of a set that was asked for; its kind is a coreset's name where nothing was learned, else distilled."""
    coreset = synset.recipe.get("match") == "nothing"
    kind = str(synset.recipe["method"]) if coreset else "distilled"
    row = Entry(title, kind, (synset,), selection_of(synset), asked=True)
    return replace(row, part=OWN, of=title) if config.scores else row
