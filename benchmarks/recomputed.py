"""Every figure of a benchmark's report, computed again from its answers by scipy and plain loops.

Nothing of tuneserve's statistics is used; only how figures are printed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, stats

from tuneserve.bench.compare.figures import (
    interval,
    number,
    number_interval,
    p_value,
    points,
    points_interval,
)
from tuneserve.bench.stats.bootstrap import Estimate
from tuneserve.console import percent

Row = dict[str, Any]


@dataclass
class Recomputed:
    """What a report says of some prompts."""

    prompts: int
    won: int
    lost: int
    base: Estimate
    tuned: Estimate
    difference: Estimate
    p: float
    smallest: float
    perplexities: tuple[Estimate, Estimate]
    ratio: Estimate

    def table_row(self, name: str, p: float) -> str:
        cells = [
            name, str(self.prompts), str(self.won), str(self.lost),
            f"{percent(self.base.value)} ({interval(self.base)})",
            f"{percent(self.tuned.value)} ({interval(self.tuned)})",
            f"{points(self.difference.value)} ({points_interval(self.difference)})", p_value(p),
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |"

    def perplexity_row(self, name: str) -> str:
        shown = (*self.perplexities, self.ratio)
        cells = [f"{number(each.value)} ({number_interval(each)})" for each in shown]
        return f"| {name} | {' | '.join(cells)} |"


def recomputed(rows: list[Row]) -> Recomputed:
    sources = defaultdict(list)
    for row in rows:
        sources[row["source"] or row["id"]].append(row)
    clusters = list(sources.values())
    rows = [row for part in clusters for row in part]

    def total(value: Callable[[Row], float]) -> list[float]:
        return [math.fsum(value(row) for row in part) for part in clusters]

    def score(name: str) -> list[float]:
        return [row[name]["score"] for row in rows]

    sizes = [float(len(part)) for part in clusters]
    tokens = total(lambda row: row["base"]["reference_tokens"])
    tuned, base = score("tuned"), score("base")
    differences = [a - b for a, b in zip(tuned, base, strict=True)]
    net = total(lambda row: row["tuned"]["score"] - row["base"]["score"])
    whole = set(tuned) | set(base) <= {0.0, 1.0}
    won, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    alone = len(clusters) == len(rows)
    if whole and alone:
        p = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    elif whole:
        p = whole_sign_flips(net)
    elif len(net) <= 14:
        p = sign_flips(net)
    else:
        generator = np.random.default_rng(0)
        signs = np.concatenate(
            [generator.choice((-1.0, 1.0), size=(1000, len(net))) for _ in range(20)]
        )
        ordered = sorted(abs(each) for each in net)  # so that their order is none of the data's
        p = (int((abs(signs @ ordered) >= abs(sum(net)) - 1e-9).sum()) + 1) / 20_001
    smallest = math.nan
    if len(clusters) >= 6:
        smallest = mean_detectable(net, sizes, differences, difference(differences, net, sizes))
        # A kind that no cluster shows, on which all is lost, could undo what the others gain.
        unseen = 1 - 0.05 ** (1 / len(clusters))
        means = [s / m for s, m in zip(net, sizes, strict=True)]
        smallest += (1 - wholeness(means, sizes) ** 2) * unseen / (1 - unseen)
        counts = wholeness(differences) ** 8 * (len(clusters) / len(rows)) ** 4
        discordant = math.fsum(d * d for d in differences) / len(rows)
        smallest *= 1 - counts
        if counts > 1e-9:
            smallest += counts * mcnemar_detectable(discordant, len(rows))
    return Recomputed(
        len(rows), won, lost,
        base=accuracy(base, total(lambda row: row["base"]["score"]), sizes, alone),
        tuned=accuracy(tuned, total(lambda row: row["tuned"]["score"]), sizes, alone),
        difference=difference(differences, net, sizes, whole),
        p=p, smallest=float(smallest),
        perplexities=(
            perplexity(total(lambda row: row["base"]["reference_nll"]), tokens, sizes),
            perplexity(total(lambda row: row["tuned"]["reference_nll"]), tokens, sizes),
        ),
        ratio=ratio(
            total(lambda row: row["tuned"]["reference_nll"] - row["base"]["reference_nll"]),
            tokens, sizes,
        ),
    )  # fmt: skip


def robust(sums: list[float], sizes: list[float]) -> tuple[float, float, float, float]:
    """A ratio of sums; its CR2 standard error, degrees of freedom and skewness."""
    shares = np.array(sizes) / sum(sizes)
    value = sum(sums) / sum(sizes)
    left = [(s - value * m) / sum(sizes) for s, m in zip(sums, sizes, strict=True)]
    error = math.sqrt(sum(e * e / (1 - w) for e, w in zip(left, shares, strict=True)))
    maker = np.eye(len(shares)) - np.outer(shares, np.ones(len(shares)))
    inner = maker.T @ np.diag(1 / (1 - shares)) @ maker @ np.diag(shares)
    freedom = np.trace(inner) ** 2 / np.trace(inner @ inner)
    skewness = sum(e**3 for e in left) / sum(e * e for e in left) ** 1.5 if any(left) else 0.0
    return value, error, float(freedom), skewness


def supposed(
    sums: list[float], sizes: list[float], values: list[float], usual: float
) -> tuple[float, float, float]:
    """Standard error, degrees of freedom and skewness of a mean with what was not seen; `values`
    stand source by source."""
    _, error, freedom, skewness = robust(sums, sizes)
    noted = [1 - 1 / (1 + (abs(value - usual) / 0.05) ** 8) for value in values]
    seen = sum(noted)
    ends = [round(sum(sizes[: place + 1])) for place in range(len(sizes))]
    parts = [min(1.0, sum(noted[end - round(m) : end])) for m, end in zip(sizes, ends, strict=True)]
    apart = [abs(s / m - usual) for s, m in zip(sums, sizes, strict=True)]
    weight = 1 / (1 + (seen / 4) ** 6)
    squares = sum(part * d * d for part, d in zip(parts, apart, strict=True))
    square = (squares + weight) / (sum(parts) + weight)
    shares = [m / sum(sizes) for m in sizes]
    added = 2 / (1 + seen / 5) * square * sum(w * w for w in shares) / len(shares)
    few = 1 / (1 + (seen / len(values) / 0.6) ** 8)
    enlarged = math.sqrt(max(error**2 + few * added, added))
    return enlarged, freedom, skewness * (error / enlarged) ** 3


def around(
    count: int, value: float, error: float, freedom: float, skewness: float, knee: float = 0.7
) -> tuple[float, float]:
    """Student's interval, and where Hall's cubic of it is at Student's quantiles; where what is
    cubed is so small that its cube is less than 1 - knee, the cubic's tangent there."""
    t = float(stats.t.ppf(0.975, freedom))
    if count < 5:
        return value - error * t, value + error * t

    def solved(quantile: float) -> float:
        def cubic(x: float) -> float:
            g = skewness * (1 + 10 / count)
            cubed, flat = 1 + g * x / 3, float((1 - knee) ** (1 / 3))
            if cubed >= flat:
                return x + g * x**2 / 3 + g**2 * x**3 / 27 + g / 6 - quantile
            tangent = flat**3 + 3 * flat**2 * (cubed - flat)
            return (tangent - 1) / g + g / 6 - quantile

        return float(optimize.brentq(cubic, -50, 50, xtol=1e-13))

    return value - error * max(t, solved(t)), value + error * max(t, -solved(-t))


