"""`tuneserve show`: one run, all that its record tells in short."""

from __future__ import annotations

import click

from tuneserve.cli.common import RUN_NAME
from tuneserve.console import human_bytes, print_json, say, table
from tuneserve.run import RunDirectory


@click.command("show")
@click.argument("run_name", metavar="RUN", type=RUN_NAME)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON on stdout.")
def command(run_name: str, as_json: bool) -> None:
    """Show a run: what it was made of, its figures, sizes, and what can be removed.

    \b
    tuneserve show sentiment
    """
    from tuneserve.overview.run_detail import detail_of, shown_figure

    detail = detail_of(RunDirectory.named(run_name))
    found = detail.summary
    if as_json:
        print_json(
            {
                **found.to_json(), "settings": detail.settings, "parts_bytes": detail.parts_bytes,
                "removable": [part.to_json() for part in detail.removable],
                "not_ours": detail.not_ours,
            }
        )  # fmt: skip
        return
    say(f"{found.name}: {found.state}; begun {found.created}; base {found.base}")
    for line in detail.changed:
        say(f"  {line}")
    figures = [[name, shown_figure(name, value)] for name, value in found.figures.items()]
    table("Figures", ["figure", "value"], figures)
    if found.verdict:
        say(found.verdict)
    if found.earlier_report:
        say(found.earlier_report.describe(found.name))
        say(f"  {found.earlier_report.verdict}")
    parts = [[name, human_bytes(size)] for name, size in detail.parts_bytes.items()]
    table("On disk", ["part", "size"], parts)
    for part in detail.removable:
        say(f"can be removed: {part.path} ({human_bytes(part.size_bytes)}): {part.what}")
