"""Architecture search by proxy: how well training on a small set ranks architectures, compared with real data.

Reference: arXiv 2006.05929, section 4.3, and Cao et al. (DPD), section 4.5: the architectures of a space are trained on
a synthetic set, and their ranking is compared with that by training on all images.

Differs: the papers rank on the test images, which then choose the architecture. Here the proxy ranks on the validation
split, and the test images only measure the choice, unless ``split`` is ``test``.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raydd.analysis.document import Document, check_out, save
from raydd.api.trainings import driver_device, run_matrix
from raydd.buffer.local_path import local_path
from raydd.config.nas import NasConfig
from raydd.config.placement import HERE, Where, check_workers
from raydd.config.schema import EvaluateConfig
from raydd.data.score_record import Missing
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import Workspace
from raydd.evaluation.architecture_results import (
    Outcomes,
    RealRanking,
    epochs_text,
    proxy_result,
    rank_on,
    read_real,
    real_ranking,
    save_real,
)
from raydd.evaluation.failures import complete, separate
from raydd.evaluation.matrix import Matrix
from raydd.evaluation.scores import plan
from raydd.evaluation.successive_halving import Rungs
from raydd.figures.ranking import draw_ranking, ranking_csv
from raydd.io.console import Screen
from raydd.io.document import write_document
from raydd.io.files import write_atomic
from raydd.io.memory import keep_memory
from raydd.io.safe_yaml import parse_yaml
from raydd.io.uri import is_uri
from raydd.models.spaces import SPACES, ConvNetRow, Row, load_rows, nasbench201, sample
from raydd.numerics.rng import generator
from raydd.run.storage import open_storage
from raydd.selection.coresets import CORESETS
from raydd.selection.starting_images import NEED_EXPERTS

SEARCH = NasConfig()


def rank_architectures(
    synsets: Sequence[SyntheticSet],
    config: NasConfig = SEARCH,
    out: Path | str = "runs/nas",
    *,
    names: Sequence[str] | None = None,
    fresh: bool = False,
    where: Where = HERE,
    screen: Screen | None = None,
) -> Document:
    """Train architectures on proxy sets and on real data, and compare the rankings.

    Results are cached: the same call continues where it stopped, and other proxy sets reuse the ranking by real data.

    Args:
        synsets: The proxy sets.
        config: Architectures, protocol, real ranking.
        out: A folder or URI for ``nas.json``, ``ranking.csv``, ``nas.png``, and ``real.json`` if it is trained here.
        names: Names of the sets; None takes method and images per class.
        fresh: Run every training again.
        where: Workers, cluster and device.
        screen: Where progress is printed.

    Returns:
        The contents of ``nas.json``; see docs/nas.md.

    Raises:
        ValueError: In one line, before anything is trained: what is unknown, does not fit, or is missing.
        RuntimeError: Every architecture lacks a training.
        MissingTrainings: Some trainings failed: architectures without all of theirs are not ranked. Its ``result`` is
            the contents of ``nas.json``.

    Example: examples/rank_architectures.py (it starts a Ray).
    """
    screen = screen or Screen()
    keep_memory()
    check_workers(where)
    with open_storage(out, "raydd nas", screen.note) as storage:
        out = storage.folder
        space, rows = architectures(config)
        _check_flags(config)
        matrix, work = _plan(synsets, names, config, rows, driver_device(where))
        matrix, selection, doubts = rank_on(matrix, work.dataset, config.split)
        real = None if config.real in (None, "none") else read_real(local_path(config.real), list(rows), work.dataset)
        again = _check_folder(out, config)
        screen.note(f"{_title(config)}: {len(rows)} of {space} architectures; {_counts(matrix)}")
        if config.split == "test":
            screen.note("--split test: the proxy sets rank on the test images, as in papers; the choice has seen them")
        for doubt in doubts:
            screen.note(doubt)
        results = run_matrix(matrix, work.dataset, fresh=fresh, where=where, screen=screen)
        outcomes, missing = separate(matrix, results)
        matrix, real = _ranked(matrix, missing, real)
        if config.real is None:
            real = real_ranking(matrix, outcomes)
        document = _document(config, matrix, outcomes, real, (space, _epochs(matrix, work)))
        document |= {"selection": selection, "missing": [one.to_document() for one in missing]}
        _write(document, rows, out)  # first: it marks the folder's files as of this analysis
        if config.real is None and real is not None:
            save_real(real, out / "real.json", work.dataset)
        elif config.real == "none" and again:
            (out / "real.json").unlink(missing_ok=True)  # an earlier call's
        storage.save_last()
        return complete(document, missing, len(results))


def _ranked(matrix: Matrix, missing: Sequence[Missing], real: RealRanking | None) -> tuple[Matrix, RealRanking | None]:
    """Return the matrix and a given ranking by real data without the architectures that lack a training."""
    lacking = {one.network for one in missing}
    if not lacking:
        return matrix, real
    whole = tuple(name for name in matrix.networks if name not in lacking)
    if not whole:
        raise RuntimeError(f"no architecture has all of its trainings, so none is ranked: {missing[0].line}")
    if real is not None:
        real = replace(real, accuracy={name: real.accuracy[name] for name in whole})
    return replace(matrix, networks=whole), real


def architectures(config: NasConfig) -> tuple[int, dict[str, Row]]:
    """Return the size of the space, and the architectures that are ranked, by name and in its order.

    >>> size, rows = architectures(NasConfig(space="nasbench201", cells=1, sample=2))
    >>> size, len(rows), all(name.endswith(" N=1") for name in rows)
    (15625, 2, True)
    """
    name = config.space
    if config.cells is not None and name != "nasbench201":
        raise ValueError(f"--cells {config.cells}: {name} has no cells; leave it out, or use --space nasbench201")
    if name in SPACES:
        space: Sequence[Row] = SPACES[name] if config.cells is None else nasbench201(config.cells)
    elif Path(name).suffix in (".yaml", ".yml") or Path(name).exists():
        space = load_rows(name, parse_yaml)
    else:
        near = difflib.get_close_matches(name, SPACES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(SPACES)}, or a YAML file of rows"
        raise ValueError(f"unknown space {name!r}; {hint}")
    draws = generator(config.seed, "nas", _title(config))
    chosen = list(space) if config.sample is None else sample(space, config.sample, draws)
    return len(space), {str(row): row for row in chosen}


def _plan(
    synsets: Sequence[SyntheticSet], names: Sequence[str] | None, config: NasConfig, rows: dict[str, Row], device: str
) -> tuple[Matrix, Workspace]:
    """Return the trainings: every architecture on each proxy set, and on the whole data if its ranking is trained."""
    if config.real is not None and config.real_epochs is not None:
        raise ValueError(
            f"--real-epochs {config.real_epochs}: with --real {config.real} nothing is trained on real data"
        )
    for kind in NEED_EXPERTS.intersection(config.baselines):
        known = ", ".join(name for name in CORESETS if name not in NEED_EXPERTS)
        raise ValueError(f"--baselines {kind} needs experts; use some of {known}, or none")
    given = config.model_dump(include={"dataset", "seeds", "seed", "protocol", "epochs", "baselines"})
    budget = config.real_epochs if config.real is None else 0
    # Any data set fits an MLP; it is a placeholder for the architectures.
    scoring = EvaluateConfig(**given, networks=("MLP",), real_epochs=budget)
    matrix, work = plan(synsets, names, scoring, device)
    if config.real is None and not matrix.protocol.real_epochs:
        raise ValueError(f"protocol {config.protocol} has no epochs on real data; give --real-epochs, or --real none")
    if config.split == "validation" and not len(work.dataset.validation):
        raise ValueError(f"the validation split of {work.dataset.name} is empty: rank with --split test")
    rungs = _rungs(config, _epochs(matrix, work))
    return replace(matrix, networks=tuple(rows), architectures=rows, rungs=rungs), work


def _check_folder(out: Path, config: NasConfig) -> bool:
    """Return whether the folder has an earlier call's files, and refuse one with other files that would be replaced."""
    check_out(out / "nas.png", "nas")
    if not (again := (out / "nas.json").exists()):
        written = ("ranking.csv", "nas.png", *(["real.json"] if config.real is None else []))
        for path in (out / name for name in written):
            if path.exists():
                raise ValueError(f"{path} is not of this analysis and would be replaced; name another --out")
    return again


