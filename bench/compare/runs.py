"""Several runs side by side, on the prompts that they share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tuneserve.bench.compare.analysis import compare_scores
from tuneserve.bench.compare.cautions import caution_answers
from tuneserve.bench.compare.earlier import earlier_report
from tuneserve.bench.compare.figures import reach, unit_counted
from tuneserve.bench.compare.report_file import as_json, read_answers, read_report
from tuneserve.bench.compare.results import AccuracyComparison, Provenance, Report
from tuneserve.bench.stats import significance
from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, FloatArray, cluster_numbers
from tuneserve.bench.stats.ranking import Ranking, rank
from tuneserve.console import listed
from tuneserve.errors import UsageError
from tuneserve.recipe import section_model
from tuneserve.run import RunDirectory

# The settings of [bench] that an answer or its score depends on.
SCORING = (
    "choices", "pattern", "tolerance", "scorer", "separator", "unordered", "max_tokens",
    "think_tags",
)  # fmt: skip
# Those that change answers by chance alone, or that runs may well differ in.
BESIDE = {
    "bench": ("ctx", "parallel"),
    "serve": ("cache_type_k", "cache_type_v", "flash_attention"),
}

Rows = Mapping[str, dict[str, Any]]
"""Rows of answers.jsonl (see `Pair.as_row`) by what was asked: id, prompt and reference"""


@dataclass(frozen=True)
class RunRow:
    """One run's report, and its tuned model against the first run's.

    `shared` prompts are the same in both (id, prompt and reference), of which the difference is.
    It is None for the first run, and where `why_not` says why they don't compare; `p` is
    Holm-adjusted over the runs compared. `differs` names what else is not the same as in the first
    run, though the scores compare. `measured_as`: the name that the run had when it was measured,
    if it has another one now. `earlier`: of what it is, where the run has another GGUF now.
    `undoing`: what kinds of prompts (or sources; the `unit` that is counted) not seen could undo of
    the difference. `reach`: which difference would have been shown.
    """

    report: Report
    shared: int
    difference: Estimate | None
    p: float | None
    why_not: str
    differs: str = ""
    measured_as: str = ""
    earlier: str = ""
    undoing: float = 0.0
    unit: str = "prompt"
    reach: str = ""

    @property
    def undone(self) -> bool:
        """Do test and interval show a difference that kinds not seen could undo?"""
        return self._shown(0.0) and not self._shown(self.undoing)

    @property
    def unshown(self) -> bool:
        """Was it compared with the first run, and no difference shown?"""
        return self.p is not None and not self._shown(0.0)

    def _shown(self, undoing: float) -> bool:
        if self.difference is None or self.p is None:
            return False
        confidence = self.report.confidence
        return significance.direction(self.difference, self.p, confidence, undoing) != 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "report": as_json(self.report)}


@dataclass(frozen=True)
class RunsComparison:
    """The runs, and a ranking of those that compare with the first, on the prompts that all of
    them share; None for fewer than three."""

    rows: list[RunRow]
    ranking: Ranking | None

    def to_json(self) -> dict[str, Any]:
        return {
            "runs": [row.to_json() for row in self.rows],
            "ranking": asdict(self.ranking) if self.ranking else None,
            "note": self.note,
        }

    @property
    def note(self) -> str:
        """What was compared where not all have the same prompts, why runs are not ranked that
        would be, and, where none are, what makes a run's score say less than it seems to; '' where
        nothing is to be said."""
        compared = sum(not row.why_not for row in self.rows)
        unranked = ""
        if len(self.rows) > 2 and self.ranking is None:
            unranked = (
                f"No ranking: only {compared} of {len(self.rows)} runs compare with the first, "
                "itself included, and it takes three."
                if compared < 3
                else "No ranking: no prompt is shared by all."
            )
        cautions = [] if self.ranking or compared < 2 else _cautions(self.rows)
        said = [f"Caution: {each}" for each in cautions]
        said += [
            f"{row.report.run}: no difference from the first run is shown. {row.reach}"
            for row in self.rows
            if row.unshown and not self.ranking
        ]
        undone = [row for row in self.rows if row.undone]
        if undone:
            names = listed([row.report.run for row in undone])
            points = f"{100 * max(row.undoing for row in undone):.1f} points"
            kinds = " or ".join(sorted({f"{row.unit}s" for row in undone}))
            said.append(
                f"{names}: no difference from the first run is shown, whatever p says: up to "
                f"{points} could be undone by kinds of {kinds} not seen."
            )
        return " ".join(filter(None, (self._shared_note, unranked, *said)))

    def is_part(self, row: RunRow) -> bool:
        """Does a run share only a part of the prompts with the first, of either?"""
        first, other = (each.report.accuracy.prompts for each in (self.rows[0], row))
        return row.shared < max(first, other)

    @property
    def _shared_note(self) -> str:
        counts = {row.report.accuracy.prompts for row in self.rows if not row.why_not}
        shared = {row.shared for row in self.rows if not row.why_not}
        if counts == shared and len(counts) == 1:
            return ""
        text = "Not all have the same held-out prompts: differences are of those shared"
        if self.ranking:
            text += f", the ranking is of the {self.ranking.prompts:,} that all share"
        return text + "."


def compare_runs(runs: Sequence[RunDirectory]) -> RunsComparison:
    """Read the runs' reports and compare the tuned models' answers, prompt by prompt. Every row is
    called by its folder, which a renamed or copied run's own report does not know.

    Raises UsageError naming a run that has no benchmark, or one of another release, or that is
    given twice.
    """
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"given more than once: {', '.join(twice)}",
            where="report",
            hint="Name every run once: the same answers again are no further run.",
        )
    written = [read_report(run) for run in runs]
    reports = [replace(report, run=name) for report, name in zip(written, names, strict=True)]
    answers = [_by_prompt(read_answers(run)) for run in runs]
    first = answers[0]
    shared = [[key for key in first if key in rows] for rows in answers]
    reasons = [
        _why_not(reports[0], report, len(keys))
        for report, keys in zip(reports, shared, strict=True)
    ]
    compared_with = sum(not reason for reason in reasons[1:])
    found = [
        _difference(first, rows, keys, report, compared_with) if place and not reason else None
        for place, (rows, keys, report, reason) in enumerate(
            zip(answers, shared, reports, reasons, strict=True)
        )
    ]
    adjusted = iter(significance.holm([one.p for one in found if one]))
    rows = [
        RunRow(
            report,
            len(keys),
            one.difference if one else None,
            next(adjusted) if one else None,
            reason,
            _what_differs(reports[0], report),
            "" if report.run == as_written.run else as_written.run,
            outdated.of if (outdated := earlier_report(run)) else "",
            one.undoing if one else 0.0,
            unit_counted(one) if one else "prompt",
            reach(one) if one else "",
        )
        for run, report, as_written, keys, one, reason in zip(
            runs, reports, written, shared, found, reasons, strict=True
        )
    ]
    compared = {
        report.run: rows
        for report, rows, reason in zip(reports, answers, reasons, strict=True)
        if not reason
    }
    return RunsComparison(rows, _rank(compared, reports[0].confidence, _cautions(rows)))


def _cautions(rows: Sequence[RunRow]) -> list[str]:
    """Of the tuned models' answers to all their own prompts, where they compare."""
    reports = {row.report.run: row.report for row in rows if not row.why_not}
    return caution_answers(
        {name: report.tuned.counts for name, report in reports.items()},
        {name: report.accuracy.prompts for name, report in reports.items()},
    )


