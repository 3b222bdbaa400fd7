"""From the pairs of answers to estimates, tests and the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tuneserve.bench.compare.figures import (
    counted,
    p_said,
    points,
    points_interval,
    reach,
    unit_counted,
)
from tuneserve.bench.compare.pairs import FAILED, Pair, Response
from tuneserve.bench.compare.results import (
    AccuracyComparison,
    AnswerCounts,
    GroupComparison,
    OtherComparison,
    Outcome,
    PerplexityComparison,
    Verdict,
)
from tuneserve.bench.stats import intervals, perplexities, significance
from tuneserve.bench.stats.bootstrap import Bootstrap, FloatArray, cluster_numbers
from tuneserve.bench.stats.gaps import SMALLEST_GROUP, GapComparison, compare_gaps
from tuneserve.bench.stats.unseen import longest_of, unseen_share
from tuneserve.console import percent
from tuneserve.settings import BenchSettings

OUTCOMES: Mapping[int, Outcome] = {1: "better", 0: "no difference shown", -1: "worse"}
"""What is shown, by its `direction`."""


def compare_accuracy(
    pairs: Sequence[Pair], settings: BenchSettings, comparisons: int = 1
) -> AccuracyComparison:
    """Accuracy of both models on `pairs`, and the paired difference with interval and test; one of
    `comparisons` whose p are adjusted together."""
    tuned, base = scores_of(pair.tuned for pair in pairs), scores_of(pair.base for pair in pairs)
    return compare_scores(tuned, base, _bootstrap(pairs, settings), comparisons)


def compare_scores(
    tuned: FloatArray, base: FloatArray, bootstrap: Bootstrap, comparisons: int = 1
) -> AccuracyComparison:
    """Two contenders' scores on the same prompts, [prompts] each."""
    won, lost = int((tuned > base).sum()), int((tuned < base).sum())
    level = (1 - bootstrap.confidence) / comparisons
    graded = not intervals.is_binary(np.concatenate([tuned, base]))
    return AccuracyComparison(
        prompts=len(tuned),
        clusters=bootstrap.count,
        base=intervals.accuracy(base, bootstrap),
        tuned=intervals.accuracy(tuned, bootstrap),
        difference=intervals.paired_difference(tuned, base, bootstrap),
        won=won,
        lost=lost,
        mcnemar_p=significance.mcnemar_exact(won, lost),
        p=significance.paired_p(bootstrap.by_cluster(tuned - base), seed=bootstrap.seed),
        smallest_detectable=significance.smallest_detectable(
            tuned, base, bootstrap, level, comparisons
        ),
        graded=graded,
        level=level,
        undoing=float(significance.undoing_of(tuned - base, bootstrap, comparisons)),
    )


def scores_of(responses: Iterable[Response]) -> FloatArray:
    """[prompts]"""
    return np.array([response.score for response in responses], dtype=np.float64)


def bootstrap_of(
    sources: Sequence[str | None], settings: BenchSettings, unit: str = "prompt"
) -> Bootstrap:
    """How the settings want intervals made of prompts (or other units) with these sources."""
    return Bootstrap(
        cluster_numbers(sources), settings.confidence, settings.bootstrap, settings.seed, unit
    )


def _bootstrap(pairs: Sequence[Pair], settings: BenchSettings) -> Bootstrap:
    return bootstrap_of([pair.example.source for pair in pairs], settings)


def compare_other(
    pairs: Sequence[Pair], name: str, against: str, settings: BenchSettings
) -> OtherComparison:
    """Another contender's scores against those of 'base' or 'tuned'."""
    theirs = scores_of(pair.others[name] for pair in pairs)
    ours = scores_of(pair.tuned if against == "tuned" else pair.base for pair in pairs)
    accuracy = compare_scores(theirs, ours, _bootstrap(pairs, settings))
    counts = count_answers([pair.others[name] for pair in pairs])
    return OtherComparison(name, against, accuracy, counts)


def responses(pairs: Sequence[Pair]) -> Mapping[str, list[Response]]:
    """Every model's answers, [prompts] each."""
    others = {name: [pair.others[name] for pair in pairs] for name in pairs[0].others}
    return {
        "base": [pair.base for pair in pairs],
        "tuned": [pair.tuned for pair in pairs],
        **others,
    }


