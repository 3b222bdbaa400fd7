"""How the answers ended, as rows of a table."""

from __future__ import annotations

from dataclasses import dataclass

from tuneserve.bench.compare.results import AnswerCounts, Report
from tuneserve.console import percent

ENDINGS = (
    "nothing_found", "several_found", "length_limited", "cut_off_thoughts", "empty", "failed",
    "unscored",
)  # fmt: skip


@dataclass(frozen=True)
class EndingRow:
    """A model's mean scores in the three readings, as percent, and its counts (`ENDINGS`)."""

    name: str
    strict: str
    score: str
    lenient: str
    counts: list[int]


def endings(report: Report) -> list[EndingRow]:
    """The models that answered: base, tuned, and the others."""
    found = report.accuracy
    rows = [
        _row("base", found.base.value, report.base.counts),
        _row("tuned", found.tuned.value, report.tuned.counts),
    ]
    return rows + [
        _row(other.name, other.accuracy.tuned.value, other.counts)
        for other in report.others
        if other.counts is not None
    ]


def _row(name: str, score: float, counts: AnswerCounts) -> EndingRow:
    strict, lenient = (
        "–" if share is None else percent(share) for share in (counts.strict, counts.lenient)
    )
    return EndingRow(
        name, strict, percent(score), lenient, [getattr(counts, ending) for ending in ENDINGS]
    )
