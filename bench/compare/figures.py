"""Figures as text, as the pages show them."""

from __future__ import annotations

import re

from tuneserve.bench.measure.perplexity import MeanError
from tuneserve.bench.measure.speed import Rate
from tuneserve.bench.stats.bootstrap import Estimate


def percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f} %"


def interval(estimate: Estimate) -> str:
    """A share's interval as '75.2 to 83.0', in percent."""
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def points(share: float) -> str:
    """A difference of shares in percentage points: '+4.2'."""
    return f"{100 * share:+.1f}".replace("-", "−")


def points_interval(estimate: Estimate) -> str:
    return f"{points(estimate.low)} to {points(estimate.high)}"


def number(value: float) -> str:
    """Four significant digits, with thousands separated."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.4g}"


def number_interval(estimate: Estimate) -> str:
    return f"{number(estimate.low)} to {number(estimate.high)}"


def rate(measured: Rate) -> str:
    """Tokens per second as '78.4 ± 1.8'."""
    decimals = 0 if measured.mean >= 1000 else 1
    return f"{measured.mean:,.{decimals}f} ± {measured.deviation:,.{decimals}f}"


def mean_error(measured: MeanError, decimals: int = 4) -> str:
    """A mean and its standard error as '0.0923 ± 0.0041'."""
    return f"{measured.value:.{decimals}f} ± {measured.error:.{decimals}f}"


def p_value(p: float) -> str:
    """'0.032' or '< 0.0001'."""
    if p < 0.0001:
        return "< 0.0001"
    return f"{p:.4f}" if p < 0.001 else f"{p:.3f}"


def headline(sentence: str) -> tuple[str, str]:
    """A verdict's claim, before the first colon, and its evidence."""
    claim, _, evidence = sentence.partition(": ")
    return claim.removesuffix("."), evidence[:1].upper() + evidence[1:]


def markdown_cell(text: str, longest: int = 160) -> str:
    """Text for a cell of a Markdown table: one line, cut, nothing that would break the table."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", line)