def _counts(matrix: Matrix) -> str:
    """Return the number of trainings in words."""
    proxies, seeds = sum(bool(row.sets) for row in matrix.rows), len(matrix.seeds)
    words = f"{proxies} proxy set{'s' * (proxies > 1)}{' and the whole data' * (proxies < len(matrix.rows))}"
    return f"{words}, {seeds} seed{'s' * (seeds > 1)}: {len(matrix.jobs())} trainings"


def _check_flags(config: NasConfig) -> None:
    """Refuse flags without effect and a missing file, before any image is decoded."""
    for flag, value in (("--first-rung", config.first_rung), ("--reduction", config.reduction)):
        if value is not None and not config.asha:
            raise ValueError(f"{flag} {value} stops nothing by itself: add --asha")
    if config.real not in (None, "none") and not is_uri(config.real) and not Path(config.real).exists():
        raise ValueError(
            f"--real {config.real}: No such file or directory; give a real.json, or CSV with architecture,accuracy"
        )


def _rungs(config: NasConfig, epochs: int) -> Rungs | None:
    if not config.asha:
        return None
    if epochs < 2:
        raise ValueError(
            f"--asha: a training of {epochs_text(epochs)} cannot be stopped early; give 2 --epochs or more"
        )
    reduction = config.reduction or 3
    # Rounded up: rounded down, a third rung just below the last epoch would save next to nothing.
    first = config.first_rung or math.ceil(epochs / reduction**2)
    return Rungs.geometric(epochs, first, reduction)


