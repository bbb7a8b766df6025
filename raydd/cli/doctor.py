"""The command that checks the installation and the machine."""

import typer

from raydd.cli.flags import Output, command
from raydd.cli.output import show

app = typer.Typer()
COLOURS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


@command(app, "raydd doctor")
def doctor(screen: Output) -> None:
    """Check versions, devices, Ray, data sets, memory and disk, and say how to repair what is wrong.

    The exit code is 1 with a fault.
    """
    from rich.text import Text

    from raydd.doctor import examine, versions

    findings = examine()
    counts = {state: sum(finding.state == state for finding in findings) for state in COLOURS}
    checks = [finding.document() for finding in findings]
    document = {"versions": versions(), "checks": checks, "warnings": counts["warning"], "faults": counts["fault"]}
    wide = max(len(finding.name) for finding in findings)
    rows = []
    for finding in findings:
        words = f" {finding.name:{wide}}  {finding.detail}" + (f". {finding.remedy}" if finding.remedy else "")
        rows.append(Text.assemble((f"{finding.state:7}", COLOURS[finding.state]), words))
    show(screen, document, (), rows)
    if counts["fault"]:
        raise typer.Exit(1)
