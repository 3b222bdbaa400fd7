"""Task python: the user's own function scores an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tuneserve.bench.tasks.scorers.limited_process import AnswerError, Limits
from tuneserve.bench.tasks.scorers.marks import Mark, Scorer, ScorerError, plain, shortened
from tuneserve.bench.tasks.scorers.python_process import ScorerProcess
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

_started: dict[str, ScorerProcess] = {}
"""The last process of each place; it knows the files that were imported."""


def python_scorer(place: str, settings: BenchSettings | None = None) -> Scorer:
    """The user's own function, named as 'file.py:function': (answer, reference) -> bool or number
    from 0 to 1. The file may import files beside it. It runs in a process of its own, within the
    `settings`' limits. A failure on an answer is a ScorerError that names the answer and the
    line."""
    path, name = _place(place)
    process = ScorerProcess(path, name, Limits.of(settings or BenchSettings()))
    _started[place] = process
    where = f"bench.scorer: {place}"

    def mark(answer: str, reference: str) -> Mark:
        try:
            score = process.score(answer, reference)
        except AnswerError as error:
            raise _failure(str(error), answer, reference, where) from None
        if not 0.0 <= score <= 1.0 or math.isnan(score):
            message = f"returned {score}, which is not between 0 and 1"
            raise _failure(message, answer, reference, where)
        return plain(score)

    return Scorer(mark)


def try_out(scorer: Scorer, references: Sequence[str]) -> None:
    """Raise UsageError if the scorer fails on a right answer, an empty one, or a wrong one."""
    first = references[0]
    other = next((one for one in references if one != first), f"not {first}")
    for answer in (first, "", other):
        scorer.mark(answer, first)


def scorer_files(place: str) -> list[Path]:
    """The file of a scorer and the files of its folder that it has imported so far."""
    path, _ = _place(place)
    started = _started.get(place)
    return sorted({path, *(started.files if started else ())})


def _place(place: str) -> tuple[Path, str]:
    path_text, _, name = place.rpartition(":")
    if not path_text or not name.isidentifier():
        raise UsageError(
            f"task 'python' needs a function as 'file.py:function' (got '{place}')",
            where="bench.scorer",
        )
    path = Path(path_text)
    if not path.is_file() or path.suffix != ".py":
        raise UsageError("no such Python file", where=f"bench.scorer: {path}")
    return path, name


def _failure(message: str, answer: str, reference: str, where: str) -> ScorerError:
    return ScorerError(
        message,
        where=where,
        problems=[f"answer: {shortened(answer)}", f"reference: {shortened(reference)}"],
    )
