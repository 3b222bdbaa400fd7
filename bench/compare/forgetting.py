"""What the tune cost elsewhere: other tasks, texts, general examples held out from replay.

All of them are tested together: a loss counts only if it stands after Holm's adjustment over
everything that was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuneserve.bench.compare.analysis import bootstrap_of, compare_accuracy, compare_groups, decide
from tuneserve.bench.compare.results import (
    Forgetting,
    Outcome,
    Pair,
    TaskComparison,
    TextComparison,
)
from tuneserve.bench.stats import intervals, significance
from tuneserve.bench.stats.bootstrap import Estimate, cluster_numbers
from tuneserve.settings import BenchSettings


@dataclass(frozen=True)
class AnsweredTask:
    """Another task than the run's own, answered by both models."""

    name: str
    about: str
    pairs: list[Pair]


@dataclass(frozen=True)
class TextLosses:
    """Summed negative log-likelihood (nats) of every piece of a text under both models, the scored
    tokens of each, and the pieces' clusters."""

    name: str
    unit: str
    base: list[float]
    tuned: list[float]
    tokens: list[int]
    sources: Sequence[str | None]


def compare_elsewhere(
    tasks: Sequence[AnsweredTask], texts: Sequence[TextLosses], settings: BenchSettings
) -> tuple[list[TaskComparison], list[TextComparison]]:
    """Every task and text under both models, their p Holm-adjusted together."""
    compared_tasks = [_compare_task(task, settings) for task in tasks]
    compared_texts = [_compare_text(text, settings) for text in texts]
    p_values = [task.adjusted_p for task in compared_tasks]
    p_values += [text.adjusted_p for text in compared_texts]
    adjusted, confidence = significance.holm(p_values), settings.confidence
    judged_tasks = [
        replace(task, adjusted_p=p, outcome=decide(task.accuracy.difference, p, confidence))
        for task, p in zip(compared_tasks, adjusted[: len(tasks)], strict=True)
    ]
    judged_texts = [
        replace(text, adjusted_p=p, outcome=_decide_text(text, p, confidence))
        for text, p in zip(compared_texts, adjusted[len(tasks) :], strict=True)
    ]
    return judged_tasks, judged_texts


def _compare_task(task: AnsweredTask, settings: BenchSettings) -> TaskComparison:
    """Compared, but not yet adjusted and judged."""
    accuracy = compare_accuracy(task.pairs, settings)
    kinds = compare_groups(task.pairs, settings)
    return TaskComparison(
        task.name, task.about, accuracy, accuracy.p, "no difference shown", kinds, task.pairs
    )


def _compare_text(text: TextLosses, settings: BenchSettings) -> TextComparison:
    """Compared, but not yet adjusted and judged."""
    clusters = cluster_numbers(text.sources)
    bootstrap = bootstrap_of(clusters, settings)
    excess = np.bincount(clusters, weights=np.subtract(text.tuned, text.base))
    return TextComparison(
        name=text.name,
        pieces=len(text.base),
        unit=text.unit,
        base=intervals.perplexity(text.base, text.tokens, bootstrap),
        tuned=intervals.perplexity(text.tuned, text.tokens, bootstrap),
        ratio=intervals.perplexity_ratio(text.tuned, text.base, text.tokens, bootstrap),
        adjusted_p=significance.paired_p(excess, seed=settings.seed),
        outcome="no difference shown",
    )


def _decide_text(text: TextComparison, p: float, confidence: float) -> Outcome:
    """A perplexity that fell is a gain."""
    ratio = text.ratio
    return decide(Estimate(1 - ratio.value, 1 - ratio.high, 1 - ratio.low), p, confidence)


def judge_forgetting(
    tasks: Sequence[TaskComparison], texts: Sequence[TextComparison]
) -> Forgetting:
    """The verdict on what was lost."""
    if not tasks and not texts:
        return Forgetting("not measured", "Whether something was forgotten was not measured.")
    lost = [_task_loss(task) for task in tasks if task.outcome == "worse"]
    lost += [_text_loss(text) for text in texts if text.outcome == "worse"]
    looked = [task.name for task in tasks] + [text.name for text in texts]
    if lost:
        return Forgetting("forgotten", f"Something was forgotten: {'; '.join(lost)}.")
    reach = "".join(
        f"; on the {task.accuracy.prompts} prompts of “{task.name}” a loss below about "
        f"{100 * task.accuracy.smallest_detectable:.1f} points would often go unseen"
        for task in tasks
    )
    return Forgetting(
        "no forgetting shown",
        f"No forgetting shown: no loss stands on {_listed(looked)}{reach}.",
    )


def _task_loss(task: TaskComparison) -> str:
    found = task.accuracy
    difference = found.difference.scaled(100)
    return (
        f"{task.name} fell from {100 * found.base.value:.1f} to {100 * found.tuned.value:.1f} % "
        f"right ({difference.value:+.1f} points, {difference.low:+.1f} to {difference.high:+.1f})"
    ).replace("-", "−")


def _text_loss(text: TextComparison) -> str:
    rise, low, high = (
        f"{100 * (end - 1):+.1f} %".replace("-", "−")
        for end in (text.ratio.value, text.ratio.low, text.ratio.high)
    )
    return f"perplexity of {text.name} rose by {rise} ({low} to {high})"


def _listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
