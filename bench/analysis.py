"""From the pairs of answers to estimates, tests and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench import statistics
from bench.results import (
    AccuracyComparison,
    AnswerCounts,
    GapComparison,
    GroupComparison,
    OtherComparison,
    Outcome,
    Pair,
    PerplexityComparison,
    TextComparison,
    Verdict,
)
from tuneserve.settings import BenchSettings


@dataclass(frozen=True)
class TextLosses:
    """A text's summed negative log-likelihood by chunk, and the scored tokens of each."""

    nll: list[float]
    tokens_per_chunk: int


def compare_accuracy(pairs: Sequence[Pair], settings: BenchSettings) -> AccuracyComparison:
    """Accuracy of both models on `pairs`, and the paired difference with interval and test."""
    tuned = np.array([pair.tuned.score for pair in pairs], dtype=np.float64)
    base = np.array([pair.base.score for pair in pairs], dtype=np.float64)
    return compare_scores(tuned, base, _clusters(pairs), settings)


def compare_scores(
    tuned: statistics.FloatArray,
    base: statistics.FloatArray,
    clusters: statistics.IntArray,
    settings: BenchSettings,
) -> AccuracyComparison:
    """Two contenders' scores on the same prompts, [prompts] each."""
    won, lost = int((tuned > base).sum()), int((tuned < base).sum())
    size = statistics.effective_size(tuned - base, clusters, settings.confidence)
    accuracy, difference = (
        partial(
            function,
            clusters=clusters,
            confidence=settings.confidence,
            resamples=settings.bootstrap,
            seed=settings.seed,
        )
        for function in (statistics.accuracy, statistics.paired_difference)
    )
    return AccuracyComparison(
        prompts=len(tuned),
        clusters=int(clusters.max()) + 1,
        base=accuracy(base),
        tuned=accuracy(tuned),
        difference=difference(tuned, base),
        won=won,
        lost=lost,
        mcnemar_p=statistics.mcnemar_exact(won, lost),
        p=statistics.paired_p(np.bincount(clusters, weights=tuned - base), seed=settings.seed),
        smallest_detectable=statistics.smallest_detectable(
            float(((tuned - base) ** 2).mean()), size, settings.confidence
        ),
        graded=not statistics.is_binary(np.concatenate([tuned, base])),
    )


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
    clusters = _clusters(pairs)
    confidence, resamples, seed = settings.confidence, settings.bootstrap, settings.seed
    return PerplexityComparison(
        tokens=sum(tokens),
        base=statistics.perplexity(
            base, tokens, clusters, confidence=confidence, resamples=resamples, seed=seed
        ),
        tuned=statistics.perplexity(
            tuned, tokens, clusters, confidence=confidence, resamples=resamples, seed=seed
        ),
        ratio=statistics.perplexity_ratio(
            tuned, base, tokens, clusters, confidence=confidence, resamples=resamples, seed=seed
        ),
    )


def compare_groups(pairs: Sequence[Pair], settings: BenchSettings) -> list[GroupComparison]:
    """The comparison within each group, by name; empty where examples have no groups."""
    members: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.example.group is not None:
            members.setdefault(pair.example.group, []).append(pair)
    names = sorted(members)
    compared = [compare_accuracy(members[name], settings) for name in names]
    adjusted = statistics.holm([accuracy.p for accuracy in compared])
    return [
        GroupComparison(name, accuracy, compare_perplexity(members[name], settings), p)
        for name, accuracy, p in zip(names, compared, adjusted, strict=True)
    ]


