"""Tasks exact, contains and regex: the reference's text, whole or within the answer."""

from __future__ import annotations

import re

from tuneserve.bench.tasks.scorers.marks import Mark, Scorer, plain
from tuneserve.bench.tasks.scorers.texts import find_words, fold, normalise
from tuneserve.errors import UsageError


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


def pattern_scorer(pattern: str) -> Scorer:
    """What the pattern captures last (its first group, or the whole match) is the same in answer
    and reference, normalised. A reference without a match counts as what was captured."""
    if not pattern:
        raise UsageError(
            "task 'regex' needs a pattern",
            where="bench.pattern",
            hint=r"For example: pattern = 'Answer: *(\w+)'",
        )
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"not a regular expression: {error}", where="bench.pattern") from error

    def captured(text: str) -> list[str]:
        group = 1 if compiled.groups else 0
        return [match.group(group) or "" for match in compiled.finditer(text)]

    def mark(answer: str, reference: str) -> Mark:
        given, wanted = captured(answer), [*captured(reference)] or [reference]
        if not given:
            return Mark(0.0, 0.0, contains(answer, wanted[-1]), "none")
        score = exact(given[-1], wanted[-1])
        several = len(set(map(normalise, given))) > 1
        return plain(score, found="several" if several else "one")

    return Scorer(mark)
