"""The parts of a distillation around its steps, for this process and for a worker of a cluster."""

import torch

from raydd.config.parsing import words
from raydd.config.schema import DistillConfig
from raydd.data.mirroring import distillation_mirrors, mirroring_note as mirror_words
from raydd.data.synset import SyntheticSet
from raydd.data.workspace import print_note, set_precision
from raydd.figures.synset_picture import grid, save_png
from raydd.io.console import Screen
from raydd.run.requirements import Need, distillation_need
from raydd.run.resolve import RunContext
from raydd.run.run import Run
from raydd.run.storage import RunStorage
from raydd.run.window_search import with_window


def prepare(context: RunContext, screen: Screen, workers: int = 1) -> tuple[RunContext, Need]:
    """Return a run with its window, and what it takes; refuse one whose ``workers`` do not fit on this machine."""
    config = context.config
    if distillation_mirrors(config):
        screen.once(mirror_words(config.data.dataset))
    print_note(context.work.dataset, screen)
    need = distillation_need(context, workers)
    torch.set_num_threads(config.threads or 1)
    set_precision(config.precision)
    return with_window(context, screen.note), need


def begin(run: Run, need: Need, storage: RunStorage, screen: Screen) -> None:
    """Save the run's first files, and say what it does."""
    storage.most_seconds = run.config.checkpoint_seconds or storage.most_seconds
    storage.save(run.saved)
    plain = DistillConfig()
    settings = words(run.config.model_copy(update={"preset": plain.preset}), beside=plain)
    path = storage.public(str(storage.folder / "config.yaml"))
    screen.note(f"preset {run.config.preset}: {settings} (all else as by default; {path} has everything)")
    screen.note(f"needs {need.words()}")
    if run.config.compile:
        screen.note("compile = true: each step waits for the compiler at its first use, half a minute or more")


def conclude(storage: RunStorage) -> SyntheticSet:
    """Return the set of a run that has ended; write its picture, and save the last files."""
    synset = SyntheticSet.load(storage.folder / "synset.arrow")
    save_png(grid(synset), storage.folder / "synset.png")
    storage.save_last()
    return synset
