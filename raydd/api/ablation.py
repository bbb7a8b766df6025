"""Ablation of a method: the same run with parts left out, and every row scored alike."""

import re
from pathlib import Path

from raydd.analysis.document import check_folder, save
from raydd.api.distill import distill
from raydd.api.evaluate import EVALUATION, evaluate
from raydd.api.experts import check_buffer
from raydd.config.parsing import build
from raydd.config.placement import HERE, Where, check_workers
from raydd.config.schema import DistillConfig, EvaluateConfig
from raydd.data.score_record import Score
from raydd.evaluation.failures import MissingTrainings
from raydd.evaluation.scores import check_scoring
from raydd.figures.bars import draw_ablation
from raydd.io.console import Screen
from raydd.io.paths import below
from raydd.io.uri import is_uri, public_uri
from raydd.methods import METHODS, complete
from raydd.run.resolve import check_names, check_settings, check_start
from raydd.run.storage import open_storage

ABLATIONS = {name: method.ablation for name, method in METHODS.items() if method.ablation}
"""By method: the rows of its ablation, see `raydd.methods.method.Method`."""


def rows(config: DistillConfig) -> dict[str, DistillConfig]:
    """Return the settings of each row of a method's ablation, by name.

    A row equal to an earlier one is left out: the settings switch its part off.
    """
    if config.method not in ABLATIONS:
        raise ValueError(f"--method {config.method}: no ablation is known; use one of {', '.join(ABLATIONS)}")
    distinct: dict[str, DistillConfig] = {}
    given = complete(config).model_dump(exclude_unset=True)
    for name, part in ABLATIONS[config.method].items():
        row = build(DistillConfig, given, part)
        if row not in distinct.values():
            distinct[name] = row
    return distinct


def ablate(
    config: DistillConfig,
    out: Path | str,
    evaluation: EvaluateConfig = EVALUATION,
    *,
    buffer: Path | str | None = None,
    where: Where = HERE,
    screen: Screen | None = None,
) -> list[Score]:
    """Distill a method's rows of `ABLATIONS`, score them in one evaluation, and draw them.

    The folder or URI gets the rows' runs, ``ablation.json`` and ``ablation.png``. The same call continues where it
    stopped.

    Raises:
        MissingTrainings: Some trainings failed; its ``result`` has the scores of the others.
    """
    screen = screen or Screen()
    check_scoring(evaluation)
    check_workers(where)
    check_buffer(buffer)
    for row in rows(config).values():
        check_names(row)
        if buffer is None:  # else a buffer says what its experts are
            check_start(row, row.experts.epochs)
            check_settings(row)
    check_folder(out)
    with open_storage(out, "raydd ablate", screen.note) as storage:
        sets = {}
        for name, row in rows(config).items():
            stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
            place = below(str(out), stem) if is_uri(out) else Path(out) / stem
            screen.note(f"{name}: {public_uri(str(place))}")
            sets[name] = distill(row, place, buffer=buffer, resume=True, where=where, screen=screen)
        partial: MissingTrainings | None = None
        try:
            scores = evaluate([*sets.values()], evaluation, names=[*sets], where=where, screen=screen)
        except MissingTrainings as error:
            scores, partial = error.result, error
        document = {
            "analysis": "ablation",
            "method": config.method,
            "scores": [score.to_document() for score in scores],
            "missing": [one.to_document() for one in partial.missing] if partial else [],
        }
        save(document, draw_ablation, storage.folder / "ablation.png")
        storage.save_last()
        if partial:
            raise partial
        return scores