def compare_perplexity(pairs: Sequence[Pair], settings: BenchSettings) -> PerplexityComparison:
    """Perplexity of the reference answers under both models, and their paired ratio."""
    tuned = [pair.tuned.reference_nll for pair in pairs]
    base = [pair.base.reference_nll for pair in pairs]
    tokens = [pair.base.reference_tokens for pair in pairs]
    bootstrap = _bootstrap(pairs, settings)
    return PerplexityComparison(
        tokens=sum(tokens),
        base=perplexities.perplexity(base, tokens, bootstrap),
        tuned=perplexities.perplexity(tuned, tokens, bootstrap),
        ratio=perplexities.perplexity_ratio(tuned, base, tokens, bootstrap),
        longest=longest_of(tokens, bootstrap),
    )


def group_names(pairs: Sequence[Pair]) -> list[str]:
    """The examples' groups, sorted; empty where they have none."""
    return sorted({pair.example.group for pair in pairs if pair.example.group is not None})


def compare_groups(
    pairs: Sequence[Pair], settings: BenchSettings, comparisons: int | None = None
) -> list[GroupComparison]:
    """The comparison within each group, by name; empty where examples have no groups. One group of
    `comparisons` in all (None: of those here), over which the caller has to adjust p then."""
    names = group_names(pairs)
    groups = [[pair for pair in pairs if pair.example.group == name] for name in names]
    compared = [compare_accuracy(group, settings, comparisons or len(names)) for group in groups]
    adjusted = significance.holm([accuracy.p for accuracy in compared])
    return [
        GroupComparison(name, accuracy, compare_perplexity(group, settings), p)
        for name, group, accuracy, p in zip(names, groups, compared, adjusted, strict=True)
    ]


def compare_gap(pairs: Sequence[Pair], settings: BenchSettings) -> GapComparison | None:
    """How far apart the best and the worst group are, under both models; None where fewer than two
    groups have prompts enough."""
    sizes = Counter(pair.example.group for pair in pairs)
    del sizes[None]
    small = sorted(str(name) for name, size in sizes.items() if size < SMALLEST_GROUP)
    if len(sizes) - len(small) < 2:
        return None
    grouped = [pair for pair in pairs if sizes[pair.example.group] >= SMALLEST_GROUP]
    names, groups = np.unique([str(pair.example.group) for pair in grouped], return_inverse=True)
    return compare_gaps(
        scores_of(pair.base for pair in grouped),
        scores_of(pair.tuned for pair in grouped),
        groups,
        names.tolist(),
        _bootstrap(grouped, settings),
        small,
    )


