"""Experts on a page: the manifest's words and the columns of the files, read back."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np

from raydd.buffer.arrow_buffer import ArrowBuffer, create_buffer, refresh_manifest
from raydd.buffer.convexified import convexify
from raydd.buffer.describe import describe
from raydd.buffer.expert_file import expert_path, write_expert
from raydd.buffer.manifest import read_manifest
from raydd.io.arrow_file import open_arrow
from raydd.io.document import dump_document
from raydd.report import experts
from raydd.report.experts import buffer_headline, buffer_sections, is_buffer


def test_the_words_are_the_manifests(small_buffer, read):
    page, about = read(buffer_sections(small_buffer)), describe(small_buffer)
    last = about["accuracy"]["last"]
    assert (
        page.definitions["last accuracy"]
        == f"{100 * last['mean']:.1f} ± {100 * last['std']:.1f} % (2 experts, std over n)"
    )
    assert page.definitions["network"] == f"MLP, {about['parameters']:,} parameters"
    assert page.definitions["experts"] == "2, of 3 epochs each"
    assert page.definitions["fingerprint of the data"] == about["fingerprint"]
    assert page.definitions["optimizer"] == about["recipe"]["optimizer"]
    assert page.definitions["seed"] == str(about["seed"])
    assert buffer_headline(small_buffer) == (
        f"2 experts, MLP on digits, 3 epochs: {100 * last['mean']:.1f} ± {100 * last['std']:.1f} % "
        "(2 experts, std over n) on validation images"
    )


def test_the_curves_are_means_of_the_files_columns(small_buffer, read):
    page, sections = read(buffer_sections(small_buffer)), buffer_sections(small_buffer)
    columns = [open_arrow(expert_path(small_buffer, index)).columns for index in (0, 1)]
    accuracy = np.mean([each["accuracy"] for each in columns], axis=0)
    loss = np.mean([each["train_loss"] for each in columns], axis=0)
    charts = {chart.title: chart.said for chart in page.charts}
    said = charts["Accuracy of the experts"]
    assert f"{100 * accuracy[0]:.4g} at epoch 0, {100 * accuracy[3]:.4g} at 3;" in said
    assert np.isnan(loss[0])
    assert f"{loss[1]:.4g} at epoch 1, {loss[3]:.4g} at 3;" in charts["Training loss of the experts"]
    assert sections[0].body.count('class="band') == 2
    norms = ArrowBuffer(small_buffer).norms(0), ArrowBuffer(small_buffer).norms(1)
    name = ArrowBuffer(small_buffer).layout[0].name
    first, last = ((norms[0][epoch, 0] + norms[1][epoch, 0]) / 2 for epoch in (1, 3))
    assert f"{name}: {first:.4g} at epoch 1, {last:.4g} at 3;" in charts["Steps of the experts, by layer"]


def test_each_expert_stands_in_a_table(small_buffer, read):
    page, entries = read(buffer_sections(small_buffer)), read_manifest(small_buffer)[1]
    rows = page.tables[0].rows
    assert [row[0] for row in rows] == ["0", "1"]
    for row, entry in zip(rows, entries.values(), strict=True):
        scores = open_arrow(expert_path(small_buffer, entry["index"])).columns["accuracy"]
        assert row[1:3] == [f"{100 * entry['accuracy']:.1f}", f"{100 * scores.max():.1f}"]
        assert row[4:] == ["4", f"{entry['bytes'] / 2**20:,.2f}", entry["checksum"][:12]]
    steps = page.tables[1]
    assert len(steps.rows) == len(ArrowBuffer(small_buffer).layout)
    norms = np.stack([ArrowBuffer(small_buffer).norms(index).numpy() for index in (0, 1)])[:, 1:, 0]
    way = norms.sum(axis=1)
    assert steps.rows[0][-1] == f"{way.mean():.3g} ± {way.std(ddof=1):.2g}"


def test_no_weight_is_read(small_buffer, tmp_path):
    copied = shutil.copytree(small_buffer, tmp_path / "experts")
    for index in (0, 1):
        path = expert_path(copied, index)
        content, theta = path.read_bytes(), open_arrow(path).columns["theta"].tobytes()
        assert content.count(theta) == 1
        path.write_bytes(content.replace(theta, b"\xff" * len(theta)))
        assert np.isnan(open_arrow(path).columns["theta"]).all()
    assert buffer_sections(copied) == buffer_sections(small_buffer)


def test_bands_reach_from_the_least_to_the_largest_expert(small_buffer, monkeypatch):
    drawn, draw = {}, experts.draw_curves
    monkeypatch.setattr(
        experts,
        "draw_curves",
        lambda curves, x, y, title, **more: drawn.update({title: curves}) or draw(curves, x, y, title, **more),
    )
    buffer_sections(small_buffer)
    files = [open_arrow(expert_path(small_buffer, index)).columns for index in (0, 1)]
    accuracy = 100 * np.stack([columns["accuracy"] for columns in files])
    loss = np.stack([columns["train_loss"] for columns in files])
    mean, first, second = drawn["Accuracy of the experts"]
    assert (list(mean.low), list(mean.high)) == (accuracy.min(axis=0).tolist(), accuracy.max(axis=0).tolist())
    assert [list(first.y), list(second.y)] == accuracy.tolist()
    mean = drawn["Training loss of the experts"][0]
    assert (mean.low[0], mean.y[0], mean.high[0]) == (None, None, None)
    assert (list(mean.low[1:]), list(mean.high[1:])) == (loss.min(axis=0)[1:].tolist(), loss.max(axis=0)[1:].tolist())


def test_of_many_experts_only_the_mean_and_its_band_are_drawn(small_buffer, monkeypatch):
    few = buffer_sections(small_buffer)[0].body
    monkeypatch.setattr("raydd.report.experts.FEW", 1)
    many = buffer_sections(small_buffer)[0].body
    assert few.count('class="thin"') > 0 == many.count('class="thin"')
    assert few.count('class="band') == many.count('class="band') == 2


def test_a_convexified_buffer_has_its_kept_epochs_and_all_steps(small_buffer, read, tmp_path):
    convexify(small_buffer, tmp_path / "kept", (2,))
    page = read(buffer_sections(tmp_path / "kept"))
    assert page.definitions["experts"] == "2, of 3 epochs each, of which 0, 2, 3 are kept (convexified)"
    assert page.tables[1].rows == read(buffer_sections(small_buffer)).tables[1].rows
    assert page.tables[0].rows[0][4] == "3"


def test_what_was_not_measured_is_said_and_not_drawn(small_buffer, read, tmp_path):
    source = ArrowBuffer(small_buffer)
    create_buffer(tmp_path, source.spec)
    for index in (0, 1):
        unknown = replace(
            source.part(index, (0, 1, 2, 3)), accuracy=[math.nan] * 4, train_loss=[math.nan] * 4, norms=None
        )
        write_expert(tmp_path, source.spec, index, unknown)
    refresh_manifest(tmp_path)
    page = read(buffer_sections(tmp_path))
    assert "Accuracy of the experts: not measured." in page.text
    assert [chart.title for chart in page.charts] == ["Steps of the experts, by layer"]
    assert page.tables[0].rows[0][1:4] == ["-", "-", "-"]
    assert page.definitions["last accuracy"] == "accuracy not measured"


def test_damaged_buffers_are_refused_in_a_line(small_buffer, refuse, tmp_path):
    assert is_buffer(small_buffer)
    assert not is_buffer(tmp_path)
    broken = shutil.copytree(small_buffer, tmp_path / "broken")
    (broken / "manifest.json").write_text("{")
    assert is_buffer(broken)
    assert "is corrupted" in refuse(buffer_sections, broken)
    cut = shutil.copytree(small_buffer, tmp_path / "cut")
    path = expert_path(cut, 1)
    path.write_bytes(path.read_bytes()[:-1000])
    assert path.name in refuse(buffer_sections, cut)
    none = shutil.copytree(small_buffer, tmp_path / "none")
    for index in (0, 1):
        expert_path(none, index).unlink()
    manifest = json.loads((none / "manifest.json").read_text())
    (none / "manifest.json").write_bytes(dump_document(manifest | {"experts": []}))
    assert "holds no experts" in refuse(buffer_sections, none)
