"""TensorBoard's event files of a run: ``tensorboard/events.out.tfevents.*``.

Each event is written at once, so that a killed run loses none. After a rollback or a resume, a mark in the file makes
TensorBoard drop the events of later steps.
"""

import importlib
import socket
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

from PIL import Image

FOLDER = "tensorboard"
MISSING = "no files for TensorBoard: tensorboardX is not installed; for the next run, uv pip install tensorboardX"


class Events:
    """An event file, created with the first event."""

    def __init__(self, folder: Path, done: int, config: str, note: Callable[[str], None]) -> None:
        self._folder, self._done, self._config, self._note = folder, done, config, note
        self._kinds: Any = None
        self._file: BinaryIO | None = None
        self._missing = False

    def add(self, step: int, scalars: Mapping[str, float], picture: Path | None = None) -> None:
        """Add the measures of an outer step, by name, and its PNG."""
        if not self._open():
            return
        kind = self._kinds.Summary
        values = [kind.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        if picture is not None:
            values.append(kind.Value(tag="synthetic images", image=self._image(picture)))
        self._write(step, summary=kind(value=values))

    def go_back(self, step: int) -> None:
        """Drop the events of later outer steps than this."""
        if self._open():
            self._write(step + 1, session_log=self._kinds.SessionLog(status=self._kinds.SessionLog.START))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> bool:
        """Whether there is a file to write to; create it at the first call."""
        if self._file is not None or self._missing:
            return not self._missing
        try:
            self._kinds = _kinds()
        except (ImportError, TypeError):  # the latter from a protobuf of another version
            self._missing = True
            self._note(MISSING)
            return False
        before = len([*self._folder.glob("events.out.tfevents.*")])
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{before:04d}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = (self._folder / name).open("xb", buffering=0)
        except OSError as error:
            self._missing = True
            self._note(f"no files for TensorBoard: {error}")
            return False
        self._write(0, file_version="brain.Event:2")
        if before:
            self.go_back(self._done)
        else:
            self._write(0, summary=self._kinds.text("config", f"```yaml\n{self._config}\n```"))
        return not self._missing

    def _image(self, path: Path) -> Any:
        with Image.open(path) as picture:
            width, height, channels = *picture.size, len(picture.getbands())
        data = path.read_bytes()
        return self._kinds.Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=data)

    def _write(self, step: int, **content: Any) -> None:
        """Write one record: its length and its bytes, each before its checksum."""
        assert self._file is not None
        data = self._kinds.Event(wall_time=time.time(), step=step, **content).SerializeToString()
        size = struct.pack("<Q", len(data))
        sums = (struct.pack("<I", self._kinds.checksum(part)) for part in (size, data))
        rest = memoryview(b"".join((size, next(sums), data, next(sums))))
        try:
            while rest:  # the system may write only a part
                rest = rest[self._file.write(rest) :]
        except OSError as error:  # what follows a torn record is not read
            self._missing = True
            self._note(f"TensorBoard's file ends at step {step}: {error}")


def _kinds() -> SimpleNamespace:
    """Import the messages of tensorboardX, which comes with Ray Tune."""
    load = importlib.import_module
    event = load("tensorboardX.proto.event_pb2")
    return SimpleNamespace(
        Event=event.Event,
        SessionLog=event.SessionLog,
        Summary=load("tensorboardX.proto.summary_pb2").Summary,
        text=load("tensorboardX.summary").text,
        checksum=load("tensorboardX.record_writer").masked_crc32c,
    )
