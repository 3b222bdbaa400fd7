"""What a benchmark leaves in run.json: its report's verdicts in short, and what it measured."""

from __future__ import annotations

from typing import Any

from tuneserve.records import Record


class AccuracySummary(Record):
    """Accuracy (shares) of both models, and the p of their paired difference."""

    base: float
    tuned: float
    p: float


class PerplexitySummary(Record):
    """Perplexity of the reference answers under both models."""

    base: float
    tuned: float


class BenchResult(Record):
    """A finished benchmark; `settings` are the recipe's [bench] and [serve] tables as JSON,
    `sha256` the hashes of the two GGUFs, `cautions` what makes the verdicts say less than they seem
    to."""

    outcome: str
    verdict: str
    prompts: int
    accuracy: AccuracySummary
    forgetting: str
    perplexity: PerplexitySummary
    settings: dict[str, Any]
    sha256: dict[str, str]
    cautions: tuple[str, ...] = ()