def of_mean(
    sums: list[float], sizes: list[float], values: list[float], usual: float, lowest: float
) -> tuple[float, float]:
    low, high = around(len(sums), float(np.mean(values)), *supposed(sums, sizes, values, usual))
    return max(lowest, low), min(1.0, high)


def counted(sums: list[float], sizes: list[float]) -> str:
    """Of how little there is no interval."""
    unit = "source" if sum(sizes) > len(sums) else "prompt"
    return f"{len(sums)} {unit}{'s' if len(sums) > 1 else ''}"


def lopsided(amounts: list[float], sums: list[float], sizes: list[float]) -> str:
    """Why so few sources get no interval: one has nearly all."""
    alike = sum(amounts) ** 2 / sum(each * each for each in amounts)
    if not 2 <= len(amounts) <= 4 or alike >= 1.3:
        return ""
    share = 100 * max(amounts) / sum(amounts)
    return f"{counted(sums, sizes)}, one of which has {share:.0f} % of all"


def worth(values: list[float], sums: list[float], sizes: list[float], alone: bool) -> float:
    """The effective number of prompts."""
    n = len(values)
    if alone:
        return n
    _, error, freedom, _ = robust(sums, sizes)
    if not error:
        return len(sums) if len(set(values)) == 1 else n
    tails = stats.t.ppf(0.975, n - 1) / stats.t.ppf(0.975, freedom)
    return min(n, max(1.0, float(np.var(values)) / error**2 * float(tails) ** 2))


