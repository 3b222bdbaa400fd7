"""Figures as text, as the pages show them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from tuneserve.bench.compare.results import AccuracyComparison, Report, TextComparison
from tuneserve.bench.measure.clients import Held
from tuneserve.bench.measure.perplexity import MeanError
from tuneserve.bench.measure.speed import Rate
from tuneserve.bench.stats.bootstrap import Estimate
from tuneserve.bench.stats.gaps import SMALLEST_GROUP, GapComparison
from tuneserve.bench.stats.intervals import student_quantile
from tuneserve.bench.stats.significance import fewest_clusters
from tuneserve.bench.stats.unseen import UNSEEN_LOSS, unseen_share, with_unseen
from tuneserve.console import percent

LEVELS = (0.01, 0.05, 0.1)
"""Of tests, as `confidence` is chosen."""
OWN_NAMES = ("base", "tuned", "base again", "endpoint")


def interval(estimate: Estimate) -> str:
    """A share's interval as '75.2 to 83.0', in percent; or why there is none."""
    return _interval(estimate, lambda end: f"{100 * end:.1f}")


def _interval(estimate: Estimate, shown: Callable[[float], str]) -> str:
    low, high, why_not = estimate.low, estimate.high, estimate.why_not
    if low is not None and high is not None:
        return f"{shown(low)} to {shown(high)}"
    if low is not None:
        return f"at least {shown(low)}; no upper end: {why_not}"
    if high is not None:
        return f"at most {shown(high)}; no lower end: {why_not}"
    return f"no interval: {why_not}"


def points(share: float) -> str:
    """A difference of shares in percentage points: '+4.2'."""
    return f"{100 * share:+.1f}".replace("-", "−")


def points_interval(estimate: Estimate) -> str:
    return _interval(estimate, points)


def number(value: float) -> str:
    """Four significant digits, with thousands separated; beyond ten millions as '1.234e+09'."""
    if value >= 1e7:
        return f"{value:.3e}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.4g}"


def number_interval(estimate: Estimate) -> str:
    return _interval(estimate, number)


def rate(measured: Rate) -> str:
    """Tokens per second with their 95 % interval, Student's t of the repetitions: '78.4 ± 1.8'."""
    decimals = 0 if measured.mean >= 1000 else 1
    return f"{measured.mean:,.{decimals}f} ± {_half_interval(measured):,.{decimals}f}"


def memory(held: Held | None) -> str:
    """MiB with their 95 % interval, Student's t of the rounds: '312.4 ± 1.8'."""
    if held is None:
        return "–"
    return f"{held.mean / 2**20:,.1f} ± {_half_interval(held) / 2**20:,.1f}"


def _half_interval(measured: Rate | Held) -> float:
    quantile = student_quantile(0.95, measured.repetitions - 1)
    return quantile * measured.deviation / math.sqrt(measured.repetitions)


def mean_error(measured: MeanError, decimals: int = 4) -> str:
    """A mean and its standard error as '0.0923 ± 0.0041'."""
    return f"{measured.value:.{decimals}f} ± {measured.error:.{decimals}f}"


def p_value(p: float) -> str:
    """'0.032' or '< 0.001'; with more digits where three would lift it to a level that it is below
    (0.0498)."""
    if p < 0.001:
        return "< 0.001"
    digits = 3
    while p < round(p, digits) and round(p, digits) in LEVELS:
        digits += 1
    return f"{p:.{digits}f}"


def p_said(p: float) -> str:
    """'p = 0.032' or 'p < 0.001'."""
    return f"p {p_value(p)}" if p < 0.001 else f"p = {p_value(p)}"


def counted(accuracy: AccuracyComparison) -> str:
    """What was counted as independent: '5 sources', '200 prompts'."""
    plural = "" if accuracy.clusters == 1 else "s"
    return f"{accuracy.clusters:,} {unit_counted(accuracy)}{plural}"


def unit_counted(accuracy: AccuracyComparison) -> str:
    """What is counted as independent, one of it: 'source' or 'prompt'."""
    return "source" if accuracy.clusters < accuracy.prompts else "prompt"


def unit_of(text: TextComparison) -> str:
    """What its pieces are called: 'chunks', of one 'chunk'."""
    return text.unit.removesuffix("s") if text.pieces == 1 else text.unit


