"""What a distillation's folder holds, read for its page; a run that is not finished is read as far as it came.

Shapes: none.
"""

import hashlib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from raydd.data.progress import is_unfinished
from raydd.data.synset import SyntheticSet
from raydd.distillation.checkpoint import AGAIN, LOGS, load_checkpoint
from raydd.io.bounded_file import read_text
from raydd.io.document import Document, Whole, read_document, read_log, remove_text_checksum
from raydd.io.safe_yaml import parse_yaml
from raydd.report.documents import Score
from raydd.report.scores import is_scored, read_scores

Record = dict[str, Any]
NOT_RECORDED = "not recorded"
_STEP = re.compile(r"outer step ([0-9]+)")


class TrialDocument(Document):
    """A trial of a window."""

    low: Whole
    high: Whole
    before: tuple[float | None, ...]
    after: tuple[float | None, ...]
    missed: tuple[Whole, ...] = ()


class WindowDocument(Document):
    """The window that was found, and the trials that led there."""

    low: Whole
    current: Whole
    high: Whole
    trials: tuple[TrialDocument, ...]


@dataclass(frozen=True)
class RunFolder:
    """A distillation's files.

    Attributes:
        path: The folder, or the file of a set that stands alone.
    """

    path: Path

    @property
    def folder(self) -> Path | None:
        """The folder; None of a file that stands alone."""
        return self.path if self.path.is_dir() else None

    @property
    def name(self) -> str:
        """What the run is called: its folder's name."""
        return self.path.absolute().name

    @cached_property
    def synset(self) -> SyntheticSet | None:
        """The result; None of a run that is not finished.

        Raises:
            ValueError: The file is damaged.
        """
        file = self.path / "synset.arrow" if self.folder else self.path
        return SyntheticSet.load(file) if file.is_file() else None

    @property
    def home(self) -> str:
        """Where the run is, as a command can name it."""
        return str(self.path if self.path.name not in ("", "..") else self.path.resolve())

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        if self.synset is None or is_unfinished(self.synset):
            return False
        steps = self.synset.recipe.get("steps")  # of a finished run that goes on to more steps, they differ
        return bool(self.setting("steps", steps) == steps)

    @cached_property
    def settings_text(self) -> str:
        """``config.yaml`` as it is; of a set that stands alone the settings it carries."""
        file = self.path / "config.yaml"
        if os.path.lexists(file):
            try:
                text = read_text(file)
                remove_text_checksum(text)
                return text
            except (ValueError, OSError) as error:
                raise ValueError(f"{file} holds no settings ({error}); restore it, or {AGAIN}") from None
        return str(yaml.safe_dump(self.synset.recipe, sort_keys=False)) if self.synset and self.synset.recipe else ""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings, nested; a run of another version may have more or fewer.

        Raises:
            ValueError: The file is no YAML of settings.
        """
        try:
            found = parse_yaml(self.settings_text) or {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{self.path / 'config.yaml'} holds no settings; restore it, or distill the run again")
        return found

    def setting(self, name: str, usual: Any = None) -> Any:
        """A setting by its dotted name."""
        value: Any = self.settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return usual if value is None else value

    @cached_property
    def records(self) -> list[Record]:
        """``metrics.jsonl`` by outer step: ``step, loss, lr, stepped``; of a step that was repeated the last."""
        return self._by_step("metrics.jsonl")

    @cached_property
    def rollbacks(self) -> int:
        """How often the run went back to an earlier step, since its loss was not finite."""
        return sum("rolled_back_to" in record for record in self._lines("metrics.jsonl"))

    @cached_property
    def memory(self) -> list[Record]:
        """``memory.jsonl``: ``step, resident_mb, device_mb``."""
        return self._by_step("memory.jsonl")

    @cached_property
    def probes(self) -> list[Record]:
        """``probe.jsonl``: ``step, losses, label_std``; empty where the run looked at no expert."""
        return self._by_step("probe.jsonl")

    @cached_property
    def history(self) -> list[Record]:
        """Scores on the validation split: ``step, split, networks, mean``; of an unfinished run from its checkpoint."""
        if self.synset is not None:
            return list(self.synset.history)
        state = self.path / "checkpoint" / "state.arrow"
        return load_checkpoint(state).log["history"] if state.exists() else []

    @cached_property
    def search(self) -> dict[str, Any] | None:
        """``window.json``: the trials that found the window; None where it was given."""
        file = self.path / "window.json"
        if not os.path.lexists(file):
            return None
        return read_document(file, WindowDocument, AGAIN).model_dump(mode="json")

    @cached_property
    def scores(self) -> list[Score]:
        """The rows of ``scores.json`` that are of this run's set; empty where it was not scored."""
        if self.folder is None or not is_scored(self.path):
            return []
        rows = [row for row in read_scores(self.path).scores if row.in_table]
        name = self._scored_as
        if name is None:  # of the quick start, which says no more than its rows
            own = [row for row in rows if row.requested] or [row for row in rows if row.kind == "distilled"] or rows
            name = own[0].name if own else ""
        return [row for row in rows if row.name == name]

    @property
    def _scored_as(self) -> str | None:
        """What ``scores.json`` calls this run's set: "" where it is of others, None where it does not say of which."""
        sets = read_scores(self.path).sets
        if not sets:
            return None
        file = self.path / "synset.arrow"
        digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
        return next((one.name for one in sets if one.digest == digest), "")

    @property
    def result_step(self) -> int | None:
        """The outer step that the result is of; None where there is none, or it is not known."""
        if self.synset is None or self.setting("match") == "nothing":
            return None
        chosen = str(self.synset.provenance.get("chosen", ""))
        if named := _STEP.search(chosen):
            return int(named[1])
        if "validation split" in chosen and self.history:
            return int(max(self.history, key=lambda entry: float(entry["mean"]))["step"])
        return self.last_step or self.setting("steps")

    @property
    def result_words(self) -> str:
        """Which step the result is of and how it was chosen, as every part of a page says it."""
        if self.synset is None:
            return "none yet"
        chosen, step = str(self.synset.provenance.get("chosen", "")), self.result_step
        chosen = "" if _STEP.fullmatch(chosen) else chosen
        place = "" if step is None else f"step {step} of {self.setting('steps', '?')}"
        return ": ".join(filter(None, (place, chosen))) or NOT_RECORDED

    @property
    def last_step(self) -> int:
        """The outer step of the last checkpoint."""
        return int(self.records[-1]["step"]) if self.records else 0

    def _lines(self, name: str) -> list[Record]:
        file = self.path / name
        if not os.path.lexists(file):
            return []
        found = read_log(file, LOGS[name], AGAIN)
        if not found and self.setting("steps") != 0:
            raise ValueError(f"{file} is empty; {AGAIN}")
        return found

    def _by_step(self, name: str) -> list[Record]:
        found = {record["step"]: record for record in self._lines(name)}
        return [found[step] for step in sorted(found)]


def reading(value: Any) -> float | None:
    """A number of a record; None where it was not measured, or is no finite number.

    >>> reading("nan"), reading(None), reading(0.5)
    (None, None, 0.5)
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def is_distilled(path: Path) -> bool:
    """Whether it is a folder of ``raydd distill``, or the file of a synthetic set."""
    if path.is_dir():
        own = (path / "config.yaml").is_file() and not (path / "manifest.json").is_file()
        return own or (path / "synset.arrow").is_file()
    return path.suffix == ".arrow" and path.is_file()
