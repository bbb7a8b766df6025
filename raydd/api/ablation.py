"""What each part of a method brings: the same run with parts left out, every row scored alike."""

import re
from pathlib import Path
from typing import Any

from raydd.analysis.document import check_folder, save
from raydd.api.distill import distill
from raydd.api.evaluate import EVALUATION, evaluate
from raydd.api.experts import check_buffer
from raydd.config.parsing import build
from raydd.config.placement import HERE, Where, check_workers
from raydd.config.schema import DistillConfig, EvaluateConfig
from raydd.evaluation.scores import check_scoring
from raydd.figures.bars import draw_ablation
from raydd.io.console import Screen
from raydd.io.lock import alone
from raydd.methods import METHODS, complete
from raydd.run.resolve import check_names, check_settings, check_start

ABLATIONS = {name: method.ablation for name, method in METHODS.items() if method.ablation}
"""By method: the rows of its ablation, see `raydd.methods.method.Method`."""


def rows(config: DistillConfig) -> dict[str, DistillConfig]:
    """By name: the settings of each row of a method's ablation.

    A row that adds nothing, since the settings switch its part off, is left out.

    Raises:
        ValueError: There is no ablation of the method.
    """
    if config.method not in ABLATIONS:
        raise ValueError(f"--method {config.method}: no ablation is known; use one of {', '.join(ABLATIONS)}")
    table: dict[str, DistillConfig] = {}
    whole = complete(config).model_dump(exclude_unset=True)
    for name, part in ABLATIONS[config.method].items():
        row = build(DistillConfig, whole, part)
        if row not in table.values():
            table[name] = row
    return table


def ablate(
    config: DistillConfig,
    out: Path | str,
    evaluation: EvaluateConfig = EVALUATION,
    *,
    buffer: Path | str | None = None,
    where: Where = HERE,
    screen: Screen | None = None,
) -> list[dict[str, Any]]:
    """Distill a method's rows of `ABLATIONS`, score them in one evaluation, and draw them.

    The same call goes on where it was stopped.

    Args:
        config: The whole method.
        out: A folder; each row's run is one below it; ``ablation.json`` and ``ablation.png`` are written there.
        evaluation: Networks, seeds, protocol.
        buffer: The experts of all rows; None uses the cache's.
        where: Workers, cluster and device.
        screen: Where progress is told.

    Returns:
        The records of `raydd.evaluate`, the rows' named as in `ABLATIONS`.

    Raises:
        ValueError: There is no ablation of the method, a row cannot run, or was started with other settings.
    """
    screen, out = screen or Screen(), Path(out)
    check_scoring(evaluation)
    check_workers(where)
    check_buffer(buffer)
    for row in rows(config).values():
        check_names(row)
        if buffer is None:  # else a buffer says what its experts are
            check_start(row, row.experts.epochs)
            check_settings(row)
    check_folder(out)
    with alone(out, "raydd ablate", screen.note):
        return _ablate(config, out, evaluation, buffer, where, screen)


def _ablate(
    config: DistillConfig,
    out: Path,
    evaluation: EvaluateConfig,
    buffer: Path | str | None,
    where: Where,
    screen: Screen,
) -> list[dict[str, Any]]:
    sets = {}
    for name, row in rows(config).items():
        folder = out / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        screen.note(f"{name}: {folder}")
        sets[name] = distill(row, folder, buffer=buffer, resume=True, where=where, screen=screen)
    scores = evaluate([*sets.values()], evaluation, names=[*sets], where=where, screen=screen)
    save({"analysis": "ablation", "method": config.method, "scores": scores}, draw_ablation, out / "ablation.png")
    return scores
