"""Several runs side by side, each against the first where the prompts are the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.bench.compare.results import HELD_OUT
from tuneserve.bench.stats import intervals, significance
from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, cluster_numbers
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.run import RunDirectory


@dataclass(frozen=True)
class RunRow:
    """One run's report, and its tuned model against the first run's.

    `difference` is None for the first run, and where `why_not` says why they don't compare;
    `p` is Holm-adjusted over the runs compared.
    """

    report: dict[str, Any]
    difference: Estimate | None
    p: float | None
    why_not: str


def compare_runs(runs: Sequence[RunDirectory]) -> list[RunRow]:
    """Read the runs' reports and compare the tuned models' answers, prompt by prompt.

    Raises UsageError naming a run that has no benchmark.
    """
    reports = [_read_report(run) for run in runs]
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


def _read_report(run: RunDirectory) -> dict[str, Any]:
    path = run.bench / "report.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            "this run has no benchmark",
            where=str(run.root),
            hint=f"Run it first: tuneserve bench --run {run.name}",
        ) from None
    except json.JSONDecodeError as error:
        raise TuneserveError(f"not valid JSON: {error}", where=str(path)) from error
    return report


def _read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """The answers to the run's own held-out prompts, by id."""
    with path.open(encoding="utf-8") as file:
        return {row["id"]: row for row in map(json.loads, file) if row["task"] == HELD_OUT}


def _why_not(first: dict[str, Any], other: dict[str, Any]) -> str:
    """Why two runs' answers can't be paired; '' if they can."""
    if first["provenance"]["test_sha256"] != other["provenance"]["test_sha256"]:
        return "other held-out prompts"
    if first["task"] != other["task"]:
        return "another task"
    if first["accuracy"]["prompts"] != other["accuracy"]["prompts"]:
        return "another number of prompts"
    return ""


def _difference(
    first: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]], report: dict[str, Any]
) -> tuple[Estimate, float]:
    """The other run's tuned scores minus the first's, with interval, and the p of the test."""
    ids = list(first)
    ours = np.array([other[name]["tuned"]["score"] for name in ids], dtype=np.float64)
    theirs = np.array([first[name]["tuned"]["score"] for name in ids], dtype=np.float64)
    clusters = cluster_numbers([first[name]["source"] for name in ids])
    estimate = intervals.paired_difference(
        ours, theirs, Bootstrap(clusters, confidence=report["confidence"])
    )
    return estimate, significance.paired_p(np.bincount(clusters, weights=ours - theirs))