def _epochs(matrix: Matrix, work: Workspace) -> int:
    """Return the epochs of the shortest training on a proxy set."""
    protocols = [matrix.protocol.on(row.sets[0].dataset, row.sets[0].ipc) for row in matrix.rows if row.sets]
    return min(protocol.plain_epochs if work.augment.plain else protocol.epochs for protocol in protocols)


def _title(config: NasConfig) -> str:
    """Return the name of the space, on which a sample depends."""
    return config.space if config.space in SPACES else Path(config.space).stem


def _document(
    config: NasConfig, matrix: Matrix, outcomes: Outcomes, real: RealRanking | None, sizes: tuple[int, int]
) -> Document:
    """Return the contents of ``nas.json``; ``sizes`` are the space's, and the epochs of a training on a proxy set."""
    space, epochs = sizes
    tops = tuple(dict.fromkeys(config.top))
    return {
        "analysis": "nas",
        "space": _title(config),
        "architectures": len(matrix.networks),
        "space_size": space,
        "epochs": epochs,
        "dataset": Path(matrix.data.dataset).name,
        "protocol": matrix.protocol.name,
        "real_epochs": matrix.protocol.real_epochs if config.real is None else None,
        "split": config.split,
        "seeds": len(matrix.seeds),
        "seed": config.seed,
        "rungs": list(matrix.rungs.epochs) if matrix.rungs else [],
        "proxy_label": f"{epochs_text(epochs)} on the proxy set ({config.split} images)",
        "real": real and real.accuracy,
        "real_values": real and real.values,
        "real_label": real and real.label,
        "real_seconds": math.fsum(real.seconds.values()) if real and real.seconds else None,
        "real_seconds_of": real and real.seconds,
        "proxies": [
            proxy_result(matrix, outcomes, index, real, tops) for index, row in enumerate(matrix.rows) if row.sets
        ],
    }


def _write(document: Document, rows: dict[str, Row], out: Path) -> None:
    """Write ``nas.json``, ``ranking.csv``, and ``nas.png`` if there is a ranking by real data."""
    write_atomic(out / "ranking.csv", ranking_csv(document).encode())
    if document["real"] is None:
        write_document(out / "nas.json", document)
        (out / "nas.png").unlink(missing_ok=True)  # an earlier call's
        return
    norms = {
        name: f"{'no' if row.norm == 'none' else row.norm} norm"
        for name, row in rows.items()
        if isinstance(row, ConvNetRow)
    }
    save(document, lambda numbers: draw_ranking(numbers, norms), out / "nas.png")
