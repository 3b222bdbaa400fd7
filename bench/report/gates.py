"""What a pipeline may fail on: that the tuned model is shown to be worse, in all or in a group
(--fail-if-worse), and figures below a least value (--fail-below accuracy=0.75)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuneserve.bench.compare.analysis import group_outcome, group_said
from tuneserve.bench.compare.results import Report
from tuneserve.bench.tasks.general import GENERAL_TASK
from tuneserve.bench.tasks.lm_eval.tasks import figure_names
from tuneserve.bench.tasks.tasks import is_task_file, split_entry
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

ACCURACY, GAIN, GENERAL = "accuracy", "gain", "general"


@dataclass(frozen=True)
class Gate:
    """The least value of a figure (a share; of the gain a difference of shares)."""

    figure: str
    least: float

    def describe(self) -> str:
        return f"{self.figure} at least {self.least:g}"


def read_gates(settings: BenchSettings) -> list[Gate]:
    """What `bench.fail_below` asks for. Raises UsageError for a figure that this benchmark won't
    have, a name of several figures, or a value that is no share."""
    tasks = [name for entry in settings.tasks for name in _names(entry)]
    known = [ACCURACY, GAIN, *([GENERAL] if settings.general else []), *tasks]
    gates = []
    for entry in settings.fail_below:
        figure, _, value = entry.rpartition("=")
        try:
            least = float(value)
        except ValueError:
            least = float("nan")
        lowest = -1.0 if figure == GAIN else 0.0
        if figure not in known or not lowest <= least <= 1.0:
            raise UsageError(
                "expected FIGURE=SHARE, such as accuracy=0.75, with a figure of "
                f"{', '.join(known)} and a share of at most 1",
                where=f"bench.fail_below: {entry}",
            )
        if [ACCURACY, GAIN, GENERAL, *tasks].count(figure) > 1:
            raise UsageError(
                f"several figures are called '{figure}'",
                where=f"bench.fail_below: {entry}",
                hint="A task is called as its file is: give the file another name.",
            )
        gates.append(Gate(figure, least))
    return gates


def _names(entry: str) -> list[str]:
    """What the tasks of an entry of `bench.tasks` are called."""
    return figure_names(entry) if is_task_file(entry) else [split_entry(entry)[0].stem]


def value_of(figure: str, report: Report) -> float:
    """The tuned model's figure, of a report that has it."""
    if figure == GAIN:
        return report.accuracy.difference.value
    if figure == ACCURACY:
        return report.accuracy.tuned.value
    name = GENERAL_TASK if figure == GENERAL else figure
    return next(task.accuracy.tuned.value for task in report.tasks if task.name == name)


def failed_gates(report: Report, gates: Sequence[Gate]) -> list[str]:
    """What is below its least value, each in a few words."""
    values = [(gate, value_of(gate.figure, report)) for gate in gates]
    return [
        f"{gate.figure} {_below(value, gate.least)} is below {gate.least:g}"
        for gate, value in values
        if value < gate.least
    ]


def _below(value: float, least: float) -> str:
    """A value with four digits, or as many as show that it is below `least`."""
    digits = 4
    while float(said := f"{value:.{digits}g}") >= float(f"{least:g}") and digits < 17:
        digits += 1
    return said


def shown_worse(report: Report) -> list[str]:
    """What of the run's own held-out prompts the tuned model is shown to be worse on: all of them,
    and groups, by the p that is adjusted over all groups."""
    groups = [
        group_said(group)
        for group in report.groups
        if group_outcome(group, report.confidence) == "worse"
    ]
    everything = ["all held-out prompts"] if report.verdict.outcome == "worse" else []
    return everything + groups
