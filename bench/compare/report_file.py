"""report.json, a report without its answers, and answers.jsonl, which has them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tuneserve.bench.compare.pairs import HELD_OUT
from tuneserve.bench.compare.results import Report
from tuneserve.bench.measure.journal import FILE
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.records import parse, read_numbered_lines, read_versioned, schema_of
from tuneserve.run import RunDirectory

REPORT_SCHEMA = 2
_ROW = {"task", "id", "prompt", "reference", "source", "base", "tuned"}


def as_json(report: Report) -> dict[str, Any]:
    """What report.json holds; first its schema's number."""
    return {"schema": REPORT_SCHEMA, **asdict(report, dict_factory=_without_answers)}


def _without_answers(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if name != "pairs"}


def read_report(run: RunDirectory) -> Report:
    """The report of a run's benchmark, without the answers.

    Raises UsageError if there is none or an older or newer release wrote it, TuneserveError if it
    is damaged.
    """
    path = run.bench / "report.json"
    again = _how_again(run)
    try:
        content = read_versioned(path, REPORT_SCHEMA, hint=again)
    except FileNotFoundError:
        raise UsageError(
            "this run has no benchmark",
            where=str(run.root),
            hint=f"Run it first: tuneserve bench --run {run.name}",
        ) from None
    if (schema := schema_of(content, path)) < REPORT_SCHEMA:
        raise UsageError(
            f"an older tuneserve wrote this report: its schema is {schema}, not {REPORT_SCHEMA}",
            where=str(path),
            hint=again,
        )
    return parse(Report, content, where=str(path), hint=again)


def read_answers(run: RunDirectory) -> list[dict[str, Any]]:
    """The rows (`Pair.as_row`) of the run's own held-out prompts. Raises TuneserveError naming what
    is damaged."""
    path = run.bench / "answers.jsonl"
    again = _how_again(run)
    rows = read_numbered_lines(path, hint=again)
    for number, row in rows:
        if lacking := sorted(_ROW - row.keys()):
            raise TuneserveError(
                f"a row lacks {', '.join(lacking)}", where=f"{path}:{number}", hint=again
            )
        for model in ("base", "tuned"):
            answer = row[model]
            if not isinstance(answer, dict) or type(answer.get("score")) not in (int, float):
                raise TuneserveError(
                    f"a row has no score of the {model} model", where=f"{path}:{number}", hint=again
                )
    return [row for _, row in rows if row["task"] == HELD_OUT]


def _how_again(run: RunDirectory) -> str:
    """How a report is made anew: from the journal, or without one by measuring."""
    if (run.root / FILE).is_file():
        return f"Make it anew from what was measured: tuneserve bench --run {run.name} --rescore"
    return f"Measure again: tuneserve bench --run {run.name} --force"
