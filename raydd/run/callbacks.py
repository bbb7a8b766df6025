"""Progress of a run: on the terminal, as frames of the set, and as TensorBoard's event files."""

from array import array
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from raydd.distillation.loop import Step
from raydd.figures.frames import FOLDER as FRAMES, drop_frames, frame_path, frame_steps, save_frame
from raydd.figures.text_graphics import spark, tiles
from raydd.io.console import Pace, Screen, left
from raydd.io.files import sweep
from raydd.run.requirements import memory_use
from raydd.run.run import Run
from raydd.run.tensorboard import FOLDER, Events


class Recorder:
    """Writes the frames and the event files of a run; those of steps that are taken again are replaced."""

    def __init__(self, run: Run, screen: Screen) -> None:
        self._note = screen.note
        self._run, self._due, self._scored = run, frame_steps(run.config.steps), len(run.history)
        config = (run.context.folder / "config.yaml").read_text(encoding="utf-8")
        self._events = Events(run.context.folder / FOLDER, run.saved, config, screen.note)
        sweep(run.context.folder / FRAMES)
        drop_frames(run.context.folder, run.saved)
        if run.saved in self._due and not frame_path(run.context.folder, run.saved).exists():
            self._record(run.saved, {})

    def record(self, step: Step) -> None:
        """Record an outer step."""
        if step.rolled_back_to is not None:
            drop_frames(self._run.context.folder, step.rolled_back_to)
            self._events.go_back(step.rolled_back_to)
            return
        self._record(step.step, {"loss": step.loss, "lr": step.lr} | self._new_score())

    def close(self) -> None:
        """Close the event file."""
        if score := self._new_score():  # of a run without steps, or of one that stopped right after a score
            self._events.add(self._run.history[-1]["step"], score)
        self._events.close()

    def _record(self, step: int, scalars: dict[str, float]) -> None:
        picture: Path | None = None
        if step in self._due:
            try:
                picture = save_frame(self._run.context.folder, step, self._run.synset)
            except OSError as error:  # a missing frame ends no run
                self._note(f"no frame of step {step}: {error}")
            used = memory_use(self._run.context.work.device)
            scalars |= {f"memory/{name}": value for name, value in used.items() if value is not None}
        self._events.add(step, scalars, picture)

    def _new_score(self) -> dict[str, float]:
        """The last score on the validation images, where it is new."""
        before, self._scored = self._scored, len(self._run.history)
        return {"accuracy/validation": self._run.history[-1]["mean"]} if self._scored > before else {}


def follow(run: Run, screen: Screen, save: Callable[[int], None] = lambda step: None) -> None:
    """Take a run's steps, and show and record each; ``save`` gets the step of the last checkpoint after each."""
    config, losses = run.config, array("d")

    def picture() -> RenderableType:
        return Group(Text(f"loss {spark(losses)}"), Text(), tiles(run.synset))

    with (
        closing(Recorder(run, screen)) as recorder,
        screen.watch(f"{config.method}, ipc {config.ipc}", config.steps) as show,
    ):
        first, pace = None, Pace()
        for step in run.steps():
            first = step.step if first is None else first
            if step.rolled_back_to is not None:
                screen.note(f"step {step.step}: loss {step.loss}, rolled back to step {step.rolled_back_to}")
            recorder.record(step)
            save(run.saved)
            losses.append(step.loss)
            rest = left(pace.left(step.step - first + 1, config.steps - first + 1))
            show(step.step, f"loss {step.loss:.4f}, lr {step.lr:.2e} {rest}", picture)
