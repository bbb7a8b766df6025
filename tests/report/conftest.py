"""What a page says, read back from its HTML, and trainings that come to known accuracies."""

from contextlib import nullcontext
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

import raydd.evaluation.result_cache

VOID = {"img", "br", "meta", "link", "input"}


class Reader(HTMLParser):
    """Tables, charts, definitions, commands and text; every element must be closed where it was opened."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.charts, self.definitions, self.codes, self.pictures = [], [], {}, [], []
        self.summaries, self.words, self._terms = [], [], []
        self._open, self._kept = [], []
        self.feed(html)
        self.close()
        assert self._open == []

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in VOID:
            if tag == "img":
                assert given["alt"]
                self.pictures.append(given["alt"])
            return
        self._open.append((tag, given))
        self._kept.append("")
        match tag:
            case "table":
                self.tables.append(SimpleNamespace(caption="", columns=[], rows=[], notes=[]))
            case "tr" if self._inside("tbody"):
                self.tables[-1].rows.append([])
            case "svg" if given.get("role") == "img":
                self.charts.append(SimpleNamespace(title="", said="", points=[], texts=[]))

    def handle_startendtag(self, tag, attrs):
        """Of SVG: closed at once."""

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        opened, given = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"
        text = self._kept.pop()
        if self._kept and "unseen" not in given.get("class", ""):
            self._kept[-1] += text
        self._take(tag, given, text.strip())

    def handle_data(self, data):
        self.words.append(data)
        if self._kept:
            self._kept[-1] += data

    def _inside(self, tag):
        return any(opened == tag for opened, _ in self._open)

    def _take(self, tag, given, text):
        plain = {"dt": self._terms, "pre": self.codes, "summary": self.summaries}
        if tag in plain:
            plain[tag].append(text)
        elif tag in ("td", "th"):
            self._cell(given, text)
        elif tag == "caption":
            self.tables[-1].caption = text
        elif tag == "dd":
            self.definitions.setdefault(self._terms[-1], text)  # the first: settings on demand may repeat a word
        elif tag in ("text", "desc", "title") and self.charts:
            self._chart(tag, text)

    def _chart(self, tag, text):
        chart = self.charts[-1]
        if tag == "text":
            chart.texts.append(text)
        elif tag == "desc":
            chart.said = text
        elif self._open[-1][0] == "svg":
            chart.title = text
        else:
            chart.points.append(text)

    def _cell(self, given, text):
        if self._inside("thead"):
            self.tables[-1].columns.append(text)
        else:
            self.tables[-1].rows[-1].append(text)
            self.tables[-1].notes.append(given.get("title"))


@pytest.fixture
def read():
    """Sections as a page would show them, read back; anchors differ, and no cell is missing."""

    def reading(sections):
        anchors = [section.anchor for section in sections]
        assert len(set(anchors)) == len(anchors)
        found = Reader("".join(section.body for section in sections))
        for table in found.tables:
            assert table.caption
            assert {len(row) for row in table.rows} <= {len(table.columns)}
        return found

    return reading


@pytest.fixture
def refuse():
    """What is said of a damaged file, which is one line."""

    def refused(sections, path):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - each caller looks at the message
            sections(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refused


@pytest.fixture(scope="module")
def pretend(tmp_path_factory, cache):
    """Trainings come to what a function of matrix and job says, and no Ray is started; results are kept apart."""
    kept = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        from raydd.remote import session, train_matrix as evaluate

        patch.setattr(session, "session", lambda *_: nullcontext())
        patch.setattr(raydd.evaluation.result_cache, "default_cache", lambda: kept)

        def by(formula):
            def run(matrix, where, show, known, keep):
                return {job: formula(matrix, job) for job in matrix.jobs()}

            patch.setattr(evaluate, "train_matrix", run)

        yield by
