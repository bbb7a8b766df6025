"""YAML of outside files is bounded before anything is made of it, in every reader."""

import os
import time
from pathlib import Path

import pytest

from raydd.api.nas import NasConfig, architectures
from raydd.config.parsing import parse_settings
from raydd.config.presets import expand_preset
from raydd.evaluation.protocols import find_protocol
from raydd.io.safe_yaml import MAX_DEPTH, parse_yaml, read_yaml
from raydd.tuning.space_files import load_space


def laughs(levels: int, line: str) -> str:
    """Lines each of which repeats the one before ten times."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [line.format(level=level, below=", ".join([f"*a{level - 1}"] * 10)) for level in range(1, levels)]
    return "\n".join(lines) + "\n"


ALIASES = laughs(9, "a{level}: &a{level} [{below}]")
MERGES = laughs(9, "a{level}: &a{level} {{<<: [{below}]}}")
BAD = {
    ALIASES: "has more than 200000 values, with all that aliases repeat",
    MERGES: "has more than 200000 values",
    "a: &a [*a]": "an alias stands inside of what it repeats in line 1",
    "a: &a {b: {c: *a}}": "an alias stands inside of what it repeats",
    "a: " + "[" * 2000 + "]" * 2000: "it is nested more than 32 deep in line 1",
    "a: " + "[" * 100_000: "it is nested more than 32 deep",
    "a: " + "{b: " * 2000 + "1" + "}" * 2000: "it is nested more than 32 deep",
    "".join(f"{' ' * depth}a:\n" for depth in range(1000)): "it is nested more than 32 deep in line 33",
    "a: " + "9" * 5000: "a number has more than 100 digits in line 1",
    "a: 0x" + "f" * 5000: "a number has more than 100 digits",
    "a: 1" + ":59" * 50_000: "a number has more than 100 digits",
    "a: 2024-99-99": "month must be in",
    "a: !!python/object/apply:os.system [true]": "could not determine a constructor",
    "x" * (5 << 20): "it has more than 4 MB",
}


@pytest.mark.parametrize(("text", "match"), BAD.items(), ids=range(len(BAD)))
def test_texts_without_a_bound_are_refused_at_once(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    started = time.monotonic()
    for read, name in (
        (read_yaml, path),
        (lambda name: expand_preset(name, 1), str(path)),
        (find_protocol, str(path)),
        (load_space, str(path)),
        (lambda name: architectures(NasConfig(space=name)), str(path)),
    ):
        with pytest.raises(ValueError, match=match) as caught:
            read(name)
        assert "own.yaml" in str(caught.value)
        assert "\n" not in str(caught.value)
    if len(text) < 10_000:
        with pytest.raises(ValueError, match=match) as caught:
            parse_settings([f"steps={text}"])
        assert len(str(caught.value)) < 500
    assert time.monotonic() - started < 5


def test_a_long_name_of_a_setting_is_refused() -> None:
    with pytest.raises(ValueError, match=r"names no setting; use a name such as lr.images"):
        parse_settings([".".join("a" * 5000) + "=1"])


def test_what_people_write_is_read() -> None:
    text = (
        "all: &all {steps: 5, lr: {images: 10.5}}\nother: {<<: *all, steps: 7}\nlist: [*all, *all]\ndate: 2024-02-03\n"
    )
    found = parse_yaml(text)
    assert found["other"] == {"steps": 7, "lr": {"images": 10.5}}
    assert found["list"] == [found["all"]] * 2
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_yaml(deep) is not None
    assert len(parse_yaml("[" + ", ".join(["1"] * 5000) + "]")) == 5000


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9")
    with pytest.raises(ValueError, match=r"latin.yaml is no YAML \(.*utf-8.*\); correct it"):
        read_yaml(tmp_path / "latin.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "pipe.yaml"):
        for read in (read_yaml, find_protocol, lambda path: architectures(NasConfig(space=str(path)))):
            with pytest.raises(ValueError, match=r"cannot be read|unknown protocol"):
                read(path if read is read_yaml else str(path))


@pytest.mark.rows("text", ["steps: 1\nsteps: 2\n", "a: {b: 1, c: 2, b: 3}", "'x': 1\nx: 2\n"])
def test_a_key_that_is_given_twice_is_refused(text):
    with pytest.raises(ValueError, match=r"has the key '\w+' twice, in lines from 1 on"):
        parse_yaml(text)


def test_keys_may_be_merged_and_given_anew():
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")["b"] == {"x": 3, "y": 2}
