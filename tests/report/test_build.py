"""The page as a whole: one file that fetches nothing, whose parts are named once, and whose colours can be read."""

import base64
import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from raydd.cli import run
from raydd.data.synset import SyntheticSet
from raydd.evaluation.jobs import Outcome
from raydd.io.document import write_document
from raydd.report import build
from raydd.report.build import KINDS, build_page, kinds_of, write_report
from raydd.report.compare import compare_section, names_of
from raydd.report.folder import RunFolder
from raydd.report.frames import compact, read_images

VOID = {"meta", "link", "img", "input", "br"}
STYLE = (resources.files("raydd.report") / "style.css").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags with their attributes; every element must be closed where it was opened."""

    def __init__(self, html):
        super().__init__()
        self.found, self.opened, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert self.opened == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        if self.opened and self.opened[-1] not in ("script", "style"):
            self.text += data

    def of(self, name):
        return [attrs for tag, attrs in self.found if tag == name]

    def values(self, name):
        return [attrs[name] for _, attrs in self.found if name in attrs]


@pytest.fixture
def digits(small_synset):
    return small_synset.parent


def twin(digits, tmp_path, name="digits"):
    shutil.copytree(digits, tmp_path / name)
    return tmp_path / name


@pytest.fixture
def scored(digits, tmp_path, pretend):
    """Two runs that were scored alike."""
    pretend(lambda matrix, job: Outcome(0.5 + 0.1 * (job.row == 0) + 0.02 * job.seed, 1.0))
    folders = [twin(digits, tmp_path, name) for name in ("one", "two")]
    for folder in folders:
        flags = ["--seeds", "3", "--baselines", "random", "--out", str(folder / "scores.json")]
        assert run(["evaluate", str(folder), *flags]) == 0
    return folders


def check_page(html):
    """What holds of every page."""
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert page.of("html") == [{"lang": "en"}]
    assert len(page.of("h1")) == len(page.of("main")) == len(page.of("header")) == len(page.of("footer")) == 1
    assert page.of("nav")
    assert page.of("a")[0] == {"class": "skip", "href": "#content"}
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in page.values("href") if link.startswith("#")} <= set(ids)
    assert {label for _, attrs in page.found for label in attrs.get("aria-labelledby", "").split()} <= set(ids)
    assert all(attrs.get("alt") for attrs in page.of("img"))
    assert all(attrs["data-frame"] in ids for attrs in page.of("script") if "data-frame" in attrs)
    fetched = page.values("src") + [link for link in page.values("href") if not link.startswith("#")]
    assert all(address.startswith("data:") for address in fetched)
    assert not [name for _, attrs in page.found for name in attrs if name.startswith("on")]
    assert "http://" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in html
    return page


def test_the_page_of_a_run_is_whole(digits):
    page = check_page(build_page([digits]))
    titles = [link for link in page.values("href") if link.startswith("#")]
    assert {"#overview", "#images", "#steps", "#made"} <= set(titles)
    assert page.values("aria-labelledby")[-1] == "made"
    assert "unfinished" not in page.text


def test_the_page_forbids_all_but_what_it_holds(digits):
    html = build_page([digits])
    (policy,) = (
        meta["content"] for meta in Page(html).of("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; img-src data:;")
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe-eval" not in policy
    assert "eval(" not in script[0]


def test_equal_runs_give_equal_bytes(digits, tmp_path):
    other = twin(digits, tmp_path)
    one, two = build_page([digits]), build_page([other])
    assert build_page([digits]) == one
    assert one.replace(str(digits), str(other)) == two


def test_several_runs_stand_side_by_side(scored):
    html = build_page(scored)
    page = check_page(html)
    assert "one, two" in page.text
    assert "Welch's test" in page.text
    assert "not significant" in page.text or "no test" in page.text
    assert "All settings of these runs are the same." in page.text
    assert len(page.of("article")) == 2
    assert {"run-1-overview", "run-2-overview", "run-1-scores", "compare"} <= set(page.values("id"))
    both = "one: ", "two: "
    assert all(
        any(label.startswith(f"synthetic images of {name[:-2]}") for label in page.values("alt")) for name in both
    )


def compared(table):
    return [(row[0], row[1]) for row in table.rows]


def test_runs_side_by_side_have_the_baselines_and_are_tested_against_them(scored, read):
    """Baselines that are the same for both runs stand there once; others say beside which run they stood."""
    page = read([compare_section(scored, ["one", "two"])])
    table = next(table for table in page.tables if table.columns[0] == "run")
    assert [row[0] for row in table.rows] == ["one", "two", "random, 1 a class", "whole data, 50 epochs"]
    assert [row[table.columns.index("MLP")] for row in table.rows] == ["62.0 ± 2.0 (3)"] * 2 + ["52.0 ± 2.0 (3)"] * 2
    assert [text for text in page.charts[0].texts if "±" in text] == ["62.0 ± 2.0"] * 2 + ["52.0 ± 2.0"] * 2
    tested = next(table for table in page.tables if table.columns[0] == "first")
    best = "random, 1 a class (best)"
    assert compared(tested) == [("one", "two"), ("one", best), ("two", best)]

    other = json.loads((scored[1] / "scores.json").read_text())
    for row in other["scores"][1:]:
        row["values"] = [value + 0.05 for value in row["values"]]
        row["mean"] += 0.05
    write_document(scored[1] / "scores.json", other)
    page = read([compare_section(scored, ["one", "two"])])
    table = next(table for table in page.tables if table.columns[0] == "run")
    words = [
        f"{what} (beside {run})" for what in ("random, 1 a class", "whole data, 50 epochs") for run in ("one", "two")
    ]
    assert [row[0] for row in table.rows] == ["one", "two", *words]
    tested = next(table for table in page.tables if table.columns[0] == "first")
    best = "random, 1 a class (beside two) (best)"
    assert compared(tested)[:3] == [("one", "two"), ("one", best), ("two", best)]


@pytest.mark.parametrize(
    ("chosen", "history", "step", "words"),
    [
        pytest.param("last outer step", [], 1, "step 1 of 1: last outer step", marks=pytest.mark.slow),
        (
            "best outer step on the validation split",
            [(10, 0.5), (20, 0.75), (30, 0.75)],
            20,
            "step 20 of 1: best outer",
        ),
        pytest.param("outer step 30", [], 30, "step 30 of 1", marks=pytest.mark.slow),
        ("", [], 1, "step 1 of 1"),
    ],
)
def test_every_part_of_a_page_names_the_same_step_of_the_result(chosen, history, step, words, scored, read):
    told = []
    for folder in scored:
        synset = SyntheticSet.load(folder / "synset.arrow")
        scores = tuple({"step": at, "split": "validation", "networks": 1, "mean": mean} for at, mean in history)
        replace(synset, provenance=synset.provenance | {"chosen": chosen}, history=scores).save(folder / "synset.arrow")
        runs = RunFolder(folder)
        assert runs.result_step == step
        assert runs.result_words.startswith(words)
        assert read_images(runs).stops[-1][:2] == (step, f"the result, {runs.result_words}")
        page = read([section for kind in kinds_of(folder) for section in kind.sections(folder)])
        assert page.definitions["result"] == runs.result_words
        told.append(runs.result_words)
    shown = Page(build_page(scored)).text
    page = read([compare_section(scored, ["one", "two"])])
    table = next(table for table in page.tables if table.columns[0] == "run")
    assert [row[table.columns.index("outer step")] for row in table.rows] == [f"{step} of 1"] * 2 + ["-"] * 2
    assert all(f"{name}: the result, {said}" in shown for name, said in zip(("one", "two"), told, strict=True))


@pytest.mark.slow
def test_runs_that_differ_in_their_seed_alone_are_one_curve_with_a_band(small_buffer, tmp_path):
    folders = []
    for seed in range(2):
        folders.append(tmp_path / f"seed-{seed}")
        words = ["distill", "--network", "MLP", "--buffer", str(small_buffer), "--out", str(folders[-1])]
        words += ["--set", "steps=3", "--set", "student_steps=1", "--set", "window.high=1", "--set", "threads=1"]
        assert run([*words, "--seed", str(seed)]) == 0
    html = build_page(folders)
    first = html.index('<section aria-labelledby="compare">')
    shared = html[first : html.index("<article", first)]
    assert "MTT on digits, 1 image a class: mean of 2 seeds" in shared
    assert 'class="band"' in shared
    assert ">seed</th>" in shared  # the one setting in which they differ
    check_page(html)
    shutil.copytree(folders[1], tmp_path / "again")
    again = build_page([folders[1], tmp_path / "again"])
    assert "mean of" not in again, "the same run twice is not two seeds"
    assert "seed-1" in again


def test_kinds_that_have_nothing_in_common_follow_each_other(digits, small_buffer):
    page = check_page(build_page([digits, small_buffer]))
    assert len(page.of("article")) == 2
    assert "run-2-experts" in page.values("id")


def test_the_experts_of_a_run_are_shown_where_it_has_them(digits, small_buffer, tmp_path):
    out = twin(digits, tmp_path)
    shutil.copytree(small_buffer, out / "buffer")
    assert "experts" in [kind.name for kind in kinds_of(out)]
    assert "experts" in check_page(build_page([out])).values("id")
    assert f"--buffer {out / 'buffer'}" in Page(build_page([out])).text


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, r"run does not exist; name a folder that raydd wrote"),
        (lambda path: path.mkdir(), r"run is empty, which is no run; name a folder of raydd distill, tune, nas"),
        (lambda path: path.write_text("x"), r"run is no file that a report is made of"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, make, said):
    make(tmp_path / "run")
    with pytest.raises(ValueError, match=said) as caught:
        build_page([tmp_path / "run"])
    assert "\n" not in str(caught.value)


def test_a_folder_of_something_else_is_refused_with_what_it_holds(digits, tmp_path):
    for name in "abcdefg":
        (tmp_path / f"{name}.txt").write_text("")
    with pytest.raises(
        ValueError, match=r"holds a\.txt, b\.txt, c\.txt, d\.txt, e\.txt and 2 more, which is no run; name"
    ):
        build_page([tmp_path])
    run_inside = twin(digits, tmp_path, "own")
    with pytest.raises(ValueError, match=f"name a run in it, such as {run_inside}$"):
        build_page([tmp_path])
    with pytest.raises(ValueError, match="no run is given"):
        build_page([])


def test_the_file_is_written_whole_or_not_at_all(digits, tmp_path, monkeypatch):
    out = tmp_path / "pages" / "report.html"
    assert write_report([digits], out) == out
    before = out.read_bytes()
    assert before.decode() == build_page([digits])
    with pytest.raises(ValueError, match="does not exist"):
        write_report([tmp_path / "nothing"], out)
    monkeypatch.setattr(build, "render", lambda name, **values: "\ud800")  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        write_report([digits], out)
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_names_tell_runs_apart(tmp_path):
    assert names_of([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert names_of([tmp_path / "a", tmp_path / "a"]) == ["a (1)", "a (2)"]
    assert names_of([tmp_path / "setting"]) == ["setting (1)"]  # a column of the table of settings has this name


def test_single_images_stand_in_rows(digits):
    grid = read_images(RunFolder(digits))
    strip = np.asarray(Image.open(io.BytesIO(grid.stops[-1].png)))
    row = np.asarray(Image.open(io.BytesIO(compact(grid))))
    assert (strip.shape, row.shape) == ((80, 8), (8, 10 * 9 - 1))
    assert np.array_equal(row[:, 27:35], strip[24:32])
    assert (row[:, 8::9] == 255).all()
    pairs = replace(grid, columns=2, classes=grid.classes[:5], size=(16, 4))
    turned = np.asarray(Image.open(io.BytesIO(compact(pairs))))
    assert turned.shape == (2 * 17 - 1, 5 * 5 - 1)
    assert np.array_equal(turned[17:33, 5:9], strip[16:32, 4:8])  # of the second class the second image


def test_each_kind_has_a_headline(digits):
    kinds = kinds_of(digits)
    assert kinds[0] is KINDS[0]
    assert all("\n" not in kind.headline(digits) for kind in kinds)


def colours(theme):
    """The style's colours by name, of a theme: 0 light, 1 dark."""
    found = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", STYLE)
    return {name: both[theme] for name, *both in found}


def contrast(one, other):
    """WCAG 2.2's contrast ratio of two colours."""

    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_computed_as_wcag_has_it():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_words_can_be_read_and_lines_be_seen(theme):
    found = colours(theme)
    assert set(found) == {"paper", "raised", "ink", "faint", "rule", "accent", "warn"} | {f"line-{n}" for n in range(7)}
    for ground in ("paper", "raised"):
        for word in ("ink", "faint", "accent", "warn"):
            assert contrast(found[word], found[ground]) >= 4.5, (word, ground)
    for line in range(7):
        assert contrast(found[f"line-{line}"], found["paper"]) >= 3, line
    assert len({found[f"line-{line}"] for line in range(7)}) == 7


def test_every_colour_is_a_name():
    """No rule has a colour of its own, which one theme alone would fit; a shadow is dark in both."""
    rules = STYLE[STYLE.index("*, *::before") :]
    assert re.findall(r"#[0-9a-f]{3,8}\b(?=[;,) ])", rules) == []
    used = set(re.findall(r"var\(--([\w-]+)\)", rules))
    assert used <= set(colours(0)) | {"sans", "mono", "width"}
