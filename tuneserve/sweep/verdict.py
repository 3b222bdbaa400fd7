"""Is the best trial better than the recipe as it is, beyond chance?

The best of several is the luckiest of them too. So the interval holds for all candidates at once
(Bonferroni), and the p value is adjusted for all of them (Holm).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tuneserve.bench.stats.bootstrap import Bootstrap, FloatArray, cluster_numbers
from tuneserve.bench.stats.perplexities import perplexity_ratio
from tuneserve.bench.stats.significance import can_show, holm, paired_p
from tuneserve.finetune.training.eval_losses import EvalLosses
from tuneserve.sweep.records import Comparison

CONFIDENCE = 0.95
Likelihoods = tuple[FloatArray, FloatArray]


def compare(
    first: int, best: int, losses: Mapping[int, EvalLosses], *, candidates: int
) -> Comparison:
    """The trial `best` beside `first`, paired over the examples whose `losses` are recorded, which
    are the same in all trials. `candidates`: trials that could have become the best, pruned ones
    included."""
    examples = losses[first].examples
    clusters = cluster_numbers([example.source for example in examples])
    level = 1 - (1 - CONFIDENCE) / candidates
    bootstrap = Bootstrap(clusters, confidence=level, unit="example")
    tokens = np.array([example.tokens for example in examples], dtype=np.float64)
    sums = {
        number: tokens * np.array([example.loss for example in found.examples])
        for number, found in losses.items()
    }
    others = [number for number in sums if number != first]
    p_values = [paired_p(bootstrap.by_cluster(sums[number] - sums[first])) for number in others]
    # A trial that was pruned was a candidate and has no losses: it counts, and shows nothing.
    unknown = [1.0] * (candidates - len(others))
    adjusted = dict(zip(others, holm([*p_values, *unknown]), strict=False))
    ratio = perplexity_ratio(sums[best], sums[first], tokens, bootstrap)
    p = adjusted[best]
    return Comparison(
        first=first,
        best=best,
        examples=len(examples),
        sources=bootstrap.count,
        candidates=candidates,
        confidence=CONFIDENCE,
        ratio=ratio.value,
        low=ratio.low,
        high=ratio.high,
        p=p,
        better=p < 1 - CONFIDENCE
        and ratio.high is not None
        and ratio.high < 1
        and can_show(bootstrap, 1 - level),
    )


def sentence(comparison: Comparison) -> str:
    """The comparison in words."""
    count = comparison.candidates
    scope = f" for all {count} candidates together" if count > 1 else ""
    interval = (
        "no interval: too few examples"
        if comparison.low is None or comparison.high is None
        else f"{comparison.low:.3f} to {comparison.high:.3f}"
    )
    verdict = (
        "better beyond chance" if comparison.better else "no difference beyond chance is shown"
    )
    change = 100 * (comparison.ratio - 1)
    return (
        f"trial {comparison.best} beside the recipe as it is: perplexity {change:+.1f} %, ratio "
        f"{comparison.ratio:.3f} ({interval}; {100 * comparison.confidence:g} %{scope}), "
        f"p {comparison.p:.2g} (Holm), paired over {comparison.examples} held-out "
        f"examples: {verdict}"
    )


def comparable(first: EvalLosses, other: EvalLosses) -> bool:
    """Are these the losses of the same examples, tokenized alike?"""
    return [(e.sha256, e.tokens) for e in first.examples] == [
        (e.sha256, e.tokens) for e in other.examples
    ]


def mean_loss(losses: EvalLosses) -> float:
    """Mean over all trained tokens, in nats."""
    tokens = sum(example.tokens for example in losses.examples)
    return math.fsum(example.loss * example.tokens for example in losses.examples) / tokens
