"""Commands that write a figure and its numbers, and the line with which they refuse."""

import json
from pathlib import Path

from PIL import Image

from raydd.cli import run
from raydd.io.document import without_checksum


def document(capfd, *arguments):
    """The document a command prints, after checking the two files that it wrote."""
    capfd.readouterr()
    assert run([*map(str, arguments), "--json"]) == 0
    out = capfd.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    outputs = found.pop("outputs")
    assert without_checksum(json.loads(Path(outputs["numbers"]).read_text())) == found
    with Image.open(outputs["figure"]) as picture:
        assert min(picture.size) > 300
    assert Path(outputs["figure"]).stat().st_size > 5000
    assert found["analysis"] == arguments[1]
    return found


def refusal(capfd, folder, *arguments):
    """The one line that refuses a command; nothing is written."""
    before = sorted(folder.rglob("*"))
    capfd.readouterr()
    assert run([*map(str, arguments)]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert sorted(folder.rglob("*")) == before
    return err
