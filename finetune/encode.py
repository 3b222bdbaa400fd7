"""All examples to tokens, with the figures that are known before training starts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from finetune.examples import Example
from finetune.mask import Encoded, Encoder
from tuneserve.errors import TuneserveError, UsageError


def encode_all(encoder: Encoder, examples: Sequence[Example]) -> list[Encoded]:
    """Encode every example. Raises UsageError listing each that can't be trained on."""
    encoded: list[Encoded] = []
    problems: list[str] = []
    for example in examples:
        try:
            encoded.append(encoder.encode(example))
        except TuneserveError as error:
            problems.append(f"{example.where}: {error.message}")
    if len(problems) == 1:
        where, _, message = problems[0].partition(": ")
        raise UsageError(message, where=where)
    if problems:
        raise UsageError(
            f"{len(problems)} of {len(examples)} examples can't be trained on", problems=problems
        )
    return encoded


def token_counts(encoded: Sequence[Encoded]) -> dict[str, Any]:
    """Tokens and trained tokens of a set, and what cutting to the longest length cost."""
    if not encoded:
        return {"examples": 0, "tokens": 0, "trained_tokens": 0}
    trained = [item.trained for item in encoded]
    return {
        "examples": len(encoded),
        "tokens": sum(len(item.input_ids) for item in encoded),
        "longest": max(len(item.input_ids) for item in encoded),
        "trained_tokens": sum(trained),
        "trained_per_example": {
            "min": min(trained),
            "median": median(trained),
            "max": max(trained),
        },
        "truncated": sum(item.truncated for item in encoded),
        "trained_tokens_lost": sum(item.lost for item in encoded),
    }


def to_dataset(encoded: Sequence[Encoded]) -> Any:
    """A datasets.Dataset with input_ids and labels, ready for the trainer."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [item.input_ids for item in encoded],
            "labels": [item.labels for item in encoded],
        }
    )