def accuracy(values: list[float], sums: list[float], sizes: list[float], alone: bool) -> Estimate:
    share = float(np.mean(values))
    if why_not := lopsided(sizes, sums, sizes):
        return Estimate(share, why_not=why_not)
    means = [s / m for s, m in zip(sums, sizes, strict=True)]
    usual = float(np.median(means))
    if not set(values) <= {0.0, 1.0}:
        if len(sums) < 3:
            return Estimate(share, why_not=counted(sums, sizes))
        return Estimate(share, *of_mean(sums, sizes, values, usual, 0.0))
    n = worth(values, sums, sizes, alone)
    z = float(stats.norm.ppf(0.975))
    # Wilson's limits solve (share - p)^2 = z^2 p (1 - p) / n.
    wilson = sorted(np.roots([1 + z * z / n, -(2 * share + z * z / n), share**2]).real)
    right, wrong = n * share, n * (1 - share)

    def mid_p(p: float) -> float:
        above = stats.beta.cdf(p, right, wrong + 1) if right else 1.0
        return float(above + (stats.beta.cdf(p, right + 1, wrong) if wrong else 0.0)) / 2

    ends = [
        end
        if edge
        else float(
            optimize.brentq(lambda p, tail=tail: mid_p(p) - tail, 1e-12, 1 - 1e-12, xtol=1e-13)
        )
        for tail, end, edge in ((0.025, 0.0, not right), (0.975, 1.0, not wrong))
    ]
    low, high = min(wilson[0], ends[0]), max(wilson[1], ends[1])
    if not alone and len(sums) >= 3:
        low, high = widened(low, high, of_mean(sums, sizes, values, usual, 0.0), sums, values)
    return Estimate(share, low, high)


def widened(
    low: float, high: float, mean: Sequence[float], sums: list[float], values: list[float]
) -> tuple[float, float]:
    """Towards the interval of the mean, by how few prompts stand alone."""
    shared = 1 - (len(sums) / len(values)) ** 4
    return low - shared * max(0.0, low - mean[0]), high + shared * max(0.0, mean[1] - high)


def wholeness(differences: list[float], sizes: list[float] | None = None) -> float:
    """How large on average is what makes the differences? 1 where all are -1, 0 or 1."""
    sizes = sizes or [1.0] * len(differences)
    parts = [abs(d) * m for d, m in zip(differences, sizes, strict=True)]
    supposed_whole = 0.1 * sum(sizes) / len(sizes)
    squares = sum(part * abs(d) for part, d in zip(parts, differences, strict=True))
    return (squares + supposed_whole) / (sum(parts) + supposed_whole)


