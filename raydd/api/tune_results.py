"""The results of a search: the best trial, its scores on the test images, and the files."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from raydd.api.evaluate import evaluate, save_scores
from raydd.config.placement import Where
from raydd.config.schema import EvaluateConfig
from raydd.data.mirroring import stored_settings
from raydd.data.score_record import Score
from raydd.data.synset import SyntheticSet
from raydd.io.console import Screen
from raydd.tuning.best_trial import save_best, trial_synset
from raydd.tuning.figure_files import save_figures
from raydd.tuning.location import JOURNAL, Location
from raydd.tuning.results import AllTrialsFailed, Record, front, save_results, winner
from raydd.tuning.space import Space
from raydd.tuning.study import Study
from raydd.tuning.trial import SearchContext


@dataclass(frozen=True)
class Results:
    """The results of a search.

    Attributes:
        folder: The search folder; of a search at a URI, this node's copy of its files.
        space: The search space.
        trials: One record per trial.
        best: The trial with the best accuracy on validation images; None while none has reported.
        scores: Records of `raydd.evaluate` on the test images: the best trial, the preset's trial, and selections of
            real images.
        outputs: The files written, by name: paths, or URIs.
        grid: The `ray.tune.ResultGrid` of the trials that this call ran, with their last checkpoints; None where none
            was left.
    """

    folder: Path
    space: Space
    trials: tuple[Record, ...]
    best: Record | None
    scores: tuple[Score, ...]
    outputs: Mapping[str, Path | str]
    grid: Any = None

    @cached_property
    def synset(self) -> SyntheticSet:
        """The best trial's synthetic set."""
        return SyntheticSet.load(self.folder / "best" / "synset.arrow")

    @property
    def front(self) -> list[Record]:
        """The complete trials that no other trial beats in every metric."""
        return front(self.trials, self.space.directions)


def finish(
    context: SearchContext,
    study: Study,
    evaluation: EvaluateConfig | None,
    location: Location,
    where: Where,
    screen: Screen,
) -> Results:
    """Write the results, and score the best trial on the test images."""
    from raydd.remote.trial_storage import settle

    space, folder, records = context.space, location.folder, tuple(study.records())
    settle(folder, location.uri, (record.number for record in records if record.state != "failed"))
    best, scores = winner(records, space.directions), list[Score]()
    outputs = {"study": folder / JOURNAL, "results": save_results(records, folder / "results.parquet")}
    location.discard("scores.json")  # of an earlier call's best trial
    if best is not None:
        location.fetch_trial(best.number)
        outputs |= save_best(context, best, len(study.changes(best.number)))
    outputs |= save_figures(records, space, folder / "figures")
    location.send(outputs.values())
    if best is not None and evaluation is not None:
        scores = _score(context, records, best, evaluation, location, where, screen)
        outputs["scores"] = folder / "scores.json"
        save_scores(scores, outputs["scores"])
        location.send([outputs["scores"]])
    if records and all(record.state == "failed" for record in records):
        raise AllTrialsFailed(records)
    unfinished = sum(record.state == "unfinished" for record in records)
    if best is None:
        screen.note("no trial has reached its first score yet")
    if unfinished:
        screen.note(f"{unfinished} trials are unfinished: continue them with the same command and --resume")
    written = {name: location.output(path) for name, path in outputs.items()}
    return Results(folder, space, records, best, tuple(scores), written)


def _score(
    context: SearchContext,
    records: tuple[Record, ...],
    best: Record,
    evaluation: EvaluateConfig,
    location: Location,
    where: Where,
    screen: Screen,
) -> list[Score]:
    """Score the best trial on the test images, and beside it the preset's trial."""
    space, first = context.space, records[0]
    rows = {f"best: trial {best.number}": trial_synset(context, best.number)}
    if best.number and first.state == "complete" and first.values == space.preset_values():
        location.fetch_trial(0)
        rows[f"{'preset' if space.search.first == 'preset' else 'first'}: trial 0"] = trial_synset(context, 0)
    own = stored_settings(next(iter(rows.values())).recipe["data"])
    for key in ("augment", "flip"):  # all rows are scored with the augmentation of the best trial
        if getattr(evaluation, key) is None:
            evaluation = evaluation.model_copy(update={key: own[key]})
    return evaluate([*rows.values()], evaluation, names=[*rows], where=where, screen=screen)
