"""One distillation in this process, from its settings to its files. Nothing here knows of Ray."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from raydd.config.parsing import words
from raydd.config.placement import Where
from raydd.config.schema import DistillConfig
from raydd.data.mirroring import distillation_mirrors, mirroring_note as mirror_words
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import print_note
from raydd.figures.synset_picture import grid, save_png
from raydd.io.console import Screen
from raydd.run.callbacks import follow
from raydd.run.requirements import distillation_need
from raydd.run.resolve import RunContext
from raydd.run.rollout_worker import StartWorkers
from raydd.run.run import Run
from raydd.run.storage import RunStorage
from raydd.run.window_search import with_window

Workers = Callable[[DistillConfig], AbstractContextManager[StartWorkers | None]]
"""Returns the workers of a run's rollouts for a block; None where this process makes them."""


def run_distillation(
    context: RunContext, storage: RunStorage, where: Where, screen: Screen, rollout_workers: Workers
) -> SyntheticSet:
    """Run a distillation, or the rest of it, and save its files to its storage as it goes."""
    config = context.config
    if distillation_mirrors(config):
        screen.once(mirror_words(config.data.dataset))
    print_note(context.work.dataset, screen)
    need = distillation_need(context, where)
    torch.set_num_threads(config.threads or 1)
    context = with_window(context, screen.note)
    storage.most_seconds = config.checkpoint_seconds or storage.most_seconds
    with rollout_workers(config) as start_workers:
        with screen.doing("preparing the run"):
            run = Run(context, start_workers)
        storage.save(run.saved)
        plain = DistillConfig()
        settings = words(run.config.model_copy(update={"preset": plain.preset}), beside=plain)
        path = storage.public(str(context.folder / "config.yaml"))
        screen.note(f"preset {config.preset}: {settings} (all else as by default; {path} has everything)")
        screen.note(f"needs {need.words()}")
        follow(run, screen, storage.save)
    synset = SyntheticSet.load(context.folder / "synset.arrow")
    save_png(grid(synset), context.folder / "synset.png")
    storage.save_last()
    return synset
