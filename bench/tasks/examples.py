"""The examples that a benchmark asks: those with a prompt, answered by a text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from tuneserve.chat.ahead import rendered_ahead
from tuneserve.chat.examples import Example, read_split
from tuneserve.chat.prompt import EncodedExample, GGUFTokenizer, encode, template_of
from tuneserve.console import say
from tuneserve.errors import UsageError
from tuneserve.llama import LlamaModel

T = TypeVar("T")


def read_held_out(path: Path, limit: int = 0) -> list[Example]:
    """The examples of a split file that can be asked, at most `limit` (0: all) of them.

    Where fewer are asked for, they are spread evenly over the file, so that a file sorted by group
    still gives all groups. Raises UsageError naming every bad line, or if there is no example.
    """
    if not path.is_file():
        raise UsageError("no held-out examples", where=str(path))
    there = read_split(path)
    examples = askable(there)
    if not examples:
        raise UsageError(
            "no held-out examples with a prompt and a text as its answer",
            where=str(path),
            hint="Raise test_fraction in [data] and train again. Of plain texts there is only the "
            "perplexity to measure: tuneserve perplexity",
        )
    say_left_out(len(there) - len(examples), len(there), path)
    return evenly(examples, limit or len(examples))


def askable(examples: Iterable[Example]) -> list[Example]:
    """The examples without those that ask nothing (a text) or are answered by no text (a call of a
    tool alone)."""
    return [example for example in examples if example.prompt and example.reference.strip()]


def say_left_out(count: int, total: int, path: Path) -> None:
    """Say how many examples of a file can't be asked."""
    if count:
        say(
            f"{path}: {count:,} of {total:,} examples are left out: they ask nothing (texts), or "
            "no text answers them (calls of a tool alone)"
        )


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, spread evenly over them."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def encode_examples(
    model: LlamaModel, examples: Sequence[Example], *, thoughts: str = "train"
) -> list[EncodedExample]:
    """Encode with the GGUF's own template and tokenizer; `thoughts` is [data]'s setting."""
    tokenizer = GGUFTokenizer(model)
    template = template_of(model) if any(example.prompt for example in examples) else None
    return [
        # Files of further tasks may have answers that no training has seen.
        encode(tokenizer, template, example, thoughts=thoughts, as_it_is=True)
        for example in rendered_ahead(
            tokenizer, template, examples, thoughts=thoughts, checked=False
        )
    ]
