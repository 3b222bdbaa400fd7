"""What the tune cost elsewhere: other tasks, texts, general examples held out from replay.

All of them are tested together: a loss counts only if it stands after Holm's adjustment over
everything that was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuneserve.bench.compare.analysis import (
    OUTCOMES,
    bootstrap_of,
    change_said,
    compare_accuracy,
    compare_groups,
    count_pairs,
    decide,
    group_names,
    group_outcome,
    group_said,
)
from tuneserve.bench.compare.cautions import FLOOR, caution
from tuneserve.bench.compare.figures import (
    counted,
    number_interval,
    points,
    points_interval,
    unit_of,
)
from tuneserve.bench.compare.pairs import Pair
from tuneserve.bench.compare.results import (
    AccuracyComparison,
    GroupComparison,
    Retention,
    TaskComparison,
    TextComparison,
    Verdict,
)
from tuneserve.bench.stats import perplexities, significance
from tuneserve.bench.stats.bootstrap import Estimate, cluster_numbers
from tuneserve.bench.stats.unseen import longest_of, unseen_odds, unseen_share, with_unseen
from tuneserve.bench.tasks.tasks import Task
from tuneserve.console import listed, percent
from tuneserve.settings import BenchSettings

LARGEST_LOSS = 0.1
"""Share of what the base scores that may not be lost, however large the margin in points."""


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
    comparisons = len(tasks) + len(texts)
    accuracies = [compare_accuracy(pairs, settings, comparisons) for _, pairs in tasks]
    p_values = [accuracy.p for accuracy in accuracies]
    p_values += [_p_of_text(text, settings.seed) for text in texts]
    adjusted = significance.holm(p_values)
    kinds = iter(_kinds([pairs for _, pairs in tasks], settings))
    compared_tasks = [
        TaskComparison(
            name=task.name,
            about=task.about,
            accuracy=accuracy,
            adjusted_p=p,
            outcome=decide(accuracy, p, settings.confidence),
            kinds=next(kinds),
            pairs=pairs,
            kept=_kept(accuracy, settings),
            cautions=caution(accuracy, count_pairs(pairs), task.max_tokens, settings.confidence, p),
        )
        for (task, pairs), accuracy, p in zip(
            tasks, accuracies, adjusted[: len(tasks)], strict=True
        )
    ]
    compared_texts = [
        _compare_text(text, p, settings, comparisons)
        for text, p in zip(texts, adjusted[len(tasks) :], strict=True)
    ]
    return compared_tasks, compared_texts


def _kinds(tasks: Sequence[Sequence[Pair]], settings: BenchSettings) -> list[list[GroupComparison]]:
    """Every task's kinds of prompts; their p are adjusted over those of all tasks."""
    count = sum(len(group_names(pairs)) for pairs in tasks)
    found = [compare_groups(pairs, settings, count) for pairs in tasks]
    adjusted = iter(significance.holm([kind.accuracy.p for kinds in found for kind in kinds]))
    return [[replace(kind, adjusted_p=next(adjusted)) for kind in kinds] for kinds in found]


def _p_of_text(text: TextLosses, seed: int) -> float:
    excess = np.subtract(text.tuned, text.base)
    return significance.paired_p(
        np.bincount(cluster_numbers(text.sources), weights=excess), seed=seed
    )


def _kept(accuracy: AccuracyComparison, settings: BenchSettings) -> bool:
    """Is a loss of more points than the margin excluded (non-inferiority), where the base has
    something to lose? Where that is not in the interval by itself, also one that prompts of a kind
    not seen could make, which are supposed to lose all."""
    low = accuracy.difference.low
    if accuracy.base.value < FLOOR or low is None:
        return False
    return (1 - accuracy.unseen) * low - accuracy.unseen > -_margin(accuracy, settings)


def _margin(accuracy: AccuracyComparison, settings: BenchSettings) -> float:
    """The loss, as a share, that has to be excluded: the settings' points, but no more than
    LARGEST_LOSS of what the base scores, which else could be lost as a whole within them."""
    return min(settings.margin / 100, LARGEST_LOSS * accuracy.base.value)


