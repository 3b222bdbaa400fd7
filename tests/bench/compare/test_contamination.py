"""Shared wording is found; the common instruction is not shared wording."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tuneserve.bench.compare.contamination import WORDS, overlapping
from tuneserve.chat.examples import Example

INSTRUCTION = "Please read the following text with care and say what it is about in one word:"


def example(name: str, text: str) -> Example:
    asked = Example.of_turn(name, text, "x")
    return replace(asked, messages=({"role": "system", "content": text}, *asked.messages))


def words(start: int, count: int) -> str:
    return " ".join(f"w{number}" for number in range(start, start + count))


def test_a_run_of_words_is_found() -> None:
    others = [example(f"o{n}", words(1000 * (n + 1), 12)) for n in range(60)]
    training = [example("t", f"before that {words(0, WORDS)} and after it"), *others]
    held_out = [
        example("shared", f"another beginning {words(0, WORDS)} another end here"),
        example("nearly", f"another beginning {words(0, WORDS - 1)} another end here"),
        example("none", words(100, 20)),
    ]
    assert overlapping(held_out, training) == {"shared"}


def test_short_texts_are_compared_whole() -> None:
    training = [example("t", "A short text.")]
    held_out = [example("same", "a  SHORT text"), example("other", "a short story")]
    assert overlapping(held_out, training) == {"same"}


@pytest.mark.parametrize(
    ("texts", "sharing", "found"),
    [
        # Three texts at the least, of few; 5 % of all, of many.
        (10, 2, {"held-out"}),
        (10, 3, set()),
        (100, 4, {"held-out"}),
        (100, 5, set()),
    ],
)
def test_wording_is_common_from_the_limit_on(texts: int, sharing: int, found: set[str]) -> None:
    """The held-out prompt and `sharing` - 1 of the training prompts begin alike."""
    training = [
        example(f"t{n}", f"{INSTRUCTION if n < sharing - 1 else ''} {words(1000 * (n + 1), 12)}")
        for n in range(texts - 1)
    ]
    held_out = [example("held-out", f"{INSTRUCTION} {words(500_000, 12)}")]
    assert overlapping(held_out, training) == found


def test_the_common_instruction_is_left_out() -> None:
    training = [example(f"t{n}", f"{INSTRUCTION} {words(1000 * n, 12)}") for n in range(100)]
    held_out = [
        example("new", f"{INSTRUCTION} {words(500_000, 12)}"),
        example("copied", f"{INSTRUCTION} {words(3000, 12)}"),
    ]
    assert overlapping(held_out, training) == {"copied"}
