"""The command that looks at the installation and the machine."""

from collections.abc import Sequence
from typing import Any

import typer

from raydd.cli.options import AsJson

app = typer.Typer()
COLOURS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


@app.command(epilog="Example: raydd doctor")
def doctor(as_json: AsJson = False) -> None:
    """Look at versions, devices, Ray, data sets, memory and disk, and say what to mend; exit code 1 with a fault."""
    from raydd.doctor import examine, versions
    from raydd.io.console import Screen

    findings = examine()
    counts = {state: sum(finding.state == state for finding in findings) for state in COLOURS}
    document = {
        "versions": versions(),
        "checks": [finding.document() for finding in findings],
        "warnings": counts["warning"],
        "faults": counts["fault"],
    }
    Screen(as_json).result(document, lambda console: show(console, findings))
    if counts["fault"]:
        raise typer.Exit(1)


def show(console: Any, findings: Sequence[Any]) -> None:
    """A line a finding: its state, what was found, and what to do."""
    from rich.text import Text

    wide = max(len(finding.name) for finding in findings)
    for finding in findings:
        words = f" {finding.name:{wide}}  {finding.detail}" + (f". {finding.remedy}" if finding.remedy else "")
        console.print(Text.assemble((f"{finding.state:7}", COLOURS[finding.state]), words))