def _compare_text(
    text: TextLosses, p: float, settings: BenchSettings, comparisons: int
) -> TextComparison:
    """`p` is the adjusted one, of so many `comparisons`."""
    bootstrap = bootstrap_of(text.sources, settings, text.unit.removesuffix("s"))
    ratio = perplexities.perplexity_ratio(text.tuned, text.base, text.tokens, bootstrap)
    level = (1 - settings.confidence) / comparisons
    unseen = unseen_share(bootstrap.count, settings.confidence)
    same = ratio.low == ratio.high == 1.0  # the same model
    highest = ratio.high
    if highest is not None and not same:
        longest = longest_of(text.tokens, bootstrap)
        highest = with_unseen(highest, bootstrap.count, settings.confidence, longest)
    return TextComparison(
        name=text.name,
        pieces=len(text.base),
        unit=text.unit,
        base=perplexities.perplexity(text.base, text.tokens, bootstrap),
        tuned=perplexities.perplexity(text.tuned, text.tokens, bootstrap),
        ratio=ratio,
        adjusted_p=p,
        outcome=OUTCOMES[significance.direction(_gain(ratio), p, settings.confidence)],
        kept=highest is not None and highest < settings.perplexity_margin,
        smallest_detectable=significance.detectable_ratio(
            text.tuned, text.base, text.tokens, bootstrap, level
        ),
        counted=bootstrap.described,
        unseen=unseen,
    )


def _gain(ratio: Estimate) -> Estimate:
    """A perplexity that fell is a gain."""
    if ratio.low is None or ratio.high is None:
        return ratio
    return Estimate(1 - ratio.value, 1 - ratio.high, 1 - ratio.low)


def judge_forgetting(
    tasks: Sequence[TaskComparison], texts: Sequence[TextComparison], settings: BenchSettings
) -> Verdict[Retention]:
    """The verdict on what was lost. That nothing was forgotten is said only where losses above the
    margins are excluded everywhere (non-inferiority); elsewhere how large a loss is not."""
    if not tasks and not texts:
        return Verdict("not measured", "Whether something was forgotten was not measured.")
    cautions = [f"{task.name}: {caution}" for task in tasks for caution in task.cautions]
    said = [f"Caution, {sentence}" for sentence in cautions]
    lost = [_task_loss(task) for task in tasks if task.outcome == "worse"]
    lost += [_text_loss(text) for text in texts if text.outcome == "worse"]
    kinds = [
        group_said(kind, task.name)
        for task in tasks
        for kind in task.kinds
        if group_outcome(kind, settings.confidence) == "worse"
    ]
    if lost or kinds:
        sentence = f"Something was forgotten: {'; '.join([*lost, *kinds])}."
        return Verdict("forgotten", " ".join([sentence, *said]), cautions, kinds)
    if all([*(task.kept for task in tasks), *(text.kept for text in texts)]):
        excluded = _excluded(tasks, settings)
        if texts:
            rise = _rise(settings.perplexity_margin)
            excluded.append(f"a rise of the perplexity of {_names(texts)} by more than {rise}")
        sentence = f"Nothing was forgotten: {' and '.join(excluded)} can be excluded."
        return Verdict("nothing forgotten", " ".join([sentence, *said]), cautions)
    open_ends = [_task_not_excluded(task, settings) for task in tasks if not task.kept]
    open_ends += [
        _text_not_excluded(text, settings.perplexity_margin) for text in texts if not text.kept
    ]
    unseen = "".join([*map(_unseen, tasks), *map(_unseen, texts)])
    sentence = f"No forgetting shown, nor excluded: {'; '.join(open_ends)}.{unseen}"
    return Verdict("no forgetting shown", " ".join([sentence, *said]), cautions)


def _task_loss(task: TaskComparison) -> str:
    return change_said(task.name, task.accuracy, task.adjusted_p)


def _excluded(tasks: Sequence[TaskComparison], settings: BenchSettings) -> list[str]:
    """Of tasks that all are kept: which loss is excluded on which."""
    found = []
    for margin in sorted({_margin(task.accuracy, settings) for task in tasks}, reverse=True):
        there = [task for task in tasks if _margin(task.accuracy, settings) == margin]
        found.append(f"a loss of more than {_points_of(margin)} on {_names(there)}")
    return found