def difference(
    values: list[float], sums: list[float], sizes: list[float], whole: bool = True
) -> Estimate:
    value = float(np.mean(values))
    if why_not := lopsided(sizes, sums, sizes):
        return Estimate(value, why_not=why_not)
    if not whole and len(sums) < 3:
        return Estimate(value, why_not=counted(sums, sizes))
    n = worth(values, sums, sizes, len(sums) == len(values))
    won, lost = (n * float(np.mean([max(0.0, sign * d) for d in values])) for sign in (1, -1))
    ends = tango(won, lost, n)
    if len(sums) < 3:
        return Estimate(value, *ends)
    also = of_mean(sums, sizes, values, 0.0, -1.0)
    part = wholeness(values) ** 8
    low, high = (part * a + (1 - part) * b for a, b in zip(ends, also, strict=True))
    low, high = widened(low, high, also, sums, values)
    return Estimate(value, min(low, value), max(high, value))


def tango(won: float, lost: float, n: float) -> tuple[float, float]:
    z = float(stats.norm.ppf(0.975))

    def score(d: float) -> float:
        roots = np.roots([2 * n, -won - lost + (2 * n - won + lost) * d, -lost * d * (1 - d)])
        share = max(roots.real)
        variance = n * (2 * share + d * (1 - d))
        away = won - lost - n * d
        return (
            away / math.sqrt(variance) if variance > 0 else math.copysign(99.0, away) * (away != 0)
        )

    # Where all are won, or all lost, the limit on that side is the estimate, 1 or -1.
    middle = max(-1.0, min(1.0, (won - lost) / n))
    low, high = middle, middle
    if middle > -1:
        low = float(optimize.brentq(lambda d: score(d) - z, -1 + 1e-9, middle, xtol=1e-13))
    if middle < 1:
        high = float(optimize.brentq(lambda d: score(d) + z, middle, 1 - 1e-9, xtol=1e-13))
    return low, high


def perplexity(nll: list[float], tokens: list[float], sizes: list[float]) -> Estimate:
    if len(nll) < 3:
        return Estimate(math.exp(sum(nll) / sum(tokens)), why_not=counted(nll, sizes))
    if why_not := lopsided(tokens, nll, sizes):
        return Estimate(math.exp(sum(nll) / sum(tokens)), why_not=why_not)
    mean, error, freedom, skewness = robust(nll, tokens)
    number = len(nll)
    skewed = around(number, mean, error, freedom, skewness, knee=0.9)[1]
    error /= mean
    t = float(stats.t.ppf(0.975, freedom))
    upper = min(max(error, cox(nll, tokens)), (1 + 2.7 / math.sqrt(number)) * error)
    low = mean * math.exp(-t * error)
    high = mean * math.exp(t * upper + (1 + 2 * t * t) / 4 * upper**2)
    return of_losses(mean, low, max(high, skewed), counted(nll, sizes), least=0.0)


def ratio(gains: list[float], tokens: list[float], sizes: list[float]) -> Estimate:
    if len(gains) < 3:
        return Estimate(math.exp(sum(gains) / sum(tokens)), why_not=counted(gains, sizes))
    if why_not := lopsided(tokens, gains, sizes):
        return Estimate(math.exp(sum(gains) / sum(tokens)), why_not=why_not)
    value, error, freedom, skewness = robust(gains, tokens)
    low, high = around(len(gains), value, error, freedom, skewness)
    low = value - one_way([-gain for gain in gains], tokens) * (value - low)
    high = value + one_way(gains, tokens) * (high - value)
    return of_losses(value, low, high, counted(gains, sizes))


def cox(amounts: list[float], tokens: list[float]) -> float:
    """Cox's error of a lognormal mean, by the mean; its variance of those above the median."""
    least = float(np.finfo(float).tiny)
    logs = [math.log(max(a / count, least)) for a, count in zip(amounts, tokens, strict=True)]
    median = float(np.median(logs))
    variance = 2 * sum(max(0.0, x - median) ** 2 for x in logs) / (len(amounts) - 1)
    alike = sum(tokens) ** 2 / sum(count * count for count in tokens)
    return math.sqrt(variance / alike + variance**2 / (2 * max(alike - 1, 0.5)))


