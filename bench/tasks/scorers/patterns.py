"""Task regex: what the user's pattern captures is the same in answer and reference."""

from __future__ import annotations

from tuneserve.bench.tasks.scorers.bounded_patterns import BoundedPatterns, problem_of
from tuneserve.bench.tasks.scorers.marks import Mark, Scorer, plain
from tuneserve.bench.tasks.scorers.texts import normalise
from tuneserve.bench.tasks.scorers.words import contains, exact
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

_WHERE = "bench.pattern"


def pattern_scorer(pattern: str, settings: BenchSettings | None = None) -> Scorer:
    """What the pattern captures last (its first group, or the whole match) is the same in answer
    and reference, normalised. A reference without a match counts as what was captured. An answer
    that takes longer than the `settings` allow is a ScorerError."""
    if not pattern:
        raise UsageError(
            "task 'regex' needs a pattern",
            where=_WHERE,
            hint=r"For example: pattern = 'Answer: *(\w+)'",
        )
    if problem := problem_of(pattern):
        raise UsageError(f"not a regular expression: {problem}", where=_WHERE)
    patterns = BoundedPatterns(settings or BenchSettings(), _WHERE)

    def mark(answer: str, reference: str) -> Mark:
        found = patterns.captures(pattern, {"answer": answer, "reference": reference})
        given, wanted = found["answer"], (*found["reference"], reference)[0]
        if not given:
            return Mark(0.0, 0.0, contains(answer, wanted), "none")
        several = len(set(map(normalise, given))) > 1
        return plain(exact(given[0], wanted), found="several" if several else "one")

    return Scorer(mark)
