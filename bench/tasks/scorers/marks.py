"""What a scorer is, and what it says of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tuneserve.errors import UsageError

Found = Literal["none", "one", "several"]
"""How much of what the task asks for (a number, a choice, JSON) an answer has. several: more than
one, and nothing in the answer says which of them is meant."""


class ScorerError(UsageError):
    """The user's own scorer failed on an answer."""


@dataclass(frozen=True)
class Mark:
    """An answer's `score` in [0, 1], by which models are compared. Beside it the same answer scored
    more strictly (it has to be what was asked for and nothing else) and more leniently (what was
    asked for stands somewhere in it): what lies between them is form, not knowledge."""

    score: float
    strict: float
    lenient: float
    found: Found = "one"


def plain(score: float, *, found: Found = "one") -> Mark:
    """A mark of a task that knows no stricter or more lenient reading."""
    return Mark(score, score, score, found)


def _accept(_: str) -> str:
    return ""


@dataclass(frozen=True)
class Scorer:
    """`mark`: (answer, reference) -> what is to be said of the answer, which its thoughts are split
    off from. `problem`: what is wrong with a reference, '' if it can be scored against. `among`:
    (answer, references), where that is more than the best mark against one of them."""

    mark: Callable[[str, str], Mark]
    problem: Callable[[str], str] = _accept
    among: Callable[[str, Sequence[str]], Mark] | None = None

    def __call__(self, answer: str, reference: str) -> float:
        """The score in [0, 1]."""
        return self.mark(answer, reference).score

    def require_references(
        self, references: Iterable[tuple[str, str]], where: str, hint: str
    ) -> None:
        """Raise UsageError naming every (id, reference) that no answer can be scored against."""
        rows = list(references)
        problems = [
            f"{name}: {problem}: {shortened(reference)}"
            for name, reference in rows
            if (problem := self.problem(reference))
        ]
        if problems:
            raise UsageError(
                f"{len(problems)} of {len(rows)} references can't be scored against",
                where=where,
                hint=hint,
                problems=problems,
            )


def against_any(scorer: Scorer, separator: str) -> Scorer:
    """The scorer for references that are several, with `separator` between them: an answer gets the
    best mark that it has against one of them."""

    def mark(answer: str, reference: str) -> Mark:
        return best_mark(scorer, answer, parts_of(reference, separator))

    def problem(reference: str) -> str:
        found = [scorer.problem(one) for one in parts_of(reference, separator)]
        return next(filter(None, found), "" if found else "is empty")

    return Scorer(mark, problem)


def best_mark(scorer: Scorer, answer: str, references: Sequence[str]) -> Mark:
    """The best mark of an answer against one of several references."""
    if scorer.among is not None:
        return scorer.among(answer, references)
    marks = [scorer.mark(answer, one) for one in references]
    return max(marks, key=lambda found: (found.score, found.lenient))


def parts_of(reference: str, separator: str) -> Sequence[str]:
    return [part.strip() for part in reference.split(separator) if part.strip()]


def shortened(text: str, most: int = 80) -> str:
    """A text in quotes for an error, at most so many characters of it."""
    return repr(text if len(text) <= most else f"{text[: most - 1]}…")
