"""`tuneserve sweep`: try other settings of a recipe and keep the best."""

from __future__ import annotations

from pathlib import Path

import click

from tuneserve.cli.common import shipped_recipe
from tuneserve.console import print_json, say, table
from tuneserve.extras import require_extra
from tuneserve.options import PREFLIGHT_SETTINGS, given_options, resolve_settings, settings_options
from tuneserve.recipe import load_recipe


@click.command("sweep")
@click.argument("config", type=click.Path(path_type=Path), callback=shipped_recipe)
@click.option(
    "--over",
    multiple=True,
    metavar="SECTION.KEY=VALUES",
    help="A setting and its values: a list (train.r=8,16; names of a list between +), or a range "
    "(train.learning_rate=1e-5..1e-3), logarithmic where its bounds differ by 10 times or more, or "
    "as :log or :linear behind it says. Again for each further setting.",
)
@click.option(
    "--trials",
    type=click.IntRange(2),
    default=12,
    show_default=True,
    help="Trainings in all, the recipe as it is among them. Listed values with no more "
    "combinations than this are all tried.",
)
@click.option("--name", help="Name of the sweep; trials are the runs NAME-0, NAME-1, … (default: "
              "the recipe's file name).")  # fmt: skip
@click.option(
    "--prune/--no-prune",
    default=True,
    help="End trials early that do worse than half of the others at the same evaluation "
    "(successive halving).",
)
@click.option(
    "--keep", is_flag=True, help="Keep adapters and checkpoints of all trials, not only the best's."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
@settings_options("model", "data", "train")
@settings_options("convert", only=PREFLIGHT_SETTINGS)
@settings_options("tracking")
@click.pass_context
def command(
    context: click.Context,
    /,
    config: Path,
    over: tuple[str, ...],
    trials: int,
    name: str | None,
    prune: bool,
    keep: bool,
    as_json: bool,
    **_: object,
) -> int:
    """Try other settings of a recipe, and keep the best by the held-out loss.

    Each trial is a real training in a process of its own; the first is the recipe as it is. The
    test split is never looked at. At the end: is the best better than the recipe as it is, beyond
    the luck of the best of several? Its recipe lands in runs/NAME-sweep/best.toml. Several
    processes that give the same command share the trials; killed, the same command goes on. Exit
    code 1 if no trial was done.

    \b
    tuneserve sweep mine.toml --over train.learning_rate=1e-4,5e-4 --over train.r=8,16
    tuneserve sweep mine.toml --over train.learning_rate=1e-5..1e-3 --trials 20
    """
    recipe = resolve_settings(context, recipe=config)
    tables = load_recipe(config)
    for section, values in given_options(context).items():
        tables.setdefault(section, {}).update(values)
    from tuneserve.sweep.space import parse_axes

    axes = parse_axes(over, tables)
    require_extra("sweep", "a sweep")
    require_extra("train", "training")
    from tuneserve.sweep.plan import Sweep
    from tuneserve.sweep.stage import run_sweep

    found = run_sweep(
        Sweep(name or config.stem, tables, recipe, axes, trials, prune=prune, keep=keep)
    )
    from tuneserve.sweep.space import text_of

    rows = [
        [
            trial.run,
            *(text_of(trial.varied[axis.key]) if axis.key in trial.varied else "" for axis in axes),
            "" if trial.eval_loss is None else f"{trial.eval_loss:.4f}",
            str(trial.evaluations[-1][0]) if trial.evaluations else "",
            "best" if trial.number == found.best else trial.state,
        ]
        for trial in found.trials
    ]
    columns = ["run", *(axis.key for axis in axes), "eval loss", "last step", ""]
    table(f"Sweep {found.name}", columns, rows)
    for trial in found.trials:
        if trial.reason:
            say(f"{trial.run} failed: {trial.reason}")
    if running := [trial.run for trial in found.trials if trial.state == "running"]:
        say(f"still at work in other processes: {', '.join(running)}")
    say(found.sentence)
    if found.recipe is not None:
        say(f"its recipe: {found.recipe}")
        say(f"next: tuneserve convert --run {found.trials[found.best or 0].run}")
    if as_json:
        print_json(found.to_json())
    return 0 if found.best is not None else 1
