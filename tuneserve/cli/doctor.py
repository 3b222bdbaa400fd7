"""`tuneserve doctor`: what was found, what is missing, what to do."""

from __future__ import annotations

from dataclasses import asdict

import click

from tuneserve.console import print_json, stderr_console


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
def command(as_json: bool) -> int:
    """Show what was found, what is missing and what to do.

    Exit code 1 if something that every stage needs is missing.
    """
    from tuneserve.cli.diagnose import diagnose

    found = diagnose()
    if as_json:
        print_json(asdict(found))
    else:
        console = stderr_console()
        marks = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]"}
        width = max(len(finding.name) for finding in found.findings)
        for finding in found.findings:
            padding = " " * (8 - len(finding.status))
            console.print(f"{marks[finding.status]}{padding}{finding.name:<{width}}  ", end="")
            console.print(finding.found, markup=False)
            if finding.advice:
                console.print(f"{'':<{width + 10}}→ {finding.advice}", markup=False)
    return 0 if found.ready else 1
