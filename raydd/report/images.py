"""The synthetic images on a page: by class, through the outer steps, each with its label.

All images of a step lie in one picture, of which every image shows its part: so a slider that changes the picture
changes them all.

Shapes: none.
"""

import hashlib
import json

from raydd.report.folder import RunFolder
from raydd.report.frames import LIKELIEST, Sheet, members_of, read_sheet
from raydd.report.html import Section, escape, paragraph, png_address, png_size

MANY = 20  # classes that are scrolled through
SMALL = 64  # pixels a side, below which an enlarged image shows its pixels as squares


def image_section(run: RunFolder) -> Section:
    """The images of a run by class, with a slider where it kept frames.

    Raises:
        ValueError: Frames or the set are damaged.
    """
    sheet = read_sheet(run)
    if sheet is None:
        return Section("images", "Synthetic images", paragraph("There are no images yet: no step was kept."))
    body = _told(run, sheet) + _viewer(sheet)
    if len(sheet.stops) < 2 and run.folder is not None and run.finished and run.setting("steps", 0) != 0:
        words = "This run kept no frames, so that the result alone is shown. raydd distill keeps about twenty; distill "
        body += paragraph(f"{words}the run again, in another folder, to see how it came about.")
    return Section("images", "Synthetic images", body)


def _told(run: RunFolder, sheet: Sheet) -> str:
    """What is shown, in words; what a hand can do is not said on paper."""
    words = "A row a class" if sheet.columns > 1 else "An image a class"
    words += ", preprocessing undone"
    if str(run.setting("formation.factor", 1)) != "1":
        words += ", mosaics shown whole"
    synset, hint = run.synset, ""
    if synset is not None:
        shown = sum(len(found) for found in members_of(synset))
        words += f"; all {shown} images" if shown == len(synset.images) else f"; {shown} of {len(synset.images)} images"
        soft = f"its soft label: the {min(LIKELIEST, len(synset.classes))} likeliest classes"
        told = soft if synset.label_kind == "logits" else "its label"
        hint = f"Point at an image, or reach it by Tab and the arrow keys, for {told}."
    if sheet.left_out:
        words += f". {sheet.left_out} of the run's frames are left out to keep this page small"
    return f'<p>{escape(words)}. <span class="screen-only">{escape(hint)}</span></p>'


def _viewer(sheet: Sheet) -> str:
    """The slider and the images."""
    last = sheet.stops[-1]
    name = f"frame-{hashlib.sha256(last.png + repr(len(sheet.stops)).encode()).hexdigest()[:12]}"
    width, height = png_size(last.png)
    kind = ' class="pixelated"' if max(sheet.size) < SMALL else ""
    whole = (
        f'<svg class="holder" aria-hidden="true"><defs><image id="{name}"{kind} width="{width}" height="{height}"'
        f' href="{png_address(last.png)}"/></defs></svg>'
    )
    rows = "".join(_row(sheet, row, name) for row in range(len(sheet.classes)))
    single = " single" if sheet.columns == 1 else " many" if len(sheet.classes) > MANY else ""
    return f'<div class="viewer">{whole}{_slider(sheet, name)}<ul class="synthetic{single}">{rows}</ul></div>'


def _slider(sheet: Sheet, name: str) -> str:
    """The slider through the stops; nothing where there is one."""
    if len(sheet.stops) < 2:
        return ""
    most = len(sheet.stops) - 1
    words = escape(sheet.stops[-1].words)
    frames = json.dumps([{"words": stop.words, "address": png_address(stop.png)} for stop in sheet.stops])
    frames = frames.replace("<", "\\u003c")
    return (
        f'<div class="slider screen-only"><button type="button" class="play" hidden>Play</button>'
        f'<label>Outer step <input type="range" min="0" max="{most}" value="{most}" aria-valuetext="{words}"></label>'
        f"<output>{words}</output>"
        f'<script type="application/json" data-frame="{name}">{frames}</script></div>'
    )


def _row(sheet: Sheet, row: int, name: str) -> str:
    cells = "".join(_cell(sheet, row, column, name) for column in range(sheet.columns))
    return f'<li><span class="class">{escape(sheet.classes[row])}</span><span class="row">{cells}</span></li>'


def _cell(sheet: Sheet, row: int, column: int, name: str) -> str:
    """An image: its part of the picture, what it shows in words, and its label."""
    label = sheet.labels.get((row, column))
    if label is None and sheet.labels:
        return ""
    height, width = sheet.size
    said = f"class {sheet.classes[row]}, image {column + 1}"
    told = ""
    if label is not None:
        shares = [(word, f"{100 * share:.1f} %") for word, share in label]
        hard = len(label) == 1
        said += f"; labelled {label[0][0]}" if hard else f"; {', '.join(f'{word} {share}' for word, share in shares)}"
        told = f' data-label="{escape(json.dumps([] if hard else shares))}"'
    return (
        f'<svg class="cell" role="img" tabindex="-1" viewBox="{column * width} {row * height} {width} {height}"'
        f' aria-label="{escape(said)}"{told}><use href="#{name}"/></svg>'
    )
