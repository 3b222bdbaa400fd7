"""All examples to tokens, with the figures that are known before training starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from tuneserve.errors import TuneserveError
from tuneserve.finetune.data.reading import raise_problems
from tuneserve.finetune.examples import Example
from tuneserve.finetune.tokens.encoder import Encoded, Encoder


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
        "untrained_turns": sum(item.untrained_turns for item in encoded),
    }


def about_turns(counts: Mapping[str, Any]) -> str:
    """What to say of earlier answers that the template lets no one train; empty without any."""
    number = counts.get("untrained_turns", 0)
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
