"""`tuneserve compare`: how two runs differ, in settings and in results."""

from __future__ import annotations

import click

from tuneserve.cli.common import RUN_NAME
from tuneserve.console import print_json, say, table
from tuneserve.errors import UsageError
from tuneserve.run import RunDirectory


@click.command("compare")
@click.argument("first", type=RUN_NAME)
@click.argument("second", type=RUN_NAME)
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON on stdout.")
def command(first: str, second: str, as_json: bool) -> None:
    """Show in which settings and results two runs differ.

    Whether one's answers are better than the other's, with intervals: `tuneserve report`.

    \b
    tuneserve compare first second
    """
    from tuneserve.changes import changed_settings, with_defaults
    from tuneserve.overview.run_detail import shown_figure
    from tuneserve.overview.run_summary import summary_of

    runs = [RunDirectory.named(name).require() for name in (first, second)]
    if runs[0].root == runs[1].root:
        raise UsageError("is the same run twice", where=first)
    settings = [with_defaults(run.saved_settings()) for run in runs]
    changed = changed_settings(settings[0], settings[1])
    summaries = [summary_of(run) for run in runs]
    names = list(dict.fromkeys(name for found in summaries for name in found.figures))
    figures = {name: [found.figures.get(name) for found in summaries] for name in names}
    if as_json:
        print_json({
            "runs": [found.name for found in summaries], "settings": changed, "figures": figures,
        })  # fmt: skip
        return
    say(f"settings, from {runs[0].name} to {runs[1].name}:" if changed else "the same settings")
    for line in changed:
        say(f"  {line}")
    rows = [
        [name, *("-" if value is None else shown_figure(name, value) for value in values)]
        for name, values in figures.items()
    ]
    table("Results", ["figure", *(found.name for found in summaries)], rows)
    for found in summaries:
        if found.earlier_report:
            say(f"{found.name}: {found.earlier_report.describe(found.name)}")
    if all("accuracy_tuned" in found.figures for found in summaries):
        say(f"with intervals: tuneserve report {runs[0].name} {runs[1].name}")
