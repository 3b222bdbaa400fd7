"""What a benchmark leaves in run.json: its report's verdicts in short, and what it measured."""

from __future__ import annotations

from typing import Any

from pydantic import Field

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
    """A finished benchmark; `settings` are the recipe's tables as JSON, as far as a report depends
    on them, `sha256` the hashes of the GGUFs, `inputs` those of all other files that were read, by
    path, and the release of this package; `cautions` what makes the verdicts say less than they
    seem to."""

    outcome: str
    verdict: str
    prompts: int
    accuracy: AccuracySummary
    forgetting: str
    perplexity: PerplexitySummary
    settings: dict[str, Any]
    sha256: dict[str, str]
    inputs: dict[str, str] = Field(default_factory=dict)
    cautions: tuple[str, ...] = ()
