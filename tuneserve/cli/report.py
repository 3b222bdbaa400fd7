"""`tuneserve report`: several runs' benchmarks in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tuneserve.console import human_bytes, print_json, say, table
from tuneserve.run import RunDirectory

if TYPE_CHECKING:
    from tuneserve.bench.compare.runs import RunRow


@click.command()
@click.argument("runs", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON on stdout.")
def command(runs: tuple[str, ...], as_json: bool) -> None:
    """Compare the benchmarks of several runs.

    Each run's tuned model stands beside its base and, where both answered the same prompts,
    against the first run's: a paired difference with its interval and a Holm-adjusted p.

    \b
    tuneserve report first second third
    """
    from tuneserve.bench.compare.runs import compare_runs

    rows = compare_runs([RunDirectory.named(name).require() for name in runs])
    if as_json:
        print_json([row.to_json() for row in rows])
    else:
        show(rows)


def show(rows: list[RunRow]) -> None:
    """The table, then each run's verdict."""
    from tuneserve.bench.compare.figures import p_value, points, points_interval

    columns = ["run", "base", "tuned", "PPL", "tok/s", "size", "against the first", "p"]
    cells = []
    for row in rows:
        report = row.report
        against = row.why_not or "-"
        if row.difference is not None:
            against = f"{points(row.difference.value)} ({points_interval(row.difference)})"
        cells.append(
            [
                report.run,
                f"{100 * report.accuracy.base.value:.1f} %",
                f"{100 * report.accuracy.tuned.value:.1f} %",
                f"{report.perplexity.tuned.value:.3f}",
                f"{report.tuned.speed.generation.mean:.1f}",
                human_bytes(report.tuned.size_bytes),
                against,
                "-" if row.p is None else p_value(row.p),
            ]
        )
    table("Runs", columns, cells)
    for row in rows:
        say(f"{row.report.run}: {row.report.verdict.sentence}")