def _by_prompt(rows: Sequence[dict[str, Any]]) -> Rows:
    return {json.dumps([row["id"], row["prompt"], row["reference"]]): row for row in rows}


def _why_not(first: Report, other: Report, shared: int) -> str:
    """Why two runs' answers can't be paired; '' if they can."""
    one, two = first.provenance, other.provenance
    if first.task != other.task:
        return "another task"
    differing = _differing(one, two, "bench", SCORING)
    if not differing and one.scorer_files != two.scorer_files:
        differing = ["scorer's files"]
    release = [report.versions.get("tuneserve", "") for report in (one, two)]
    if not differing and release[0] != release[1]:
        differing = [f"tuneserve {release[0]} and {release[1]}: score again with --rescore"]
    if differing:
        return f"scored otherwise: {', '.join(differing)}"
    return "" if shared else "no prompt in common"


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


def _scores(rows: Rows, keys: Sequence[str]) -> FloatArray:
    """Of the tuned model, [prompts]."""
    return np.array([rows[key]["tuned"]["score"] for key in keys], dtype=np.float64)


def _bootstrap(rows: Rows, keys: Sequence[str], confidence: float) -> Bootstrap:
    return Bootstrap(cluster_numbers([rows[key]["source"] for key in keys]), confidence)


def _difference(
    first: Rows, other: Rows, keys: Sequence[str], report: Report, comparisons: int
) -> AccuracyComparison:
    """The other run's tuned scores minus the first's, one of so many `comparisons`."""
    ours, theirs = _scores(other, keys), _scores(first, keys)
    return compare_scores(ours, theirs, _bootstrap(first, keys, report.confidence), comparisons)


def _rank(runs: Mapping[str, Rows], confidence: float, cautions: Sequence[str]) -> Ranking | None:
    """Of runs by name."""
    if len(runs) < 3:
        return None
    first, *others = runs.values()
    keys = [key for key in first if all(key in rows for rows in others)]
    if not keys:
        return None
    scores = {name: _scores(rows, keys) for name, rows in runs.items()}
    return rank(scores, _bootstrap(first, keys, confidence), cautions)
