"""Every figure of a report, computed again from answers.jsonl by scipy and plain loops."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from tests.bench.report.report_support import contender
from tuneserve.bench.compare import analysis
from tuneserve.bench.compare.figures import (
    interval,
    number,
    number_interval,
    p_value,
    percent,
    points,
    points_interval,
)
from tuneserve.bench.compare.forgetting import compare_elsewhere, judge_forgetting
from tuneserve.bench.compare.pairs import HELD_OUT, Answer, Pair
from tuneserve.bench.compare.results import Provenance, Report
from tuneserve.bench.report.pages import write_report
from tuneserve.bench.stats.bootstrap import Estimate
from tuneserve.bench.tasks.tasks import Task
from tuneserve.chat.examples import Example
from tuneserve.settings import BenchSettings

Row = dict[str, Any]
SETTINGS = BenchSettings(bootstrap=1000)
GENERAL = "General questions"


def some_pairs(prefix: str, scores: Sequence[float], per_source: int, seed: int) -> list[Pair]:
    """60 prompts in three groups; the tuned model scores better on the whole."""
    draw = np.random.default_rng(seed)

    def answered(shares: Sequence[float]) -> Answer:
        tokens = int(draw.integers(1, 9))
        nll = float(tokens * draw.lognormal(0.0, 0.8))
        return Answer("a", "", False, float(draw.choice(scores, p=shares)), "stop", 3, nll, tokens)

    many = len(scores)
    low = np.linspace(2, 1, many) / np.linspace(2, 1, many).sum()
    pairs = []
    for place in range(60):
        base, tuned = answered(low), answered(low[::-1])
        source = None if per_source == 1 else f"{prefix}{place // per_source}"
        pairs.append(
            Pair(
                replace(
                    Example.of_turn(f"{prefix}{place}", "?", "a", group=f"g{place % 3}"),
                    source=source,
                ),
                base,
                replace(tuned, reference_tokens=base.reference_tokens),
            )
        )
    return pairs


def written(folder: Path, pairs: list[Pair], general: list[Pair]) -> tuple[list[Row], Row, str]:
    """answers.jsonl, report.json and report.md of a report made of these answers."""
    tasks, texts = compare_elsewhere([(Task(GENERAL, "", [], [], 9), general)], [], SETTINGS)
    accuracy = analysis.compare_accuracy(pairs, SETTINGS)
    report = Report(
        run="x", created="2026-01-02T03:04:05+00:00", task="json", confidence=0.95,
        verdict=analysis.judge(accuracy, 0.95), accuracy=accuracy,
        perplexity=analysis.compare_perplexity(pairs, SETTINGS),
        groups=analysis.compare_groups(pairs, SETTINGS), gap=None, others=[], contamination=None,
        forgetting=judge_forgetting(tasks, texts, SETTINGS), tasks=tasks, texts=texts, curves=None,
        load=[], server=None, ladder=[], base=contender("base"), tuned=contender("tuned"),
        conditions={}, pairs=pairs,
        provenance=Provenance("tuneserve bench", "demo", "1", {"bench": {}}, {}, "", ""),
    )  # fmt: skip
    write_report(report, folder / "bench")
    rows = [json.loads(line) for line in (folder / "bench" / "answers.jsonl").open()]
    return (
        rows,
        json.loads((folder / "bench" / "report.json").read_text()),
        (folder / "bench" / "report.md").read_text(),
    )


@pytest.mark.parametrize(
    ("scores", "per_source"),
    [((0.0, 1.0), 1), ((0.0, 0.25, 0.5, 1.0), 1), ((0.0, 0.25, 1.0), 5), ((0.0, 1.0), 5)],
    ids=["right or wrong", "graded", "graded, sources", "right or wrong, sources"],
)
def test_figures_are_those_of_the_answers(
    tmp_path: Path, scores: tuple[float, ...], per_source: int
) -> None:
    own = some_pairs("p", scores, per_source, 1)
    general = some_pairs("general/", (0.0, 1.0), 1, 2)
    rows, report, page = written(tmp_path, own, general)
    parts = {"All prompts": [row for row in rows if row["task"] == HELD_OUT]}
    for name in ("g0", "g1", "g2"):
        parts[name] = [row for row in parts["All prompts"] if row["group"] == name]
    again = {name: recomputed(part) for name, part in parts.items()}
    p_values = holm([again[name].p for name in ("g0", "g1", "g2")])
    shown = dict(zip(parts, [again["All prompts"].p, *p_values], strict=True))
    for name, found in again.items():
        assert found.table_row(name, shown[name]) in page
        assert found.perplexity_row(name) in page
    smallest = again["All prompts"].smallest
    assert f"A true difference of {100 * smallest:.1f} points would be shown 4 times in 5." in page
    elsewhere = recomputed([row for row in rows if row["task"] == GENERAL])
    assert elsewhere.table_row("All", elsewhere.p) in page
    # The file's figures agree to far more digits than are printed.
    for mine, theirs in (
        (again["All prompts"].difference, report["accuracy"]["difference"]),
        (again["All prompts"].ratio, report["perplexity"]["ratio"]),
    ):
        assert (mine.value, mine.low, mine.high) == pytest.approx(
            (theirs["value"], theirs["low"], theirs["high"]), abs=1e-7
        )


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
        p = float(stats.binomtest(won, won + lost).pvalue)
        smallest = mcnemar_detectable((won + lost) / len(rows), len(rows))
    else:
        if whole:
            p = whole_sign_flips(net)
        elif len(net) <= 14:
            p = sign_flips(net)
        else:
            generator = np.random.default_rng(0)
            signs = np.concatenate(
                [generator.choice((-1.0, 1.0), size=(1000, len(net))) for _ in range(20)]
            )
            p = (int((abs(signs @ net) >= abs(sum(net)) - 1e-9).sum()) + 1) / 20_001
        error, freedom, _ = supposed(net, sizes, differences, 0.0)
        found = difference(differences, net, sizes, whole, alone)
        value, low, high = found.value, found.low or 0.0, found.high or 0.0
        half = value - low if value >= 0 else high - value
        error = max(error, half / stats.t.ppf(0.975, freedom))
        smallest = error * (stats.t.ppf(0.975, freedom) + stats.t.ppf(0.8, freedom))
    return Recomputed(
        len(rows), won, lost,
        base=accuracy(base, total(lambda row: row["base"]["score"]), sizes, whole, alone),
        tuned=accuracy(tuned, total(lambda row: row["tuned"]["score"]), sizes, whole, alone),
        difference=difference(differences, net, sizes, whole, alone),
        p=p, smallest=float(smallest),
        perplexities=(
            perplexity(total(lambda row: row["base"]["reference_nll"]), tokens),
            perplexity(total(lambda row: row["tuned"]["reference_nll"]), tokens),
        ),
        ratio=ratio(
            total(lambda row: row["tuned"]["reference_nll"] - row["base"]["reference_nll"]), tokens
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
    enlarged = math.sqrt(error**2 + added)
    return enlarged, freedom, skewness * (error / enlarged) ** 3


def around(
    count: int, value: float, error: float, freedom: float, skewness: float
) -> tuple[float, float]:
    """Student's interval, and where Hall's cubic of it is at Student's quantiles."""
    t = float(stats.t.ppf(0.975, freedom))

    def solved(quantile: float) -> float:
        def cubic(x: float) -> float:
            g = skewness * (1 + 10 / count)
            return x + g * x**2 / 3 + g**2 * x**3 / 27 + g / 6 - quantile

        return float(optimize.brentq(cubic, -50, 50, xtol=1e-13))

    return value - error * max(t, solved(t)), value + error * max(t, -solved(-t))


