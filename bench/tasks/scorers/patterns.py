"""Task regex: what the user's pattern captures is the same in answer and reference."""

from __future__ import annotations

import re
from pathlib import Path

from tuneserve.bench.tasks.scorers.limited_process import AnswerError, LimitedProcess, Limits
from tuneserve.bench.tasks.scorers.marks import Mark, Scorer, ScorerError, plain, shortened
from tuneserve.bench.tasks.scorers.texts import normalise
from tuneserve.bench.tasks.scorers.words import contains, exact
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

_CHILD = Path(__file__).with_name("pattern_child.py")


def pattern_scorer(pattern: str, settings: BenchSettings | None = None) -> Scorer:
    """What the pattern captures last (its first group, or the whole match) is the same in answer
    and reference, normalised. A reference without a match counts as what was captured.

    The time that a pattern takes may double with every character, and nothing in this process can
    interrupt it: it is matched in another one, within the `settings`' limits. An answer that takes
    longer is a ScorerError.
    """
    if not pattern:
        raise UsageError(
            "task 'regex' needs a pattern",
            where="bench.pattern",
            hint=r"For example: pattern = 'Answer: *(\w+)'",
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(f"not a regular expression: {error}", where="bench.pattern") from error
    limits = Limits.of(settings or BenchSettings())
    process = LimitedProcess(_CHILD, pattern, limits=limits, where="bench.pattern")

    def captured(answer: str, reference: str) -> dict[str, list[str]]:
        try:
            reply = process.ask({"answer": answer, "reference": reference})
            if "failed" in reply:
                raise AnswerError(f"failed: {reply['failed']}")
        except AnswerError as error:
            raise ScorerError(
                f"the pattern {shortened(pattern)} {error}",
                where="bench.pattern",
                hint="Where repetitions stand within one another, or side by side, the same text "
                r"matches in many ways: (\w+\s?)* is \w[\w\s]*. Or allow more: --scorer-seconds.",
                problems=[f"answer: {shortened(answer)}", f"reference: {shortened(reference)}"],
            ) from None
        return reply

    def mark(answer: str, reference: str) -> Mark:
        found = captured(answer, reference)
        given, wanted = found["answer"], (*found["reference"], reference)[0]
        if not given:
            return Mark(0.0, 0.0, contains(answer, wanted), "none")
        several = len(set(map(normalise, given))) > 1
        return plain(exact(given[0], wanted), found="several" if several else "one")

    return Scorer(mark)
