"""Score a generated answer against its reference; thoughts are split off first."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

THOUGHT_START, THOUGHT_END = "<think>", "</think>"
_NUMBER = re.compile(
    r"(?:(?<!\w)[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)
_EDGE = " \t\n.,;:!?\"'`*_()[]{}“”‘’«»"

Scorer = Callable[[str, str], bool]


@dataclass(frozen=True)
class SplitAnswer:
    """What a model thought and what it answered; `cut_off` if the thought never ended."""

    thought: str
    answer: str
    cut_off: bool = False


def split_thought(text: str, *, opened: bool = False) -> SplitAnswer:
    """Split `<think>…</think>` off the front of a generated text.

    `opened`: the prompt itself ended inside a thought, as R1's templates do, so the text begins
    in one. A thought that never ends leaves no answer to score.
    """
    body = text.lstrip()
    inside = opened
    if body.startswith(THOUGHT_START):
        body, inside = body[len(THOUGHT_START) :], True
    thought, end, answer = body.partition(THOUGHT_END)
    if end:
        return SplitAnswer(thought.strip(), answer.strip())
    if inside:
        return SplitAnswer(body.strip(), "", cut_off=True)
    return SplitAnswer("", text.strip())


def normalise(text: str) -> str:
    """Text without what should not decide: case, width, runs of space, punctuation at the ends."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(_EDGE)


def exact(answer: str, reference: str) -> bool:
    """The same text once both are normalised."""
    return normalise(answer) == normalise(reference)


def contains(answer: str, reference: str) -> bool:
    """The reference stands in the answer as whole words, both normalised."""
    wanted = normalise(reference)
    if not wanted:
        return not normalise(answer)
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", normalise(answer)) is not None


def number(answer: str, reference: str) -> bool:
    """The last number in the answer equals the reference's, to 6 significant digits."""
    wanted, given = last_number(reference), last_number(answer)
    if wanted is None or given is None:
        return False
    return abs(given - wanted) <= 1e-6 * max(abs(wanted), abs(given))


def last_number(text: str) -> float | None:
    """The last number written in `text` ('1,234.5', '-3', '2e5'), or None."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


SCORERS: dict[str, Scorer] = {"exact": exact, "contains": contains, "number": number}