def reach(accuracy: AccuracyComparison) -> str:
    """Which difference these prompts would have shown, as a sentence."""
    if accuracy.smallest_detectable is not None:
        size = f"{100 * accuracy.smallest_detectable:.1f}"
        return f"A true difference of {size} points would be shown 4 times in 5."
    fewest = fewest_clusters(accuracy.level)
    if accuracy.clusters < fewest:
        return (
            f"With {counted(accuracy)} no difference can be shown, however large: the test needs "
            f"{fewest} at a level of {accuracy.level:.2g}."
        )
    return f"With {counted(accuracy)} like these hardly any difference would be shown."


def unseen_said(report: Report) -> str:
    """What intervals of likelihoods and graded scores do not know, and what it could come to."""
    found, ratio = report.accuracy, report.perplexity.ratio
    count, confidence = found.clusters, report.confidence
    figures = "graded scores and perplexities" if found.graded else "perplexities"
    if found.clusters < found.prompts:
        figures = "scores and perplexities"  # of right or wrong too, where sources lose together
    sentence = (
        f"Kinds of {unit_counted(found)}s that make up less than "
        f"{percent(unseen_share(count, confidence))} of all may be seen in none of "
        f"{counted(found)} ({percent(confidence, 0)}); intervals of "
        f"{figures} hold for the kinds that are."
    )
    if ratio.low is not None and ratio.high is not None and ratio.low < ratio.high:
        highest = with_unseen(ratio.high, count, confidence, report.perplexity.longest)
        sentence += (
            f" If that share, with answers as long as the longest here, lost {UNSEEN_LOSS:g} nats "
            f"a token, tuned / base could be up to {number(highest)}."
        )
    return sentence


def texts_unseen(report: Report) -> str:
    """What the perplexities of texts do not know."""
    return (
        "A rise or a fall is that of text like the pieces measured: up to the share beside their "
        f"number (unseen, {percent(report.confidence, 0)}) may be of kinds that none of them is, "
        "and what those gain or lose is in no figure."
    )


def gap_said(gap: GapComparison) -> str:
    """How far apart groups are, what chance makes of it taken out, in a few sentences."""
    tuned, base, was_tuned, was_base = (
        f"{100 * share:.1f}"
        for share in (gap.tuned, gap.base, gap.observed_tuned, gap.observed_base)
    )
    sentence = (
        f"Between the best and the worst group lie {tuned} points (base {base}) when what chance "
        f"explains is taken out; observed: {was_tuned} (base {was_base}), change "
        f"{points(gap.change.value)}, {p_said(gap.p)} of a permutation test over groups "
        f"({interval(gap.change)}). Worst is {gap.worst_tuned} (base: {gap.worst_base})."
    )
    if gap.left_out:
        sentence += (
            f" Left out, with fewer than {SMALLEST_GROUP} prompts: {', '.join(gap.left_out)}."
        )
    return sentence


def share_interval_said(accuracy: AccuracyComparison) -> str:
    """How the interval of a share or a mean score was made (`intervals.accuracy`)."""
    if accuracy.graded:
        return "Student’s t, as wide as the skewness asks"
    said = "the longer of Wilson’s and mid-p Clopper-Pearson’s on each side"
    return said + _for_sources(accuracy)


def difference_interval_said(accuracy: AccuracyComparison) -> str:
    """How that of the paired difference was made (`intervals.paired_difference`)."""
    if accuracy.graded:
        return "Student’s t, as wide as the skewness asks; Tango’s where scores are all but whole"
    return "Tango’s" + _for_sources(accuracy)


def _for_sources(accuracy: AccuracyComparison) -> str:
    if accuracy.clusters == accuracy.prompts:
        return ""
    return " of the effective number of prompts, no shorter than a mean’s"


def contender(name: str) -> str:
    """A contender's name as the first word: our own words get a capital, names of runs and files
    stay as they are."""
    return name.capitalize() if name in OWN_NAMES else name


def headline(sentence: str) -> tuple[str, str]:
    """A verdict's claim, before the first colon, and its evidence."""
    claim, _, evidence = sentence.partition(": ")
    return claim.removesuffix("."), evidence[:1].upper() + evidence[1:]


def markdown_cell(text: str, longest: int = 160) -> str:
    """Text for a cell of a Markdown table: one line, cut, nothing that would break the table."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", line)