def compare_gap(pairs: Sequence[Pair], settings: BenchSettings) -> GapComparison | None:
    """How far apart the best and the worst group are, under both models; None without groups."""
    labels = [pair.example.group for pair in pairs]
    names = sorted({label for label in labels if label is not None})
    if len(names) < 2:
        return None
    members = np.array([[label == name for name in names] for label in labels], dtype=np.float64)
    tuned = np.array([[pair.tuned.score] for pair in pairs]) * members
    base = np.array([[pair.base.score] for pair in pairs]) * members
    columns = np.hstack([base, tuned, members])
    sums = statistics.resampled_sums(columns, _clusters(pairs), settings.bootstrap, settings.seed)
    drawn_base, drawn_tuned = _gaps(sums, len(names))
    found_base, found_tuned = (float(gap[0]) for gap in _gaps(columns.sum(0)[None], len(names)))
    low, high = statistics.percentile_interval(drawn_tuned - drawn_base, settings.confidence)
    sizes = members.sum(0)
    return GapComparison(
        base=found_base,
        tuned=found_tuned,
        change=statistics.Estimate(found_tuned - found_base, low, high),
        worst_base=names[int((base.sum(0) / sizes).argmin())],
        worst_tuned=names[int((tuned.sum(0) / sizes).argmin())],
        widened=low > 0,
    )


def _gaps(
    sums: statistics.FloatArray, groups: int
) -> tuple[statistics.FloatArray, statistics.FloatArray]:
    """Best minus worst group's accuracy under base and tuned, of rows [base, tuned, members]."""
    base, tuned, members = (
        sums[:, first : first + groups] for first in range(0, 3 * groups, groups)
    )
    # A group that a resample left out says nothing there.
    sizes = np.where(members > 0, members, np.nan)
    low_high = [(np.nanmin(part / sizes, 1), np.nanmax(part / sizes, 1)) for part in (base, tuned)]
    return low_high[0][1] - low_high[0][0], low_high[1][1] - low_high[1][0]


def compare_texts(
    measured: Mapping[str, Mapping[str, TextLosses]], settings: BenchSettings
) -> list[TextComparison]:
    """Perplexity of every text under both models; `measured[text][model]`.

    Chunks are resampled, and the confidence of each interval is raised so that all hold together
    (Bonferroni).
    """
    confidence = 1 - (1 - settings.confidence) / max(1, len(measured))
    compared = []
    for name, losses in measured.items():
        base, tuned = losses["base"], losses["tuned"]
        clusters = np.arange(len(base.nll))
        tokens = [base.tokens_per_chunk] * len(base.nll)
        perplexity, ratio = (
            partial(
                function,
                tokens=tokens,
                clusters=clusters,
                confidence=confidence,
                resamples=settings.bootstrap,
                seed=settings.seed,
            )
            for function in (statistics.perplexity, statistics.perplexity_ratio)
        )
        compared.append(
            TextComparison(
                name=name,
                chunks=len(base.nll),
                base=perplexity(base.nll),
                tuned=perplexity(tuned.nll),
                ratio=ratio(tuned.nll, base.nll),
            )
        )
    return compared


def judge_forgetting(texts: Sequence[TextComparison]) -> str:
    """One sentence on what the tune cost elsewhere; '' where no text was measured."""
    if not texts:
        return ""
    lost = [text for text in texts if text.lost]
    if not lost:
        return "No forgetting shown: no text's perplexity is shown to have risen."
    shares = ", ".join(
        f"{text.name} {_rise(text.ratio.value)} ({_rise(text.ratio.low)} to "
        f"{_rise(text.ratio.high)})"
        for text in lost
    )
    return f"Something was forgotten: perplexity rose on {shares}."


def _rise(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %".replace("-", "−")


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
    outcome = decide(accuracy, confidence)
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


def decide(accuracy: AccuracyComparison, confidence: float) -> Outcome:
    """Better or worse only if both the interval and the exact test say so."""
    if accuracy.p >= 1 - confidence:
        return "no difference shown"
    if accuracy.difference.low > 0:
        return "better"
    if accuracy.difference.high < 0:
        return "worse"
    return "no difference shown"


def format_p(p: float) -> str:
    """'0.032' or '< 0.0001'."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.001 else f"{p:.3f}"


def _percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f} %"


def _clusters(pairs: Sequence[Pair]) -> statistics.IntArray:
    return statistics.cluster_numbers([pair.example.source for pair in pairs])
