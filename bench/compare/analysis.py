"""From the pairs of answers to estimates, tests and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tuneserve.bench.compare.results import (
    AccuracyComparison,
    AnswerCounts,
    GroupComparison,
    OtherComparison,
    Outcome,
    Pair,
    PerplexityComparison,
    Verdict,
)
from tuneserve.bench.stats import intervals, significance
from tuneserve.bench.stats.bootstrap import (
    Bootstrap,
    Estimate,
    FloatArray,
    IntArray,
    cluster_numbers,
)
from tuneserve.bench.stats.gaps import GapComparison, GroupScores, compare_gaps
from tuneserve.chat.examples import Example
from tuneserve.settings import BenchSettings


def compare_accuracy(pairs: Sequence[Pair], settings: BenchSettings) -> AccuracyComparison:
    """Accuracy of both models on `pairs`, and the paired difference with interval and test."""
    tuned = np.array([pair.tuned.score for pair in pairs], dtype=np.float64)
    base = np.array([pair.base.score for pair in pairs], dtype=np.float64)
    return compare_scores(tuned, base, _clusters(pairs), settings)


def compare_scores(
    tuned: FloatArray, base: FloatArray, clusters: IntArray, settings: BenchSettings
) -> AccuracyComparison:
    """Two contenders' scores on the same prompts, [prompts] each."""
    bootstrap = bootstrap_of(clusters, settings)
    won, lost = int((tuned > base).sum()), int((tuned < base).sum())
    size = intervals.effective_size(tuned - base, bootstrap)
    return AccuracyComparison(
        prompts=len(tuned),
        clusters=bootstrap.count,
        base=intervals.accuracy(base, bootstrap),
        tuned=intervals.accuracy(tuned, bootstrap),
        difference=intervals.paired_difference(tuned, base, bootstrap),
        won=won,
        lost=lost,
        mcnemar_p=significance.mcnemar_exact(won, lost),
        p=significance.paired_p(np.bincount(clusters, weights=tuned - base), seed=settings.seed),
        smallest_detectable=significance.smallest_detectable(
            float(((tuned - base) ** 2).mean()), size, settings.confidence
        ),
        graded=not intervals.is_binary(np.concatenate([tuned, base])),
    )


def bootstrap_of(clusters: IntArray, settings: BenchSettings) -> Bootstrap:
    """How the settings want intervals made."""
    return Bootstrap(clusters, settings.confidence, settings.bootstrap, settings.seed)


def compare_other(
    pairs: Sequence[Pair], name: str, against: str, settings: BenchSettings
) -> OtherComparison:
    """Another contender's scores against those of 'base' or 'tuned'."""
    theirs = np.array([pair.others[name].score for pair in pairs], dtype=np.float64)
    ours = np.array(
        [(pair.tuned if against == "tuned" else pair.base).score for pair in pairs],
        dtype=np.float64,
    )
    return OtherComparison(name, against, compare_scores(theirs, ours, _clusters(pairs), settings))


def compare_perplexity(pairs: Sequence[Pair], settings: BenchSettings) -> PerplexityComparison:
    """Perplexity of the reference answers under both models, and their paired ratio."""
    tuned = [pair.tuned.reference_nll for pair in pairs]
    base = [pair.base.reference_nll for pair in pairs]
    tokens = [pair.base.reference_tokens for pair in pairs]
    bootstrap = bootstrap_of(_clusters(pairs), settings)
    return PerplexityComparison(
        tokens=sum(tokens),
        base=intervals.perplexity(base, tokens, bootstrap),
        tuned=intervals.perplexity(tuned, tokens, bootstrap),
        ratio=intervals.perplexity_ratio(tuned, base, tokens, bootstrap),
    )


def compare_groups(pairs: Sequence[Pair], settings: BenchSettings) -> list[GroupComparison]:
    """The comparison within each group, by name; empty where examples have no groups."""
    members: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.example.group is not None:
            members.setdefault(pair.example.group, []).append(pair)
    names = sorted(members)
    compared = [compare_accuracy(members[name], settings) for name in names]
    adjusted = significance.holm([accuracy.p for accuracy in compared])
    return [
        GroupComparison(name, accuracy, compare_perplexity(members[name], settings), p)
        for name, accuracy, p in zip(names, compared, adjusted, strict=True)
    ]


def compare_gap(pairs: Sequence[Pair], settings: BenchSettings) -> GapComparison | None:
    """How far apart the best and the worst group are, under both models; None without groups."""
    grouped = [pair for pair in pairs if pair.example.group is not None]
    names, groups = np.unique([str(pair.example.group) for pair in grouped], return_inverse=True)
    if len(names) < 2:
        return None
    return compare_gaps(
        GroupScores(
            base=np.array([pair.base.score for pair in grouped], dtype=np.float64),
            tuned=np.array([pair.tuned.score for pair in grouped], dtype=np.float64),
            groups=groups,
            names=names.tolist(),
            bootstrap=bootstrap_of(_clusters(grouped), settings),
        )
    )


def count_answers(pairs: Sequence[Pair], model: str) -> AnswerCounts:
    """How `model`'s ('base' or 'tuned') generations ended."""
    answers = [pair.tuned if model == "tuned" else pair.base for pair in pairs]
    return AnswerCounts(
        cut_off_thoughts=sum(answer.cut_off for answer in answers),
        length_limited=sum(answer.finish_reason == "length" for answer in answers),
        empty=sum(not answer.text.strip() for answer in answers),
        mean_tokens=float(np.mean([answer.generated_tokens for answer in answers])),
    )


def judge(accuracy: AccuracyComparison, confidence: float) -> Verdict:
    """The verdict: a difference counts when the interval excludes zero and the test agrees."""
    outcome = decide(accuracy.difference, accuracy.p, confidence)
    p = format_p(accuracy.p)
    tuned, base = _percent(accuracy.tuned.value), _percent(accuracy.base.value)
    prompts = f"{accuracy.prompts:,} held-out prompts"
    scored = (
        f"scores {tuned} on {prompts}, the base {base}"
        if accuracy.graded
        else f"gets {tuned} of {prompts} right, the base {base}"
    )
    difference = accuracy.difference.scaled(100)
    evidence = (
        f"difference {difference.value:+.1f} points, {_percent(confidence, 0)} interval "
        f"{difference.low:+.1f} to {difference.high:+.1f}, p {p if p[0] == '<' else '= ' + p}"
    ).replace("-", "−")
    if outcome == "no difference shown":
        reach = 100 * accuracy.smallest_detectable
        sentence = (
            f"No difference shown: the tuned model {scored} ({evidence}); a true difference "
            f"below about {reach:.1f} points would often go unseen with this many prompts."
        )
    else:
        sentence = f"The tuned model is {outcome}: it {scored} ({evidence})."
    return Verdict(outcome, sentence)


def decide(gain: Estimate, p: float, confidence: float) -> Outcome:
    """Better or worse only if both the interval and the test say so."""
    if p >= 1 - confidence:
        return "no difference shown"
    if gain.low > 0:
        return "better"
    if gain.high < 0:
        return "worse"
    return "no difference shown"


def format_p(p: float) -> str:
    """'0.032' or '< 0.0001'."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.001 else f"{p:.3f}"


def _percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f} %"


def clusters_of(examples: Sequence[Example]) -> IntArray:
    """Cluster numbers by source, [prompts]."""
    return cluster_numbers([example.source for example in examples])


def _clusters(pairs: Sequence[Pair]) -> IntArray:
    return clusters_of([pair.example for pair in pairs])
