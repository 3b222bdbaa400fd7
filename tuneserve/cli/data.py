"""`tuneserve data`: build example files, and check them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tuneserve.cli import data_check
from tuneserve.cli.common import config_option
from tuneserve.console import print_json, say
from tuneserve.errors import OutputExistsError, UsageError
from tuneserve.extras import require_extra
from tuneserve.files import check_no_device, sha256_file, write_jsonl
from tuneserve.options import resolve_settings, settings_options
from tuneserve.records import Record

F = TypeVar("F", bound=Callable[..., Any])


class ExampleFile(Record):
    """A file of examples that was written: how many there are, by group or of how many answers
    `asked` for, and its SHA-256."""

    file: str
    examples: int
    groups: dict[str, int] | None = None
    asked: int | None = None
    sha256: str


def output_option(default: str) -> Callable[[F], F]:
    """-o FILE, the file that is written."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        default=Path(default),
        show_default=True,
        help="File to write.",
    )


def ending_options(function: F) -> F:
    """What a command does about a file that is there already, and how it tells the result."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
        click.option("--skip-done", is_flag=True, help="Do nothing if the output file exists."),
        click.option("--force", is_flag=True, help="Replace the output file."),
    ):
        function = option(function)
    return function


def write_examples(output: Path, examples: list[dict[str, str]], **more: Any) -> ExampleFile:
    """Write a file of examples; `more` are the figures that not every ExampleFile has."""
    write_jsonl(output, examples)
    return ExampleFile(file=str(output), examples=len(examples), sha256=sha256_file(output), **more)


def is_done(output: Path, *, force: bool, skip_done: bool) -> bool:
    """Is there nothing to do? Raises OutputExistsError if `output` must not be replaced, UsageError
    if it is a directory."""
    if output.is_dir():
        raise UsageError("is a directory, and a file is to be written", where=str(output))
    check_no_device(output)
    if output.exists() and skip_done:
        say(f"{output} is there already")
        return True
    if os.path.lexists(output) and not force:  # a link that leads nowhere too
        raise OutputExistsError(output)
    return False


@click.group()
def command() -> None:
    """Build example files to train on, and check them."""


command.add_command(data_check.command)


@command.command()
@output_option("data/sentiment.jsonl")
@click.option(
    "--per-cell",
    type=click.IntRange(min=1),
    default=185,
    show_default=True,
    help="Examples for each of 4 domains x 3 labels.",
)
@click.option(
    "--from",
    "package_file",
    type=click.Path(path_type=Path),
    help="The vaderSentiment source package, if it is on disk already.",
)
@ending_options
def sentiment(
    output: Path,
    per_cell: int,
    package_file: Path | None,
    force: bool,
    skip_done: bool,
    as_json: bool,
) -> None:
    """Sentences with the sentiment that twenty people gave them (MIT licence, Hutto 2014).

    Four domains: Amazon reviews, film reviews, New York Times editorials, tweets. Fetched once
    with pip, then kept in the cache.
    """
    from tuneserve.sentiment import obtain_archive, sentiment_examples

    if is_done(output, force=force, skip_done=skip_done):
        return
    examples = sentiment_examples(obtain_archive(package_file), per_cell=per_cell)
    groups = dict(sorted(Counter(example["group"] for example in examples).items()))
    made = write_examples(output, examples, groups=groups)
    say(
        f"{output}: {len(examples)} examples; "
        + ", ".join(f"{group} {count}" for group, count in groups.items())
    )
    if as_json:
        print_json(made.to_json())


@command.command("general")
@config_option
@output_option("data/general.jsonl")
@click.option(
    "--questions",
    type=click.Path(path_type=Path),
    help="Your own questions, one a line; '# kind' names the kind of those below.  [218 of ours]",
)
@click.option(
    "--samples",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Answers to each question.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=8),
    default=256,
    show_default=True,
    help="Longest answer; longer ones are dropped.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(0.0, 2.0, min_open=True),
    default=1.0,
    show_default=True,
    help="1 = the model's own distribution.",
)
@click.option("--seed", type=click.IntRange(min=0), default=3407, show_default=True)
@ending_options
@settings_options("model", only=("base", "load_in_4bit", "chat_template"))
@click.pass_context
def general(
    context: click.Context,
    /,
    config: Path | None,
    output: Path,
    questions: Path | None,
    samples: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    force: bool,
    skip_done: bool,
    as_json: bool,
    **_: object,
) -> None:
    """General questions answered by the base model itself, to replay against forgetting.

    The answers are what the base says today, right or wrong: replayed in training ([data] general
    and replay) they keep it saying so, and on those held out the loss shows what was forgotten.

    \b
    tuneserve data general --config mine.toml
    tuneserve train --config mine.toml --general data/general.jsonl --replay 0.2
    """
    recipe = resolve_settings(context, recipe=config)
    if is_done(output, force=force, skip_done=skip_done):
        return
    require_extra("train", "the base model's own answers")
    from tuneserve.finetune.self_distillation import QUESTIONS, Sampling, read_replay_prompts
    from tuneserve.serve.self_distillation import make_general

    sampling = Sampling(samples, max_tokens, temperature, seed=seed)
    asked = read_replay_prompts(questions or QUESTIONS)
    examples = make_general(recipe.model, asked, sampling)
    total = len(asked) * samples
    made = write_examples(output, examples, asked=total)
    left_out = total - len(examples)
    say(f"{output}: {len(examples)} examples; {left_out} answers without an end left out")
    if as_json:
        print_json(made.to_json())
