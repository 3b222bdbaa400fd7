"""Tasks exact and contains: the reference's text, whole or within the answer."""

from __future__ import annotations

from tuneserve.bench.tasks.scorers.marks import Mark, Scorer
from tuneserve.bench.tasks.scorers.texts import find_words, fold, normalise


def exact(answer: str, reference: str) -> float:
    """1.0 for the same text once both are normalised."""
    return float(normalise(answer) == normalise(reference))


def contains(answer: str, reference: str) -> float:
    """1.0 if the reference stands in the answer as whole words, both normalised."""
    wanted = normalise(reference)
    if not wanted:
        return float(not normalise(answer))
    return float(find_words(wanted, fold(answer)) is not None)


def _exact(answer: str, reference: str) -> Mark:
    score = exact(answer, reference)
    return Mark(score, score, score or contains(answer, reference))


def _contains(answer: str, reference: str) -> Mark:
    score = contains(answer, reference)
    return Mark(score, exact(answer, reference), score)


EXACT, CONTAINS = Scorer(_exact), Scorer(_contains)
