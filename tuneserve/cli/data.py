"""`tuneserve data`: build example files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from tuneserve.console import print_json, say
from tuneserve.errors import OutputExistsError
from tuneserve.files import sha256_file, write_jsonl


@click.group()
def command() -> None:
    """Build example files to train on."""


@command.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("data/sentiment.jsonl"),
    show_default=True,
    help="File to write.",
)
@click.option(
    "--per-cell",
    type=click.IntRange(min=1),
    default=110,
    show_default=True,
    help="Examples for each of 4 domains x 3 labels.",
)
@click.option(
    "--from",
    "package_file",
    type=click.Path(path_type=Path),
    help="The vaderSentiment source package, if it is on disk already.",
)
@click.option("--force", is_flag=True, help="Replace the output file.")
@click.option("--skip-done", is_flag=True, help="Do nothing if the output file exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
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

    if output.exists() and skip_done:
        say(f"{output} is there already")
        return
    if output.exists() and not force:
        raise OutputExistsError(output)
    examples = sentiment_examples(obtain_archive(package_file), per_cell=per_cell)
    write_jsonl(output, examples)
    groups = dict(sorted(Counter(example["group"] for example in examples).items()))
    say(
        f"{output}: {len(examples)} examples; "
        + ", ".join(f"{group} {count}" for group, count in groups.items())
    )
    if as_json:
        print_json(
            {"file": str(output), "examples": len(examples), "groups": groups,
             "sha256": sha256_file(output)}
        )  # fmt: skip
