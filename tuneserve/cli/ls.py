"""`tuneserve ls`: the runs there are."""

from __future__ import annotations

import click

from tuneserve.console import human_bytes, print_json, say, table
from tuneserve.run import all_runs, runs_directory


@click.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print the runs as JSON on stdout.")
def command(as_json: bool) -> None:
    """List the runs: base, state, figures, size.

    The newest first, of the folder `runs` or of $TUNESERVE_RUNS.

    \b
    tuneserve ls
    tuneserve ls --json
    """
    from tuneserve.overview.run_summary import summary_of

    runs = [summary_of(run) for run in all_runs()]
    if as_json:
        print_json({"folder": str(runs_directory()), "runs": [run.to_json() for run in runs]})
        return
    if not runs:
        say(f"no runs in {runs_directory()}; start one: tuneserve train")
        return
    rows = []
    for run in runs:
        base, tuned = (run.figures.get(f"accuracy_{model}") for model in ("base", "tuned"))
        right = "" if base is None or tuned is None else _right(base, tuned)
        if earlier := run.earlier_report:
            right = f"({_right(earlier.accuracy_base, earlier.accuracy_tuned)})"
        loss = run.figures.get("eval_loss")
        rows.append(
            [
                run.name, run.base, run.state, "" if loss is None else f"{loss:.4f}", right,
                human_bytes(run.size_bytes),
            ]
        )  # fmt: skip
    table(f"Runs in {runs_directory()}",
          ["run", "base", "state", "eval loss", "right, %", "size"], rows)  # fmt: skip
    for run in runs:
        if run.earlier_report:
            say(f"{run.name}: {run.earlier_report.describe(run.name)}")
    if spare := sum(run.removable_bytes for run in runs):
        say(f"{human_bytes(spare)} can be removed and every run stays whole: tuneserve clean")


def _right(base: float, tuned: float) -> str:
    return f"{100 * base:.1f} → {100 * tuned:.1f}"