def of_mean(
    sums: list[float], sizes: list[float], values: list[float], usual: float, lowest: float
) -> tuple[float, float]:
    low, high = around(len(sums), float(np.mean(values)), *supposed(sums, sizes, values, usual))
    return max(lowest, low), min(1.0, high)


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


def accuracy(
    values: list[float], sums: list[float], sizes: list[float], whole: bool, alone: bool
) -> Estimate:
    share = float(np.mean(values))
    means = [s / m for s, m in zip(sums, sizes, strict=True)]
    usual = float(np.median(means))
    if not whole:
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
    if not alone:
        also = of_mean(sums, sizes, values, usual, 0.0)
        low, high = min(low, also[0]), max(high, also[1])
    return Estimate(share, low, high)


def difference(
    values: list[float], sums: list[float], sizes: list[float], whole: bool, alone: bool
) -> Estimate:
    value = float(np.mean(values))
    also = of_mean(sums, sizes, values, 0.0, -1.0)
    if not whole:
        return Estimate(value, *also)
    n = worth(values, sums, sizes, alone)
    won, lost = (n * float(np.mean([sign * d > 0 for d in values])) for sign in (1, -1))
    low, high = tango(won, lost, n)
    if not alone:
        low, high = min(low, also[0]), max(high, also[1])
    return Estimate(value, low, high)


def tango(won: float, lost: float, n: float) -> tuple[float, float]:
    z = float(stats.norm.ppf(0.975))

    def score(d: float) -> float:
        roots = np.roots([2 * n, -won - lost + (2 * n - won + lost) * d, -lost * d * (1 - d)])
        share = max(roots.real)
        return float((won - lost - n * d) / math.sqrt(n * (2 * share + d * (1 - d))))

    middle = (won - lost) / n
    return (
        float(optimize.brentq(lambda d: score(d) - z, -1 + 1e-9, middle, xtol=1e-13)),
        float(optimize.brentq(lambda d: score(d) + z, middle, 1 - 1e-9, xtol=1e-13)),
    )


def perplexity(nll: list[float], tokens: list[float]) -> Estimate:
    mean, error, freedom, skewness = robust(nll, tokens)
    number = len(nll)
    skewed = around(number, mean, error, freedom, skewness)[1]
    error /= mean
    t = float(stats.t.ppf(0.975, freedom))
    logs = [math.log(loss / count) for loss, count in zip(nll, tokens, strict=True)]
    median = float(np.median(logs))
    variance = 2 * sum(max(0.0, x - median) ** 2 for x in logs) / (number - 1)
    alike = sum(tokens) ** 2 / sum(count * count for count in tokens)
    cox = math.sqrt(variance / alike + variance**2 / (2 * (alike - 1)))
    upper = min(max(error, cox), (1 + 2.7 / math.sqrt(number)) * error)
    low = mean * math.exp(-t * error)
    high = mean * math.exp(t * upper + (1 + 2 * t * t) / 4 * upper**2)
    return Estimate(math.exp(mean), math.exp(low), math.exp(max(high, skewed)))


def ratio(gains: list[float], tokens: list[float]) -> Estimate:
    value, error, freedom, skewness = robust(gains, tokens)
    low, high = around(len(gains), value, error, freedom, skewness)
    return Estimate(math.exp(value), math.exp(low), math.exp(high))


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
