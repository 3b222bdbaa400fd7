"""`tuneserve bench`: does the tuned model beat the base?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tuneserve.cli.common import (
    allow_code_option,
    later_stage_settings,
    select_run,
    show_ranking,
    stage_options,
)
from tuneserve.console import human_bytes, print_json, say, table
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.options import BENCH_FIELDS, settings_options

if TYPE_CHECKING:
    from tuneserve.bench.compare.results import Report, SweepResult

EXIT_WORSE = 3


@click.command()
@stage_options
@allow_code_option
@click.option(
    "--rescore",
    is_flag=True,
    help="Make a report that is there anew: what is measured already is used again (with another "
    "scorer or other options too), only what is missing is measured.",
)
@click.option(
    "--junit",
    type=click.Path(path_type=Path),
    help="Write the verdicts as JUnit XML there too; an earlier output is replaced.",
)
@click.option(
    "--markdown",
    type=click.Path(path_type=Path),
    help="Write a table in Markdown there too, short enough for a pull request; an earlier "
    "output is replaced.",
)
@settings_options("bench", "serve", only=BENCH_FIELDS)
@click.pass_context
def command(
    context: click.Context,
    /,
    config: Path | None,
    run_name: str | None,
    force: bool,
    skip_done: bool,
    rescore: bool,
    as_json: bool,
    junit: Path | None,
    markdown: Path | None,
    **_: Any,
) -> int:
    """Compare the tuned model with its base on the held-out prompts, with error bars.

    Both run as the same quantization with the same template, context and sampling. The report
    lands in runs/NAME/bench. What is measured once is used again: by a benchmark that was killed,
    with --rescore, and of the base by other runs. Exit code 3 with --fail-if-worse if the tuned
    model is shown to be worse, in all or in a group of prompts, 1 with --fail-below if a figure is
    below its least value.

    \b
    tuneserve bench --run sentiment
    tuneserve bench --run sentiment --limit 100 --fail-if-worse
    tuneserve bench --run sentiment --fail-below accuracy=0.75 --junit bench.xml
    tuneserve bench --run sentiment --against other --against model.gguf --rescore
    tuneserve bench --run sentiment --ladder --noise-floor --rescore
    """
    run = select_run(run_name, config).require()
    recipe = later_stage_settings(context, run, config, "bench", "serve", "tracking")
    from tuneserve.bench.compare.report_file import as_json as report_as_json
    from tuneserve.bench.report.gates import failed_gates, read_gates, shown_worse
    from tuneserve.bench.report.junit import BEGIN, write_junit
    from tuneserve.bench.report.pages import FOR_PULL_REQUEST, write_for_pull_request
    from tuneserve.bench.stage import run_bench
    from tuneserve.outputs import check_output
    from tuneserve.tracking import tracked

    if junit:
        check_output(junit, BEGIN)
    if markdown:
        check_output(markdown, FOR_PULL_REQUEST)
    if junit and markdown and junit.resolve() == markdown.resolve():
        raise UsageError("--junit and --markdown name one file", where=str(junit))
    gates = read_gates(recipe.bench)
    with tracked(recipe, run, "bench") as tracking:
        report = run_bench(run, recipe, force=force, skip_done=skip_done, rescore=rescore)
        tracking.finish()
    if as_json:
        print_json(report_as_json(report))
    else:
        show(report)
        say(f"report: {run.bench / 'report.html'}")
    if junit:
        write_junit(junit, report, gates)
    if markdown:
        write_for_pull_request(markdown, report, gates)
    failed = failed_gates(report, gates)
    if failed:
        say(f"failed: {', '.join(failed)}")
    worse = shown_worse(report) if recipe.bench.fail_if_worse else []
    if worse:
        say(f"failed: the tuned model is shown to be worse: {'; '.join(worse)}")
        return EXIT_WORSE
    return TuneserveError.exit_code if failed else 0


def show(report: Report) -> None:
    """The figures as a table, then the verdict."""
    from tuneserve.bench.compare.figures import (
        memory,
        number,
        points,
        points_interval,
        rate,
    )

    groups = [(group.name, group.accuracy, group.perplexity) for group in report.groups]
    everything = ("All", report.accuracy, report.perplexity)
    rows = [
        [
            name,
            str(accuracy.prompts),
            f"{100 * accuracy.base.value:.1f} → {100 * accuracy.tuned.value:.1f}",
            f"{points(accuracy.difference.value)} ({points_interval(accuracy.difference)})",
            f"{number(perplexity.base.value)} → {number(perplexity.tuned.value)}",
        ]
        for name, accuracy, perplexity in [everything, *groups]
    ]
    score = "score, %" if report.accuracy.graded else "right, %"
    columns = ["", "prompts", score, "difference, points", "perplexity"]
    table("Held-out prompts: base → tuned", columns, rows)
    for model in (report.base, report.tuned):
        prompt, generation = rate(model.speed.prompt), rate(model.speed.generation)
        say(f"{model.name}: prompt {prompt}, generation {generation} tok/s (95 % intervals)")
    for level in report.load:
        say(
            f"tuned, clients at once: {level.clients}, {rate(level.throughput)} tok/s, "
            f"first token after {level.first_token_median:.2f} s, {memory(level.memory)} MiB of RAM"
        )
    for cost in report.costs:
        say(f"clients at once: {cost.clients}, {cost.describe()}")
    if report.judge:
        say(report.judge.describe())
    if report.ladder:
        _show_ladder(report.ladder)
    if report.ranking:
        show_ranking(report.ranking, "score" if report.accuracy.graded else "right")
        say(report.ranking.beside_verdict)
    say(report.verdict.sentence)
    say(report.forgetting.sentence)


def _show_ladder(points: list[SweepResult]) -> None:
    rows = [
        [
            point.name,
            point.cache,
            human_bytes(point.size_bytes),
            f"{point.bits_per_weight:.2f}",
            f"{point.perplexity.value:.4g}",
            f"{point.kld.value:.4f}" if point.kld else "-",
            f"{100 * point.accuracy.value:.1f} %",
        ]
        for point in points
    ]
    columns = ["", "KV cache", "size", "bits a weight", "PPL", "KLD", "accuracy"]
    table("Quantization ladder", columns, rows)
