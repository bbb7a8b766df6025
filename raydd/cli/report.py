"""The command that makes a page of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import AsJson
from raydd.cli.paths import check_paths, out_file

app = typer.Typer()
Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...",
        help="Folders of distill, tune, nas, continual, ablate or experts, or files scores.json and synset.arrow.",
    ),
]
PAGE = "report.html"


@app.command(epilog="Example: raydd report runs/quickstart")
def report(
    runs: Runs,
    out: Annotated[
        Path | None,
        typer.Option(
            help=f"The page, or a folder for it; by default {PAGE} in the run's folder, of several runs {PAGE} here."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """One HTML page of a run, or of several side by side, that needs no network and no second file."""
    page = page_path(runs, out)
    check_paths(runs, "name a folder that raydd wrote")
    from raydd.io.console import Screen
    from raydd.report.build import write_report

    screen = Screen(as_json)
    try:
        with screen.doing("writing the report"):
            write_report(runs, page)
    except PermissionError as error:
        raise ValueError(f"{page} cannot be written ({error.strerror}); name another place by --out") from None
    document = {"runs": [str(run) for run in runs], "outputs": {"report": str(page)}}
    screen.result(document, lambda console: console.print(f"open {page}", markup=False))


def page_path(runs: Sequence[Path], out: Path | None) -> Path:
    """Where the page of runs goes.

    Raises:
        ValueError: It is no name of a page, or cannot be a file.
    """
    if out is None:
        if len(runs) != 1:
            return Path(PAGE)
        return runs[0] / PAGE if runs[0].is_dir() else runs[0].with_name(f"{runs[0].stem}-{PAGE}")
    if not out.is_dir() and out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out}: a report is a page; use {out.with_suffix('.html')}, or a folder that exists")
    return out_file(out, PAGE)
