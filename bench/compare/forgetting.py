"""What the tune cost elsewhere: other tasks, texts, general examples held out from replay.

All of them are tested together: a loss counts only if it stands after Holm's adjustment over
everything that was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuneserve.bench.compare.analysis import bootstrap_of, compare_accuracy, compare_groups, decide
from tuneserve.bench.compare.figures import percent, points, points_interval
from tuneserve.bench.compare.results import (
    Pair,
    Retention,
    TaskComparison,
    TextComparison,
    Verdict,
)
from tuneserve.bench.stats import intervals, significance
from tuneserve.bench.stats.bootstrap import Estimate, cluster_numbers
from tuneserve.bench.tasks.tasks import Task
from tuneserve.settings import BenchSettings


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
    tasks: Sequence[tuple[Task, list[Pair]]],
    texts: Sequence[TextLosses],
    settings: BenchSettings,
) -> tuple[list[TaskComparison], list[TextComparison]]:
    """Every task, with both models' answers, and every text; their p Holm-adjusted together."""
    accuracies = [compare_accuracy(pairs, settings) for _, pairs in tasks]
    p_values = [accuracy.p for accuracy in accuracies]
    p_values += [_p_of_text(text, settings.seed) for text in texts]
    adjusted = significance.holm(p_values)
    compared_tasks = [
        TaskComparison(
            name=task.name,
            about=task.about,
            accuracy=accuracy,
            adjusted_p=p,
            outcome=decide(accuracy.difference, p, settings.confidence),
            kinds=compare_groups(pairs, settings),
            pairs=pairs,
        )
        for (task, pairs), accuracy, p in zip(
            tasks, accuracies, adjusted[: len(tasks)], strict=True
        )
    ]
    compared_texts = [
        _compare_text(text, p, settings)
        for text, p in zip(texts, adjusted[len(tasks) :], strict=True)
    ]
    return compared_tasks, compared_texts


def _p_of_text(text: TextLosses, seed: int) -> float:
    excess = np.subtract(text.tuned, text.base)
    return significance.paired_p(
        np.bincount(cluster_numbers(text.sources), weights=excess), seed=seed
    )


def _compare_text(text: TextLosses, p: float, settings: BenchSettings) -> TextComparison:
    """`p` is the adjusted one."""
    bootstrap = bootstrap_of(text.sources, settings)
    ratio = intervals.perplexity_ratio(text.tuned, text.base, text.tokens, bootstrap)
    # A perplexity that fell is a gain.
    gain = Estimate(1 - ratio.value, 1 - ratio.high, 1 - ratio.low)
    return TextComparison(
        name=text.name,
        pieces=len(text.base),
        unit=text.unit,
        base=intervals.perplexity(text.base, text.tokens, bootstrap),
        tuned=intervals.perplexity(text.tuned, text.tokens, bootstrap),
        ratio=ratio,
        adjusted_p=p,
        outcome=decide(gain, p, settings.confidence),
    )


def judge_forgetting(
    tasks: Sequence[TaskComparison], texts: Sequence[TextComparison]
) -> Verdict[Retention]:
    """The verdict on what was lost."""
    if not tasks and not texts:
        return Verdict("not measured", "Whether something was forgotten was not measured.")
    lost = [_task_loss(task) for task in tasks if task.outcome == "worse"]
    lost += [_text_loss(text) for text in texts if text.outcome == "worse"]
    looked = [task.name for task in tasks] + [text.name for text in texts]
    if lost:
        return Verdict("forgotten", f"Something was forgotten: {'; '.join(lost)}.")
    reach = "".join(
        f"; on the {task.accuracy.prompts} prompts of “{task.name}” a loss below about "
        f"{100 * task.accuracy.smallest_detectable:.1f} points would often go unseen"
        for task in tasks
    )
    return Verdict(
        "no forgetting shown",
        f"No forgetting shown: no loss stands on {_listed(looked)}{reach}.",
    )


def _task_loss(task: TaskComparison) -> str:
    found = task.accuracy
    return (
        f"{task.name} fell from {100 * found.base.value:.1f} to {percent(found.tuned.value)} right "
        f"({points(found.difference.value)} points, {points_interval(found.difference)})"
    )


def _text_loss(text: TextComparison) -> str:
    rise, low, high = (
        f"{points(end - 1)} %" for end in (text.ratio.value, text.ratio.low, text.ratio.high)
    )
    return f"perplexity of {text.name} rose by {rise} ({low} to {high})"


def _listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
