"""All prompts with all answers, as the data that the page's table is made of.

The page holds them as JSON in two parts: figures in columns, which filters and sorting need and
which are read at once, and texts in blocks of rows, which are read when they are shown or searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tuneserve.bench.compare.classes import same_class
from tuneserve.bench.compare.pairs import HELD_OUT, Answer, Pair, Response
from tuneserve.bench.compare.results import Report
from tuneserve.bench.tasks.tasks import reference_of

BLOCK_ROWS = 250
Tasks = Sequence[tuple[str, list[Pair]]]


def tasks_of(report: Report) -> Tasks:
    """Every task with its answers, the run's own first."""
    return [(HELD_OUT, report.pairs), *((task.name, task.pairs) for task in report.tasks)]


def table_figures(report: Report) -> dict[str, Any]:
    """Columns over all rows: numbers of task, group and source, and of every contender's answers
    score, how it ended and likelihood; null where a contender was not asked."""
    tasks = tasks_of(report)
    rows = [pair for _, pairs in tasks for pair in pairs]
    names = ["base", "tuned", *dict.fromkeys(name for pair in rows for name in pair.others)]
    return {
        "run": report.run,
        "tasks": [name for name, _ in tasks],
        "task": [place for place, (_, pairs) in enumerate(tasks) for _ in pairs],
        "id": [pair.example.id for pair in rows],
        "groups": _numbered(pair.example.group for pair in rows),
        "sources": _numbered(pair.example.source for pair in rows),
        "classes": report.classes.names if report.classes else [],
        "reference_class": _reference_classes(report),
        "contenders": [
            {"name": name, **_columns([given_by(name, pair) for pair in rows])} for name in names
        ],
        "block_rows": BLOCK_ROWS,
    }


def table_texts(report: Report) -> Iterator[list[Any]]:
    """Blocks of rows: (prompt's messages, reference, and of every contender (answer, thoughts))."""
    rows = [pair for _, pairs in tasks_of(report) for pair in pairs]
    names = ["base", "tuned", *dict.fromkeys(name for pair in rows for name in pair.others)]
    for first in range(0, len(rows), BLOCK_ROWS):
        yield [
            [
                [dict(message) for message in pair.example.prompt],
                pair.example.reference,
                [
                    [given.text, given.thought] if given else None
                    for given in (given_by(name, pair) for name in names)
                ],
            ]
            for pair in rows[first : first + BLOCK_ROWS]
        ]


def given_by(name: str, pair: Pair) -> Response | None:
    """A contender's answer; None where it was not asked."""
    return {"base": pair.base, "tuned": pair.tuned, **pair.others}.get(name)


def _columns(answers: Sequence[Response | None]) -> dict[str, list[Any]]:
    likely = [given if isinstance(given, Answer) else None for given in answers]
    return {
        "score": [given and _short(given.score) for given in answers],
        "strict": [given and _short(given.strict) for given in answers],
        "lenient": [given and _short(given.lenient) for given in answers],
        "cut": [given and int(given.cut_off) for given in answers],
        "finish": [given and given.finish_reason for given in answers],
        "found": [given and given.found for given in answers],
        "problem": [given and given.problem for given in answers],
        "empty": [given and int(not given.text.strip()) for given in answers],
        "tokens": [given and given.generated_tokens for given in answers],
        "nll": [given and _short(given.reference_nll) for given in likely],
        "nll_tokens": [given and given.reference_tokens for given in likely],
        "read": [given and given.read for given in answers],
        "probabilities": [(given and given.probabilities) or None for given in answers],
    }


def _reference_classes(report: Report) -> list[str | None]:
    """The class that each reference is, by row; empty where the task has none."""
    if not report.classes:
        return []
    same = same_class(report.classes.names)
    return [same(reference_of(pair.example)) for pair in report.pairs]


def _short(value: float | None) -> float | None:
    """Six digits: more are in answers.jsonl."""
    return None if value is None else float(f"{value:.6g}")


def _numbered(values: Iterable[str | None]) -> dict[str, list[Any]]:
    """Different values once, sorted, and the number of each row's; null for none."""
    column = list(values)
    names = sorted({value for value in column if value is not None})
    places = {name: place for place, name in enumerate(names)}
    return {"names": names, "rows": [None if v is None else places[v] for v in column]}
