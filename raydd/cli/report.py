"""The command that makes a page of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import Output, command
from raydd.cli.paths import each, existing_result, local_paths, out_file

app = typer.Typer()
Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Outputs of distill, tune, nas, continual, ablate or experts: folders, URIs, scores.json, synset.arrow.",
        callback=each(existing_result),
    ),
]
PAGE = "report.html"


@command(app, "raydd report runs/quickstart")
def report(
    runs: Runs,
    screen: Output,
    out: Annotated[
        Path | None,
        typer.Option(help=f"The page, or a folder; by default {PAGE} in the run's folder, or here for several runs."),
    ] = None,
) -> None:
    """Write one self-contained HTML page, which opens offline, about a run or several side by side."""
    paths = local_paths(runs, screen.note)
    page = page_path(paths, out or (Path(PAGE) if "://" in runs[0] else None))
    from raydd.io.filesystem import public_uri
    from raydd.report.build import write_report

    try:
        with screen.doing("writing the report"):
            write_report(paths, page)
    except PermissionError as error:
        raise ValueError(f"{page} cannot be written ({error.strerror}); name another place by --out") from None
    document = {"runs": [public_uri(run) for run in runs], "outputs": {"report": str(page)}}
    screen.result(document, lambda console: console.print(f"open {page}", markup=False))


def page_path(runs: Sequence[Path], out: Path | None) -> Path:
    """Return the path of the page of runs."""
    if out is None:
        if len(runs) != 1:
            return Path(PAGE)
        return runs[0] / PAGE if runs[0].is_dir() else runs[0].with_name(f"{runs[0].stem}-{PAGE}")
    if not out.is_dir() and out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out}: a report is a page; use {out.with_suffix('.html')}, or a folder that exists")
    return out_file(out, PAGE)