def _points_of(margin: float) -> str:
    return f"{_number(margin)} point{'' if _number(margin) == '1' else 's'}"


def _number(margin: float) -> str:
    return f"{round(100 * margin, 2):g}"


def _task_not_excluded(task: TaskComparison, settings: BenchSettings) -> str:
    found = task.accuracy
    prompts = "the one prompt" if found.prompts == 1 else f"the {found.prompts:,} prompts"
    where = f"on {prompts} of “{task.name}”"
    if found.base.value < FLOOR:
        return f"{where} the base scores {percent(found.base.value)}: it has nothing to lose there"
    if found.difference.low is None:
        return f"{where} no loss can be excluded ({points_interval(found.difference)})"
    margin = _margin(found, settings)
    if found.difference.low > -margin:
        unseen = unseen_share(found.clusters, settings.confidence)
        return f"{where} none is seen, but {_may_hide(unseen, 'prompts', counted(found))}"
    enough = significance.enough_to_exclude(
        found.difference,
        found.prompts,
        margin,
        settings.confidence,
        unseen_loss=_unseen_loss(found),
    )
    small = ""
    if margin < settings.margin / 100:
        small = (
            f", and of the {percent(found.base.value)} that the base scores a tenth at most "
            f"({_points_of(margin)}) may be lost"
        )
    # Where that much is seen to be lost, more prompts would rather show it.
    if enough and found.difference.value > -margin:
        wanted = f"{enough:,} such prompts would exclude {_number(margin)}"
        small += f" (about {wanted} if nothing is lost)"
    return (
        f"{where} a loss of up to {-100 * found.difference.low:.1f} points is not excluded{small}"
    )


def _unseen_loss(found: AccuracyComparison) -> float:
    """What `undoing` supposes to be lost by one of the prompts not seen; by clusters not seen all
    of their prompts do."""
    full = unseen_odds(found.clusters, 1 - found.level)
    return found.prompts / found.clusters * found.undoing / full


def _text_loss(text: TextComparison) -> str:
    rise = f"{_rise(text.ratio.value)} ({_rises(text.ratio)})"
    # No rule bounds what kinds not seen could gain, as `undoing` does for scores.
    return (
        f"perplexity of {text.name} rose by {rise} on text like the {text.pieces:,} "
        f"{unit_of(text)} measured (what up to {percent(text.unseen)} of such {text.unit} gain may "
        f"be seen in none of {text.counted})"
    )


def _text_not_excluded(text: TextComparison, margin: float) -> str:
    pieces = "one" if text.pieces == 1 else f"{text.pieces:,}"
    where = f"on the {pieces} {unit_of(text)} of {text.name}"
    if text.ratio.high is None:
        return f"{where} no loss can be excluded ({number_interval(text.ratio)})"
    if text.ratio.high < margin:
        return f"{where} none is seen, but {_may_hide(text.unseen, text.unit, text.counted)}"
    return f"{where} a rise of the perplexity of up to {_rise(text.ratio.high)} is not excluded"


def _may_hide(unseen: float, units: str, number: str) -> str:
    """That what some lose may be lost by none of those that were looked at."""
    return f"what up to {percent(unseen)} of such {units} lose may be seen in none of {number}"


def _unseen(compared: TaskComparison | TextComparison) -> str:
    """Where there is too little for any loss to be shown, that; else ''."""
    if isinstance(compared, TaskComparison):
        found = compared.accuracy
        smallest, what = found.smallest_detectable, counted(found)
    else:
        smallest, what = compared.smallest_detectable, compared.counted
    if smallest is not None:
        return ""
    return f" With {what} no loss can be shown, however large ({compared.name})."


def _rise(ratio: float) -> str:
    return f"{points(ratio - 1)} %"


def _rises(ratio: Estimate) -> str:
    low, high = ratio.low, ratio.high
    return f"{_rise(low)} to {_rise(high)}" if low is not None and high is not None else ""


def _names(compared: Sequence[TaskComparison] | Sequence[TextComparison]) -> str:
    return listed([found.name for found in compared])
