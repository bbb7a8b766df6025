"""The quick start: experts, a distillation, its scores and a report on one Ray, one beside the other where they can."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

from raydd.api.distill import distill
from raydd.api.early_trainings import early_trainings
from raydd.api.evaluate import evaluate, save_scores
from raydd.api.experts import train_experts
from raydd.config.placement import Where
from raydd.config.schema import DistillConfig, EvaluateConfig, ExpertsConfig
from raydd.data.score_record import Score
from raydd.io.console import Screen
from raydd.io.loading import loading

EVALUATION = EvaluateConfig(epochs=300)
SCORES = "scores.json"


def quick_start(config: DistillConfig, folder: Path, out: str, where: Where, screen: Screen) -> list[Score]:
    """Train experts, distill a set and score it, and write all of it and a report to a folder.

    Args:
        config: The distillation, complete and checked.
        folder: The run folder; a second call continues there.
        out: What the user calls the folder, which may be a URI.
        where: Device and number of workers of a local Ray.
        screen: Shows progress.

    Returns:
        The scores of the set, of selections of real images and of all of them.
    """
    from raydd.remote.session import session  # no sooner: what is wrong is refused before Ray is loaded

    ended = (folder / SCORES).exists()  # then there is nothing to train, and Ray is not needed
    with ThreadPoolExecutor(1) as beside:
        loaded = beside.submit(_load_report)  # while Ray starts, which is mostly a wait
        with ExitStack() as stack:
            if not ended:
                stack.enter_context(session(None, screen.note))
            loaded.result()
            scores = _train_and_score(config, folder, out, where, screen, stack)
            save_scores(scores, folder / SCORES)
            page = beside.submit(_write_report, folder, out)  # while Ray ends
        with screen.doing("writing the report"):
            page.result()
    return scores


def _train_and_score(
    config: DistillConfig, folder: Path, out: str, where: Where, screen: Screen, stack: ExitStack
) -> list[Score]:
    """Return the scores; workers that outlast a step end with the stack."""
    from raydd.remote import connected

    experts = ExpertsConfig(data=config.data, experts=config.experts, seed=config.seed)
    buffer = train_experts(experts, folder / "buffer", where=where, screen=screen)
    if connected():
        with loading():
            from raydd.remote.training_workers import Early, early_workers

        early = Early(*early_trainings(config, folder, buffer, EVALUATION))
        screen.note(f"training {len(early.jobs)} networks on real images beside the distillation")
        stack.enter_context(early_workers(where, early))
    synset = distill(config, out, buffer=buffer, resume=True, where=where, screen=screen)
    return evaluate([synset], EVALUATION, where=where, screen=screen)


def _load_report() -> None:
    for name in ("raydd.report.build", "matplotlib.figure", "matplotlib.backends.backend_svg"):
        import_module(name)


def _write_report(folder: Path, out: str) -> None:
    from raydd.report.build import write_report

    write_report([folder], folder / "report.html", [out])
