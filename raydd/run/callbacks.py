"""Looking on while a run goes: the terminal, frames of the set, TensorBoard's event files. Nothing here changes it."""

from array import array
from contextlib import closing
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from raydd.distillation.loop import Step
from raydd.distillation.probe import memory
from raydd.figures.frames import FOLDER as FRAMES, drop_frames, frame_path, frame_steps, save_frame
from raydd.figures.text_graphics import spark, tiles
from raydd.io.console import Pace, Screen, left
from raydd.io.files import sweep
from raydd.run.run import Run
from raydd.run.tensorboard import FOLDER, Events


class Album:
    """The frames of a run, and its event files.

    What a killed run drew of steps that are taken again is drawn again, and so is what a rollback undoes.

    Args:
        run: The run, which has not taken a step yet.
        screen: Where it is told that something is missing.
    """

    def __init__(self, run: Run, screen: Screen) -> None:
        self._note = screen.note
        self._run, self._due, self._scored = run, frame_steps(run.config.steps), len(run.history)
        config = (run.folder / "config.yaml").read_text(encoding="utf-8")
        self._events = Events(run.folder / FOLDER, run.saved, config, screen.note)
        sweep(run.folder / FRAMES)
        drop_frames(run.folder, run.saved)
        if run.saved in self._due and not frame_path(run.folder, run.saved).exists():
            self._tell(run.saved, {})

    def turn(self, step: Step) -> None:
        """What there is to show after an outer step."""
        if step.rolled_back_to is not None:
            drop_frames(self._run.folder, step.rolled_back_to)
            self._events.go_back(step.rolled_back_to)
            return
        self._tell(step.step, {"loss": step.loss, "lr": step.lr} | self._new_score())

    def close(self) -> None:
        """No more steps will come."""
        if score := self._new_score():  # of a run without steps, or of one that is stopped after it
            self._events.add(self._run.history[-1]["step"], score)
        self._events.close()

    def _tell(self, step: int, scalars: dict[str, float]) -> None:
        picture: Path | None = None
        if step in self._due:
            try:
                picture = save_frame(self._run.folder, step, self._run.synset)
            except OSError as error:  # a picture less ends no run
                self._note(f"no frame of step {step}: {error}")
            held = memory(self._run.work.device)
            scalars |= {f"memory/{name}": value for name, value in held.items() if value is not None}
        self._events.add(step, scalars, picture)

    def _new_score(self) -> dict[str, float]:
        """The last score on the validation images, where it has not been told yet."""
        before, self._scored = self._scored, len(self._run.history)
        return {"accuracy/validation": self._run.history[-1]["mean"]} if self._scored > before else {}


def follow(run: Run, screen: Screen) -> None:
    """Take a run's steps, telling of each.

    Args:
        run: The run.
        screen: Where progress is told.

    Raises:
        FloatingPointError: The loss stays infinite or NaN; the checkpoint is kept.
    """
    config, losses = run.config, array("d")

    def look() -> RenderableType:
        return Group(Text(f"loss {spark(losses)}"), Text(), tiles(run.synset))

    with closing(Album(run, screen)) as album, screen.watch(f"{config.method}, ipc {config.ipc}", config.steps) as show:
        first, pace = None, Pace()
        for step in run.steps():
            first = step.step if first is None else first
            if step.rolled_back_to is not None:
                screen.note(f"step {step.step}: loss {step.loss}, rolled back to step {step.rolled_back_to}")
            album.turn(step)
            losses.append(step.loss)
            rest = left(pace.left(step.step - first + 1, config.steps - first + 1))
            show(step.step, f"loss {step.loss:.4f}, lr {step.lr:.2e} {rest}", look)
