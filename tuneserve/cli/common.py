"""What the commands of the stages share: --config, --run, --force and their meaning."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from tuneserve.console import say, table
from tuneserve.errors import UsageError
from tuneserve.options import resolve_settings
from tuneserve.recipe import shipped_recipes
from tuneserve.run import RunDirectory, all_runs
from tuneserve.settings import Recipe

if TYPE_CHECKING:
    from tuneserve.bench.stats.ranking import Ranking

Command = TypeVar("Command", bound=Callable[..., Any])


class RunName(click.types.StringParamType):
    """The name of a run; on Tab those that are there."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = sorted(run.name for run in all_runs())
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


RUN_NAME = RunName()


def shipped_recipe(_: click.Context, __: click.Parameter, given: Path | None) -> Path | None:
    """The recipe file that an option names: a file, or one that comes along."""
    if given is None or given.exists():
        return given
    return shipped_recipes().get(str(given), given)


config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    callback=shipped_recipe,
    help=f"Recipe: a TOML file, or one that comes along ({', '.join(shipped_recipes())}).",
)


allow_code_option = click.option(
    "--allow-code",
    is_flag=True,
    help="Let code run that only a file of the run names (it is shown): after you have read it.",
)


def stage_options(command: Command) -> Command:
    """--config, --run, --force, --skip-done and --json, as every stage takes them."""
    decorators = [
        config_option,
        click.option(
            "-r",
            "--run",
            "run_name",
            type=RUN_NAME,
            help="Name of the run (default: the recipe's file name).",
        ),
        click.option(
            "--force", is_flag=True, help="Replace what an earlier run of this stage made."
        ),
        click.option(
            "--skip-done",
            is_flag=True,
            help="Do nothing if this stage is done with the same settings.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def select_run(run_name: str | None, config: Path | None) -> RunDirectory:
    """The run that --run names, or the one named after the recipe."""
    if run_name is not None:
        return RunDirectory.named(run_name)
    if config is None:
        raise UsageError("say which run: --run NAME or --config RECIPE")
    return RunDirectory.named(config.stem)


def later_stage_settings(
    context: click.Context, run: RunDirectory, config: Path | None, *sections: str
) -> Recipe:
    """Settings for a stage after training: the run's own, with `sections` open to change.

    Model and data come from the run as trained; the recipe file may only change the stage's
    own sections.
    """
    saved = run.saved_settings()
    recipe = resolve_settings(context, saved=saved, recipe=config)
    merged = recipe.model_dump(mode="json")
    fixed = {name: table for name, table in saved.items() if name not in sections}
    return Recipe.model_validate({**merged, **fixed})


def confirmed(question: str, *, yes: bool) -> bool:
    """Did the user say so: by --yes, or asked in the terminal? Without one says what to do."""
    if yes:
        return True
    if not sys.stdin.isatty():
        say(f"{question} Nothing was removed: there is nobody to ask; pass --yes")
        return False
    return click.confirm(question, err=True)


def show_ranking(ranking: Ranking, heading: str) -> None:
    """Every contender's figure, under `heading`, with its letters, then which differences stand."""
    from tuneserve.bench.compare.figures import interval
    from tuneserve.console import percent

    rows = [
        [one.name, percent(one.accuracy.value), interval(one.accuracy), one.letters]
        for one in ranking.ranked
    ]
    columns = ["", heading, "interval", "letters"]
    table("Ranking: no difference is shown between models that share a letter", columns, rows)
    say(ranking.sentence)