def one_way(changes: list[float], tokens: list[float]) -> float:
    """How much further than Student's an interval reaches where nearly all changes go up."""
    ups = [max(0.0, change) for change in changes]
    typical = sum(abs(change) for change in changes) / sum(tokens)
    if not any(ups):
        return 1.0
    by_token = [up / count / typical for up, count in zip(ups, tokens, strict=True)]
    part = sum(1 - 1 / (1 + (10 * up) ** 4) for up in by_token) / len(ups)
    mean, error, _, _ = robust(ups, tokens)
    if not error:
        return 1.0
    most = 1 + 2.7 / math.sqrt(len(ups))
    return 1 + part**4 * (min(most, max(1.0, cox(ups, tokens) * mean / error)) - 1)


def of_losses(
    value: float, low: float, high: float, number: str, least: float = math.inf
) -> Estimate:
    """Of logarithms; no interval without width, no end ten times away (but a perplexity's lower
    one: it can't be below 1)."""
    away = math.log(10)
    if high <= value + away and math.exp(high) - math.exp(low) <= 1e-12 * math.exp(value):
        return Estimate(math.exp(value), why_not=f"no spread over {number}")
    bottom = None if low < least and low < value - away else math.exp(low)
    top = None if high > value + away else math.exp(high)
    why_not = f"too large a spread over {number}" if bottom is None or top is None else ""
    return Estimate(math.exp(value), bottom, top, why_not)


def sign_flips(net: list[float]) -> float:
    return float(
        stats.permutation_test(
            (np.array(net),), np.sum, permutation_type="samples", n_resamples=np.inf
        ).pvalue
    )


def whole_sign_flips(net: list[float]) -> float:
    """The distribution of the sum of whole numbers with random signs, as a polynomial."""
    chances = np.ones(1)
    for each in net:
        step = np.zeros(2 * abs(round(each)) + 1)
        step[0] += 0.5
        step[-1] += 0.5
        chances = np.convolve(chances, step)
    middle = len(chances) // 2
    far = np.abs(np.arange(len(chances)) - middle) >= abs(round(sum(net)))
    return float(chances[far].sum())


def mean_detectable(
    net: list[float], sizes: list[float], differences: list[float], found: Estimate
) -> float:
    """What a t test of the mean shows 4 times in 5; of few sources, what all must agree on."""
    error, freedom, _ = supposed(net, sizes, differences, 0.0)
    value, low, high = found.value, found.low or 0.0, found.high or 0.0
    half = value - low if value >= 0 else high - value
    error = max(error, half / float(stats.t.ppf(0.975, freedom)))
    needed = float(stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom))
    if len(net) == 6:  # at 5 % only the most uneven of 64 assignments counts
        needed = max(needed, float(stats.norm.ppf(0.8 ** (1 / 6))) * math.sqrt(6))
    return error * needed


def mcnemar_detectable(discordant: float, pairs: int) -> float:
    """Of all numbers of discordant pairs and of wins among them, how probable are those with p
    below 5 %; at which true difference is that 80 %?"""

    def power(d: float) -> float:
        share = max(discordant, d)
        shown = 0.0
        for count in range(pairs + 1):
            wins = np.arange(count + 1)
            p = np.minimum(1, 2 * stats.binom.cdf(np.minimum(wins, count - wins), count, 0.5))
            chance = stats.binom.pmf(wins, count, (1 + d / share) / 2)
            shown += stats.binom.pmf(count, pairs, share) * chance[p < 0.05].sum()
        return float(shown)

    return float(optimize.brentq(lambda d: power(d) - 0.8, 1e-6, 1 - 1e-6, xtol=1e-6))


def holm(p_values: list[float]) -> list[float]:
    found, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        found[place] = largest
    return found
