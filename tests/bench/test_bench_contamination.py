"""Shared wording is found; the common instruction is not shared wording."""

from __future__ import annotations

from tuneserve.bench.compare.contamination import WORDS, overlapping
from tuneserve.bench.tasks.examples import Example

INSTRUCTION = "Please read the following text with care and say what it is about in one word:"


def example(name: str, text: str) -> Example:
    prompt = ({"role": "system", "content": text}, {"role": "user", "content": text})
    return Example(name, None, None, prompt, "x")


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


def test_the_common_instruction_is_left_out() -> None:
    training = [example(f"t{n}", f"{INSTRUCTION} {words(1000 * n, 12)}") for n in range(100)]
    held_out = [
        example("new", f"{INSTRUCTION} {words(500_000, 12)}"),
        example("copied", f"{INSTRUCTION} {words(3000, 12)}"),
    ]
    assert overlapping(held_out, training) == {"copied"}