def count_answers(answers: Sequence[Response]) -> AnswerCounts:
    """How one model's generations ended, and what was found in its answers."""
    there = [answer for answer in answers if answer.finish_reason != FAILED]
    return AnswerCounts(
        cut_off_thoughts=sum(answer.cut_off for answer in there),
        length_limited=sum(answer.finish_reason == "length" for answer in there),
        empty=sum(not answer.text.strip() for answer in there),
        mean_tokens=float(np.mean([answer.generated_tokens for answer in answers])),
        nothing_found=sum(answer.found == "none" for answer in there),
        several_found=sum(answer.found == "several" for answer in there),
        failed=len(answers) - len(there),
        unscored=sum(bool(answer.problem) for answer in there),
        strict=_mean([answer.strict for answer in answers]),
        lenient=_mean([answer.lenient for answer in answers]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def count_pairs(pairs: Sequence[Pair]) -> dict[str, AnswerCounts]:
    """How both models' generations ended."""
    return {
        "base": count_answers([pair.base for pair in pairs]),
        "tuned": count_answers([pair.tuned for pair in pairs]),
    }


def judge(
    accuracy: AccuracyComparison,
    confidence: float,
    cautions: Sequence[str] = (),
    groups: Sequence[GroupComparison] = (),
) -> Verdict[Outcome]:
    """The verdict: a difference counts when test and interval say so (`direction`). Groups of which
    something else is shown than of all stand in it."""
    outcome = decide(accuracy, accuracy.p, confidence)
    tuned, base = percent(accuracy.tuned.value), percent(accuracy.base.value)
    scored = (
        f"scores {tuned} on {_prompts(accuracy)}, the base {base}"
        if accuracy.graded
        else f"gets {tuned} of {_prompts(accuracy)} right, the base {base}"
    )
    known = accuracy.difference.low is not None
    level = f"{percent(confidence, 0)} interval " if known else ""
    evidence = (
        f"difference {points(accuracy.difference.value)} points, {level}"
        f"{points_interval(accuracy.difference)}, {p_said(accuracy.p)}"
    )
    if outcome == "no difference shown":
        sentence = f"No difference shown: the tuned model {scored} ({evidence}). "
        sentence += _why_none(accuracy, confidence) + reach(accuracy)
    else:
        sentence = f"The tuned model is {outcome}: it {scored} ({evidence})."
    shown = [(group, group_outcome(group, confidence)) for group in groups]
    apart = [
        (group_said(group), found)
        for group, found in shown
        if found not in ("no difference shown", outcome)
    ]
    if apart:
        sentence += f" Not so by group: {'; '.join(said for said, _ in apart)}."
    said = [f"Caution: {each}" for each in cautions]
    lost = [group for group, found in apart if found == "worse"]
    return Verdict(outcome, " ".join([sentence, *said]), list(cautions), lost)


def _why_none(accuracy: AccuracyComparison, confidence: float) -> str:
    """Why none is shown although the test alone, or the interval alone, would show one; '' where
    neither would."""
    difference = accuracy.difference
    if difference.low is None or difference.high is None:
        return ""
    if accuracy.p >= 1 - confidence:
        if difference.low <= 0 <= difference.high:
            return ""
        return (
            f"The interval alone would show one, but the test’s p is not below "
            f"{1 - confidence:.2g}, and both have to agree. "
        )
    if difference.low <= 0 <= difference.high:
        why = (
            ": so few of these scores differ by much that some not seen, which do, could undo it"
            if accuracy.graded
            else ""
        )
        return (
            f"The test alone would show one, but the interval holds zero, and both have to "
            f"agree{why}. "
        )
    worse, better = ("base", "tuned") if difference.value > 0 else ("tuned", "base")
    kinds = f"{unit_counted(accuracy)}s"
    share = percent(unseen_share(accuracy.clusters, 1 - accuracy.level))
    return (
        f"Test and interval alone would show one, but {kinds} of a kind that none of the "
        f"{counted(accuracy)} shows may be up to {share} of all: if the {better} model "
        f"failed on those that the {worse} one gets right, they could undo it. "
    )


def _prompts(accuracy: AccuracyComparison) -> str:
    one = accuracy.prompts == 1
    return "the one held-out prompt" if one else f"{accuracy.prompts:,} held-out prompts"


def group_outcome(group: GroupComparison, confidence: float) -> Outcome:
    """What is shown of one group, by the p that is adjusted over all."""
    return decide(group.accuracy, group.adjusted_p, confidence)


def group_said(group: GroupComparison, of: str = "") -> str:
    """What its scores did; `of`: the task whose kind of prompts it is."""
    name = f"{group.name} of {of}" if of else group.name
    return change_said(name, group.accuracy, group.adjusted_p)


def change_said(name: str, found: AccuracyComparison, p: float) -> str:
    """'de fell from 100.0 to 0.0 % right (−100.0 points, −100.0 to −92.7, adjusted p < 0.001)'."""
    return (
        f"{name} {'fell' if found.difference.value < 0 else 'rose'} from "
        f"{100 * found.base.value:.1f} to {percent(found.tuned.value)} "
        f"{'' if found.graded else 'right '}({points(found.difference.value)} points, "
        f"{points_interval(found.difference)}, adjusted {p_said(p)})"
    )


def decide(accuracy: AccuracyComparison, p: float, confidence: float) -> Outcome:
    """What is shown of accuracies, by this p (an adjusted one where there are several)."""
    found = significance.direction(accuracy.difference, p, confidence, accuracy.undoing)
    return OUTCOMES[found]
