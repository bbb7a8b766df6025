"""Ablation of a method: the same run with parts left out, and every row scored alike."""

import re
from pathlib import Path

from raydd.analysis.document import check_folder, save
from raydd.api.evaluate import EVALUATION, evaluate
from raydd.api.verbs import HERE, Where, check_buffer, check_workers, distill
from raydd.config.parsing import Tree, build
from raydd.config.schema import DistillConfig, EvaluateConfig
from raydd.data.score_record import Score
from raydd.evaluation.scores import check_scoring
from raydd.figures.bars import draw_ablation
from raydd.io.console import Screen
from raydd.io.lock import alone
from raydd.methods import complete
from raydd.run.resolve import check_names, check_settings

ABLATIONS: dict[str, dict[str, Tree]] = {
    "tgdd": {
        "DM": {"formation": {"factor": 1}, "statistic": {"networks": "random", "alpha": 0.0}},
        "+ multi-formation": {"statistic": {"networks": "random", "alpha": 0.0}},
        "+ stage-wise matching": {"statistic": {"alpha": 0.0}},
        "+ stage-wise constraint": {},
    },
    "ast": {
        "MTT on smooth experts": {"initial": "real", "balance": None, "intermediate": "none", "perturbation": 0.0},
        "+ representative start": {"balance": None, "intermediate": "none", "perturbation": 0.0},
        "+ balanced loss": {"intermediate": "none", "perturbation": 0.0},
        "+ intermediate matching": {"perturbation": 0.0},
        "+ perturbation": {},
    },
}
"""By method: the settings that each row changes; the last row is the whole method.

TGDD: Ran et al., Table 4. AST: Shen et al., arXiv 2310.10541, Table VIII.
"""


def rows(config: DistillConfig) -> dict[str, DistillConfig]:
    """Return the settings of each row of a method's ablation, by name.

    A row equal to an earlier one is left out: the settings switch its part off.

    Raises:
        ValueError: The method has no ablation.
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

    The same call continues where it stopped.

    Args:
        config: The whole method.
        out: A folder for the rows' runs, ``ablation.json`` and ``ablation.png``.
        evaluation: Networks, seeds, protocol.
        buffer: The experts of all rows; None uses the cache's.
        where: Workers, cluster and device.
        screen: Where progress is printed.

    Returns:
        The scores of `raydd.evaluate`; the rows are named as in `ABLATIONS`.

    Raises:
        ValueError: The method has no ablation, or a row cannot run or was started with other settings.
    """
    screen, out = screen or Screen(), Path(out)
    check_scoring(evaluation)
    check_workers(where)
    check_buffer(buffer)
    for row in rows(config).values():
        check_names(complete(row))
        if buffer is None:  # else a buffer decides the experts
            check_settings(complete(row))
    check_folder(out)
    with alone(out, "raydd ablate", screen.note):
        sets = {}
        for name, row in rows(config).items():
            folder = out / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
            screen.note(f"{name}: {folder}")
            sets[name] = distill(row, folder, buffer=buffer, resume=True, where=where, screen=screen)
        scores = evaluate([*sets.values()], evaluation, names=[*sets], where=where, screen=screen)
        records = [score.to_document() for score in scores]
        save({"analysis": "ablation", "method": config.method, "scores": records}, draw_ablation, out / "ablation.png")
        return scores
