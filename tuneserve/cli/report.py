"""`tuneserve report`: several runs' benchmarks in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuneserve.cli.common import RUN_NAME, show_ranking
from tuneserve.console import human_bytes, print_json, say, table
from tuneserve.run import RunDirectory

if TYPE_CHECKING:
    from tuneserve.bench.compare.runs import RunRow, RunsComparison


@click.command()
@click.argument("runs", nargs=-1, required=True, type=RUN_NAME)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON on stdout.")
@click.option(
    "--markdown",
    type=click.Path(path_type=Path),
    help="Write the tables in Markdown there too; an earlier output is replaced.",
)
def command(runs: tuple[str, ...], as_json: bool, markdown: Path | None) -> None:
    """Compare the benchmarks of several runs.

    Each run's tuned model stands beside its base and, on the prompts that both answered, against
    the first run's: a paired difference with its interval and a Holm-adjusted p. Of three runs or
    more every pair is tested too, and a ranking says which differences stand.

    \b
    tuneserve report first second third
    """
    from tuneserve.bench.compare.runs import compare_runs
    from tuneserve.bench.report.pages import OF_RUNS, write_runs
    from tuneserve.outputs import check_output

    if markdown:
        check_output(markdown, OF_RUNS)
    found = compare_runs([RunDirectory.named(name).require() for name in runs])
    if as_json:
        print_json(found.to_json())
    else:
        show(found)
    if markdown:
        write_runs(markdown, found)


def show(found: RunsComparison) -> None:
    """The table, the ranking, then each run's verdict."""
    columns = ["run", "right, %", "PPL", "tok/s", "size", "against first", "p"]
    table(
        "Runs: base → tuned", columns, [_cells(row, part=found.is_part(row)) for row in found.rows]
    )
    if found.ranking:
        show_ranking(found.ranking, "tuned")
    say("tok/s was measured apart for each run: compare it with the base's beside it, not by rows")
    if found.note:
        say(found.note)
    for row in found.rows:
        say(f"{row.report.run}: {row.report.verdict.sentence}")
        if row.measured_as:
            say(f"{row.report.run} was measured under the name {row.measured_as}")
        if row.earlier:
            say(f"{row.report.run}: this benchmark is {row.earlier}")
        if row.differs:
            first = found.rows[0].report.run
            say(f"{row.report.run} differs from {first} in {row.differs}")


def _cells(row: RunRow, *, part: bool) -> list[str]:
    from tuneserve.bench.compare.figures import number, p_value, points, points_interval

    report, against = row.report, row.why_not or "-"
    if row.difference is not None:
        against = f"{points(row.difference.value)}\n{points_interval(row.difference)}"
        if row.shared < report.accuracy.prompts:
            against += f"\nof {row.shared:,} prompts"
    return [
        report.run,
        f"{100 * report.accuracy.base.value:.1f} → {100 * report.accuracy.tuned.value:.1f}",
        number(report.perplexity.tuned.value),
        f"{report.base.speed.generation.mean:.1f} → {report.tuned.speed.generation.mean:.1f}",
        human_bytes(report.tuned.size_bytes),
        against,
        "-" if row.p is None else p_value(row.p),
    ]
