"""All examples to tokens, with the figures that are known before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from tuneserve.errors import TuneserveError
from tuneserve.finetune.data.reading import raise_problems
from tuneserve.finetune.examples import Example
from tuneserve.finetune.tokens.encoder import Encoded, Encoder
from tuneserve.records import Number, Record


class Spread(Record):
    """Of counts: the smallest, the median and the largest."""

    min: int
    median: Number
    max: int


class TokenCounts(Record):
    """Tokens of a set of examples, trained ones, and what cutting to the longest length cost."""

    examples: int
    tokens: int
    longest: int = 0
    trained_tokens: int
    trained_per_example: Spread = Spread(min=0, median=0, max=0)
    truncated: int = 0
    trained_tokens_lost: int = 0
    untrained_turns: int = 0


def encode_all(
    encoder: Encoder, examples: Sequence[Example], *, skip_bad: bool = False
) -> tuple[list[Example], list[Encoded]]:
    """The examples and their tokens.

    Raises UsageError listing each that can't be trained on; with `skip_bad` they are left out.
    """
    kept: list[Example] = []
    encoded: list[Encoded] = []
    problems: list[str] = []
    for example in examples:
        try:
            encoded.append(encoder.encode(example))
            kept.append(example)
        except TuneserveError as error:
            problems.append(f"{example.where}: {error.message}")
    if not skip_bad or not kept:
        raise_problems(problems, len(examples), what="trained on")
    return kept, encoded


def problems_with_ends(
    encoder: Encoder, examples: Sequence[Example], encoded: Sequence[Encoded]
) -> list[str]:
    """What is wrong with the ends of answers: one that is not cut must end with an end token, and
    not all may be cut, or the model never learns to stop. Texts without a prompt may be."""
    ends = {*encoder.special_ids, encoder.tokenizer.eos_token_id}
    found = [
        f"{example.where}: the answer has no end token"
        for example, item in zip(examples, encoded, strict=True)
        if not item.truncated and item.labels[-1] not in ends
    ]
    answers = [item for e, item in zip(examples, encoded, strict=True) if len(e.messages) > 1]
    if answers and all(item.truncated for item in answers):
        found.append(
            f"{examples[0].where}: this and every other training example is cut to "
            f"max_seq_length ({encoder.max_length}): no answer keeps its end"
        )
    return found


def token_counts(encoded: Sequence[Encoded]) -> TokenCounts:
    """The counts of a set of examples."""
    if not encoded:
        return TokenCounts(examples=0, tokens=0, trained_tokens=0)
    trained = [item.trained for item in encoded]
    return TokenCounts(
        examples=len(encoded),
        tokens=sum(len(item.input_ids) for item in encoded),
        longest=max(len(item.input_ids) for item in encoded),
        trained_tokens=sum(trained),
        trained_per_example=Spread(min=min(trained), median=median(trained), max=max(trained)),
        truncated=sum(item.truncated for item in encoded),
        trained_tokens_lost=sum(item.lost for item in encoded),
        untrained_turns=sum(item.untrained_turns for item in encoded),
    )


def about_turns(counts: TokenCounts) -> str:
    """What to say of earlier answers that the template lets no one train; empty without any."""
    number = counts.untrained_turns
    if not number:
        return ""
    return (
        f"; {number:,} earlier answers are not trained: this chat template changes them when the "
        "conversation goes on"
    )


def to_dataset(encoded: Sequence[Encoded]) -> Any:
    """A datasets.Dataset with input_ids and labels, ready for the trainer."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [item.input_ids for item in encoded],
            "labels": [item.labels for item in encoded],
        }
    )
