"""A campaign on a page, from the ``campaign.json`` that `raydd campaign` writes: papers' tables beside our values."""

from pathlib import Path

from markupsafe import Markup

from raydd.campaigns.league import FOLDER, Entry
from raydd.campaigns.scales import SCALES
from raydd.campaigns.table import CampaignDocument, CellDocument
from raydd.figures.campaign import campaign_rows, cell_words, source_of
from raydd.figures.cells import Row, chance, number_cell
from raydd.io.document import read_document
from raydd.report.documents import DocumentFile
from raydd.report.html import Section, macros, picture_file, plural, table
from raydd.tuning.results import values_text

CAMPAIGN = DocumentFile(
    "campaign.json", "campaign", CampaignDocument, "`raydd campaign` with the same --out writes it anew"
)
MOST_BYTES = 6_000_000
"""Bytes of all pictures of a table; the smaller ones come first."""


def campaign_headline(path: Path) -> str:
    """Return in a line how much is done."""
    document = CAMPAIGN.read(path)
    names = ", ".join(source_of(plan) for plan in document.plans)
    done = sum(cell.mean is not None for cell in document.cells)
    return f"{names} at scale {document.scale}: {done} of {plural(len(document.cells), 'cell')} measured"


def campaign_sections(path: Path) -> list[Section]:
    """Return a part a table."""
    document = CAMPAIGN.read(path)
    folder = path if path.is_dir() else path.parent
    tables = campaign_rows(document.model_dump())
    sections = []
    for plan, (title, rows) in zip(document.plans, tables.items(), strict=True):
        cells = [cell for cell in document.cells if cell.plan == plan["name"]]
        about = table(rows, title)
        details = [_row(cell, str(plan["measure"])) for cell in cells]
        published = any(cell.published is not None for cell in cells)
        if not published:
            details = [{name: row[name] for name in row if name not in COMPARED} for row in details]
        listed = table(details, "Every cell, with what it took", NOTES)
        reasons = dict.fromkeys(f"{cell.row}, {cell.column}: {cell.missing}" for cell in cells if cell.missing)
        known = [cell for cell in cells if cell.networks]
        how = [
            ("protocol", "; ".join(sorted({cell.protocol for cell in known})) or str(plan["protocol"])),
            ("networks a score", ", ".join(sorted({str(cell.networks) for cell in known})) or "none yet"),
        ]
        pictures = _pictures(folder, cells)
        searched = _searched(folder / FOLDER / str(plan["name"])) if plan.get("league") else ""
        body = macros("campaign").section(
            plan, how, about, listed, pictures, [*reasons], published, _smaller(document.scale), searched
        )
        sections.append(Section(str(plan["name"]).replace("_", "-"), source_of(plan, ", "), body))
    return sections


NOTES = {
    "difference": "measured less published, at the paper's scale only",
    "p": "Welch's test of the difference; a published deviation is taken to be of five networks",
    "best on test": "of ten kept steps, chosen on the test images as papers do: optimistic",
    "peak memory": "of the device, or of the process on a CPU, in MB",
}
COMPARED = ("published", "difference", "p")
"""Columns of a plan that has published values."""


def _searched(folder: Path) -> Markup:
    """Return the table of what was measured and found for the rows of a league."""
    rows: list[Row] = []
    for path in sorted(folder.glob("*.json")):
        entry = read_document(path, Entry, "`raydd campaign` with the same --out searches again")
        share, best = entry.experts_seconds / entry.seconds, entry.accuracy
        rows.append(
            {
                "row": entry.row,
                "seconds in all": number_cell(f"{entry.seconds:.0f}", entry.seconds),
                "experts' share": number_cell(f"{100 * share:.0f} %", share),
                "seconds a step": number_cell(f"{entry.step_seconds:.3g}", entry.step_seconds),
                "steps": number_cell(str(entry.steps), entry.steps),
                "trials": number_cell(str(len(entry.trials)), len(entry.trials)),
                "held-out accuracy": number_cell("-" if best is None else f"{100 * best:.1f}", best),
                "settings": values_text(entry.values) or "-",
            }
        )
    return table(rows, "What each method was given, and the settings that its search found") if rows else Markup("")


def _smaller(name: str) -> str:
    """Return what a reader should know of a scale that is not the papers'; empty of theirs."""
    if not (scale := SCALES.get(name)) or not scale.most:
        return ""
    images = f", with {scale.dataset} in place of every data set" if scale.dataset else ""
    why = "smaller than the paper's, so its values are not comparable with the published ones"
    return f"This is scale {name}{images}: {why}."


def _row(cell: CellDocument, measure: str) -> Row:
    unit = 100 if measure == "accuracy" else 1
    best = None if cell.best is None else unit * cell.best
    return {
        "row": cell.row,
        "column": cell.column,
        "network": cell.network,
        "measured": number_cell(cell_words(cell.model_dump() | {"published": None, "best": None}, measure), cell.mean),
        "published": number_cell("-" if cell.published is None else f"{cell.published:g}", cell.published),
        "difference": number_cell("-" if cell.difference is None else f"{cell.difference:+.1f}", cell.difference),
        "p": number_cell(chance(cell.p), cell.p),
        "best on test": number_cell("-" if best is None else f"{best:.1f}", best),
        "seconds": number_cell("-" if cell.seconds is None else f"{cell.seconds:.0f}", cell.seconds),
        "peak memory": number_cell("-" if cell.memory_mb is None else f"{cell.memory_mb:.0f}", cell.memory_mb),
    }


def _pictures(folder: Path, cells: list[CellDocument]) -> dict[str, Markup]:
    """Return the picture of each set that lies here, by the words of its cell."""
    files = {f"{cell.row}, {cell.column}": folder / cell.run / "synset.png" for cell in cells if cell.run}
    there = {words: file for words, file in files.items() if file.is_file()}
    pictures, size = dict[str, Markup](), 0
    for words, file in sorted(there.items(), key=lambda item: item[1].stat().st_size):
        size += file.stat().st_size
        if size > MOST_BYTES:
            break
        pictures[words] = picture_file(file, f"synthetic images of {words}")
    return {words: pictures[words] for words in there if words in pictures}
