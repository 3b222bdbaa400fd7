"""Several runs side by side, each against the first where the prompts are the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.bench.compare.report_file import as_json, read_report
from tuneserve.bench.compare.results import HELD_OUT, Provenance, Report
from tuneserve.bench.stats import intervals, significance
from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, cluster_numbers
from tuneserve.recipe import section_model
from tuneserve.run import RunDirectory


@dataclass(frozen=True)
class RunRow:
    """One run's report, and its tuned model against the first run's.

    `difference` is None for the first run, and where `why_not` says why they don't compare;
    `p` is Holm-adjusted over the runs compared. `differs` names what else is not the same as in the
    first run, though the scores compare.
    """

    report: Report
    difference: Estimate | None
    p: float | None
    why_not: str
    differs: str = ""

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
        RunRow(
            report,
            pair[0] if pair else None,
            next(adjusted) if pair else None,
            reason,
            _what_differs(reports[0], report),
        )
        for report, pair, reason in zip(reports, found, reasons, strict=True)
    ]


def _read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """The rows (see `Pair.as_row`) of the run's own held-out prompts, by id."""
    with path.open(encoding="utf-8") as file:
        return {row["id"]: row for row in map(json.loads, file) if row["task"] == HELD_OUT}


# The settings that decide which answer gets which score.
SCORING = (
    "choices", "pattern", "tolerance", "scorer", "separator", "unordered", "think_tags",
    "max_tokens",
)  # fmt: skip
# Those that change answers by chance alone, or are what runs may well differ in.
BESIDE = {
    "bench": ("ctx", "parallel"),
    "serve": ("cache_type_k", "cache_type_v", "flash_attention"),
}


def _why_not(first: Report, other: Report) -> str:
    """Why two runs' answers can't be paired; '' if they can."""
    one, two = first.provenance, other.provenance
    if one.test_sha256 != two.test_sha256:
        return "other held-out prompts"
    if first.task != other.task:
        return "another task"
    if first.accuracy.prompts != other.accuracy.prompts:
        return "another number of prompts"
    differing = _differing(one, two, "bench", SCORING)
    if not differing and one.scorer_files != two.scorer_files:
        differing = ["scorer's files"]
    release = [report.versions.get("tuneserve", "") for report in (one, two)]
    if not differing and release[0] != release[1]:
        differing = [f"tuneserve {release[0]} and {release[1]}: score again with --rescore"]
    return f"scored otherwise: {', '.join(differing)}" if differing else ""


def _what_differs(first: Report, other: Report) -> str:
    """What two runs' answers were given under that is not the same, but compares."""
    one, two = first.provenance, other.provenance
    found = [name for table, names in BESIDE.items() for name in _differing(one, two, table, names)]
    if first.tuned.quantization != other.tuned.quantization:
        found.append(f"quantization {first.tuned.quantization} / {other.tuned.quantization}")
    if one.base_model != two.base_model:
        found.append(f"base {one.base_model} / {two.base_model}")
    return ", ".join(found)


def _differing(first: Provenance, other: Provenance, table: str, names: Sequence[str]) -> list[str]:
    """'name one / other' of the settings that are not the same; a setting that an older release did
    not have is at its default."""
    fields = section_model(table).model_fields
    found = []
    for name in names:
        default = fields[name].get_default()
        one, two = (
            _plain(each.settings.get(table, {}).get(name, default)) for each in (first, other)
        )
        if one != two:
            found.append(f"{name} {_said(one)} / {_said(two)}")
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _said(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text or "none"


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
