"""Pieces of HTML: what is text stays text, tables keep their order's keys, pictures lie in the page."""

import base64
import io
from html.parser import HTMLParser

import pytest
from PIL import Image

from raydd.figures.cells import Cell, number_cell
from raydd.report.html import macros, picture, picture_file, plural, table

EVIL = "<script>alert('a & \"b\"')</script>"


class Tags(HTMLParser):
    """Start tags with their attributes, and the text of each element."""

    def __init__(self, html):
        super().__init__()
        self.found, self.text = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def of(self, name):
        return [attrs for tag, attrs in self.found if tag == name]


def png(width=3, height=2):
    data = io.BytesIO()
    Image.new("L", (width, height), 128).save(data, format="PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        lambda text: macros("elements").code(text),
        lambda text: macros("elements").details(text, text),
        lambda text: macros("elements").definitions([(text, text)]),
        lambda text: table([{text: Cell(text, text, text)}], text, {text: text}),
        lambda text: picture(png(), text, text),
    ],
)
def test_whatever_is_text_is_escaped(make):
    found = Tags(make(EVIL))
    assert found.of("script") == []
    assert EVIL in " ".join(found.text)
    shown = [value for _, attrs in found.found for value in attrs.values() if value and "alert" in value]
    assert all(value == EVIL for value in shown)


def test_a_table_says_what_it_is_and_what_it_is_sorted_by():
    cells = [Cell("71.3 ± 0.4", 0.713, "5 networks"), number_cell("-", None), Cell("all", float("inf"))]
    rows = [{"set": name, "accuracy": cell} for name, cell in zip("abc", cells, strict=True)]
    html = table(rows, "Scores", {"accuracy": "on test images"})
    found = Tags(html)
    assert [attrs["aria-sort"] for attrs in found.of("th") if "aria-sort" in attrs] == ["none", "none"]
    assert [attrs["scope"] for attrs in found.of("th")] == ["col", "col", "row", "row", "row"]
    cells = found.of("td")
    assert [cell["data-value"] for cell in cells] == ["0.713", "", "Infinity"]
    assert all(cell["class"] == "number" for cell in cells)
    assert cells[0]["title"] == "5 networks"
    assert "5 networks" in " ".join(found.text)  # read aloud, too
    assert found.of("button") == [{"type": "button"}, {"type": "button", "title": "on test images"}]
    assert found.of("div")[0]["tabindex"] == "0"
    assert found.of("div")[0]["aria-label"] == "Scores"


def test_a_row_of_other_columns_is_refused():
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        table([{"a": "1", "b": "2"}, {"a": "1"}], "c")


def test_a_column_with_a_word_is_none_of_numbers():
    html = table([{"set": "a", "step": Cell("3", 3)}, {"set": "b", "step": "-"}], "Scores")
    assert "number" not in html


def test_a_picture_has_its_bytes_its_size_and_its_words():
    found = Tags(picture(png(3, 2), "a grey field", "grey", pixelated=True))
    (image,) = found.of("img")
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == png(3, 2)
    assert (image["alt"], image["width"], image["height"], image["class"]) == ("a grey field", "3", "2", "pixelated")
    assert found.text == ["grey"]


def test_what_is_no_picture_is_refused_with_its_name(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    assert 'alt="x"' in picture_file(path, "x")
    path.write_bytes(b"GIF89a, and some more bytes than a header has")
    with pytest.raises(ValueError, match=r"a\.png is no PNG picture"):
        picture_file(path, "x")
    path.write_bytes(png()[:20])
    with pytest.raises(ValueError, match="no PNG picture"):
        picture_file(path, "x")


def test_control_characters_are_written_as_their_numbers():
    assert "\\x1b[31m" in macros("elements").code("\x1b[31m")


def test_a_count_has_its_word():
    assert [plural(count, "image") for count in (0, 1, 1.0, 2, 2.5)] == [
        "0 images",
        "1 image",
        "1 image",
        "2 images",
        "2.5 images",
    ]
