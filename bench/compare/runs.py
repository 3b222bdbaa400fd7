"""Several runs side by side, each against the first where the prompts are the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.bench.compare.report_file import as_json, read_report
from tuneserve.bench.compare.results import HELD_OUT, Report
from tuneserve.bench.stats import intervals, significance
from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, cluster_numbers
from tuneserve.run import RunDirectory


@dataclass(frozen=True)
class RunRow:
    """One run's report, and its tuned model against the first run's.

    `difference` is None for the first run, and where `why_not` says why they don't compare;
    `p` is Holm-adjusted over the runs compared.
    """

    report: Report
    difference: Estimate | None
    p: float | None
    why_not: str

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "report": as_json(self.report)}


def compare_runs(runs: Sequence[RunDirectory]) -> list[RunRow]:
    """Read the runs' reports and compare the tuned models' answers, prompt by prompt.

    Raises UsageError naming a run that has no benchmark, or one of another release.
    """
    reports = [read_report(run) for run in runs]
    answers = [_read_answers(run.bench / "answers.jsonl") for run in runs]
    reasons = ["", *(_why_not(reports[0], report) for report in reports[1:])]
    found = [
        _difference(answers[0], other, report) if place and not reason else None
        for place, (other, report, reason) in enumerate(zip(answers, reports, reasons, strict=True))
    ]
    adjusted = iter(significance.holm([pair[1] for pair in found if pair]))
    return [
        RunRow(report, pair[0] if pair else None, next(adjusted) if pair else None, reason)
        for report, pair, reason in zip(reports, found, reasons, strict=True)
    ]


def _read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """The rows (see `Pair.as_row`) of the run's own held-out prompts, by id."""
    with path.open(encoding="utf-8") as file:
        return {row["id"]: row for row in map(json.loads, file) if row["task"] == HELD_OUT}


def _why_not(first: Report, other: Report) -> str:
    """Why two runs' answers can't be paired; '' if they can."""
    if first.provenance.test_sha256 != other.provenance.test_sha256:
        return "other held-out prompts"
    if first.task != other.task:
        return "another task"
    if first.accuracy.prompts != other.accuracy.prompts:
        return "another number of prompts"
    return ""


def _difference(
    first: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]], report: Report
) -> tuple[Estimate, float]:
    """The other run's tuned scores minus the first's, with interval, and the p of the test."""
    ours, theirs = (
        np.array([rows[name]["tuned"]["score"] for name in first], dtype=np.float64)
        for rows in (other, first)
    )
    clusters = cluster_numbers([row["source"] for row in first.values()])
    estimate = intervals.paired_difference(
        ours, theirs, Bootstrap(clusters, confidence=report.confidence)
    )
    return estimate, significance.paired_p(np.bincount(clusters, weights=ours - theirs))
