"""The command that makes a page of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from raydd.cli.flags import Output, command
from raydd.cli.paths import each, existing_result, local_paths, out_location

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
_OUT = f"The page, a folder or a URI; by default {PAGE} in the run's folder, or here for several runs or a URI."


@command(app, "raydd report runs/quickstart")
def report(runs: Runs, screen: Output, out: Annotated[str | None, typer.Option(help=_OUT)] = None) -> None:
    """Write one self-contained HTML page, which opens offline, about a run or several side by side."""
    paths = local_paths(runs, screen.note)
    place = page_location(paths, out or (PAGE if "://" in runs[0] else None))
    from raydd.io.uri import public_uri
    from raydd.report.build import missing_of, write_report

    try:
        with screen.doing("writing the report"):
            page = write_report(paths, place, runs)
    except PermissionError as error:
        raise ValueError(f"{place} cannot be written ({error.strerror}); name another place by --out") from None
    missing = [
        {"run": public_uri(run)} | one.to_document()
        for run, path in zip(runs, paths, strict=True)
        for one in missing_of(path)
    ]
    document = {"runs": [public_uri(run) for run in runs], "missing": missing, "outputs": {"report": str(page)}}
    screen.result(document, lambda console: console.print(f"open {page}", markup=False))


def page_location(runs: Sequence[Path], out: str | None) -> str:
    """Return the path or the URI of the page of runs."""
    if out is None:
        if len(runs) != 1:
            return PAGE
        return str(runs[0] / PAGE if runs[0].is_dir() else runs[0].with_name(f"{runs[0].stem}-{PAGE}"))
    path = Path(out)
    if "://" not in out and not path.is_dir() and path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out}: a report is a page; use {path.with_suffix('.html')}, or a folder that exists")
    return out_location(out, PAGE)
