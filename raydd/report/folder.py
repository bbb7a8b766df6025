"""The files of a distillation, read for its page; an unfinished run is read as far as it came."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from raydd.data.run_progress import is_unfinished
from raydd.data.score_record import Score
from raydd.data.synset import SyntheticSet
from raydd.distillation.checkpoint import AGAIN, LOGS, load_checkpoint
from raydd.io.bounded_file import read_text
from raydd.io.document import Document, Whole, read_document, read_log, remove_text_checksum
from raydd.io.safe_yaml import parse_yaml
from raydd.report.documents import SCORES

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
    """The chosen window, and the trials that led to it."""

    low: Whole
    current: Whole
    high: Whole
    trials: tuple[TrialDocument, ...]


@dataclass(frozen=True)
class RunFolder:
    """A distillation's files."""

    path: Path  # the folder, or the file of a set that stands alone

    @property
    def folder(self) -> Path | None:
        """The folder; None of a file that stands alone."""
        return self.path if self.path.is_dir() else None

    @cached_property
    def synset(self) -> SyntheticSet | None:
        """The result; None of an unfinished run. A damaged file is refused by a ValueError, here and below."""
        file = self.path / "synset.arrow" if self.folder else self.path
        return SyntheticSet.load(file) if file.is_file() else None

    @property
    def home(self) -> str:
        """The path of the run, as a command can name it."""
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
        """The settings, nested; a run of another version may have more or fewer."""
        try:
            tree = parse_yaml(self.settings_text) or {}
        except ValueError:
            tree = None
        if not isinstance(tree, dict):
            raise ValueError(f"{self.path / 'config.yaml'} holds no settings; restore it, or distill the run again")
        return tree

    def setting(self, name: str, usual: Any = None) -> Any:
        """Return a setting by its dotted name."""
        value: Any = self.settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return usual if value is None else value

    @cached_property
    def records(self) -> list[Record]:
        """The records of ``metrics.jsonl`` by outer step, the last of a repeated step: ``step, loss, lr, stepped``."""
        return self._by_step("metrics.jsonl")

    @cached_property
    def rollbacks(self) -> int:
        """The number of returns to an earlier step, as the loss was not finite."""
        return sum("rolled_back_to" in record for record in self._lines("metrics.jsonl"))

    @cached_property
    def memory(self) -> list[Record]:
        """The records of ``memory.jsonl``: ``step, resident_mb, device_mb``."""
        return self._by_step("memory.jsonl")

    @cached_property
    def probes(self) -> list[Record]:
        """The records of ``probe.jsonl``: ``step, losses, label_std``; empty where no expert was probed."""
        return self._by_step("probe.jsonl")

    @cached_property
    def history(self) -> list[Record]:
        """Validation scores, of an unfinished run from its checkpoint: ``step, split, networks, mean``."""
        if self.synset is not None:
            return list(self.synset.history)
        state = self.path / "checkpoint" / "state.arrow"
        return load_checkpoint(state).log["history"] if state.exists() else []

    @cached_property
    def search(self) -> dict[str, Any] | None:
        """The trials of ``window.json`` that chose the window; None where it was given."""
        file = self.path / "window.json"
        if not os.path.lexists(file):
            return None
        return read_document(file, WindowDocument, AGAIN).model_dump(mode="json")

    @cached_property
    def scores(self) -> list[Score]:
        """The rows of ``scores.json`` of this run's set; empty where it was not scored."""
        if self.folder is None or not SCORES.find(self.path):
            return []
        document, file = SCORES.read(self.path), self.path / "synset.arrow"
        rows = [row for row in document.scores if row.in_table]
        if document.sets:
            digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
            names = [one.name for one in document.sets if one.digest == digest]
        else:  # the quick start writes the rows alone
            own = [row for row in rows if row.requested] or [row for row in rows if row.kind == "distilled"] or rows
            names = [row.name for row in own]
        return [row for row in rows if row.name in names[:1]]

    @property
    def result_step(self) -> int | None:
        """The outer step of the result; None where there is none, or it is not known."""
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
        """The step of the result and how it was chosen, in the words of every part of a page."""
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
        records = read_log(file, LOGS[name], AGAIN)
        if not records and self.setting("steps") != 0:
            raise ValueError(f"{file} is empty; {AGAIN}")
        return records

    def _by_step(self, name: str) -> list[Record]:
        records = {record["step"]: record for record in self._lines(name)}
        return [records[step] for step in sorted(records)]


def is_distilled(path: Path) -> bool:
    """Return whether it is a folder of ``raydd distill``, or the file of a synthetic set."""
    if path.is_dir():
        own = (path / "config.yaml").is_file() and not (path / "manifest.json").is_file()
        return own or (path / "synset.arrow").is_file()
    return path.suffix == ".arrow" and path.is_file()
