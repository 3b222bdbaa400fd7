"""What the benchmark found, as data: one row per prompt, then the comparison drawn from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from bench.examples import Example
from bench.speed import Speed
from bench.statistics import Estimate

Outcome = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True)
class Response:
    """One model's answer to one prompt."""

    text: str
    thought: str
    cut_off: bool
    score: float
    finish_reason: str
    generated_tokens: int

    @property
    def correct(self) -> bool:
        """A full score."""
        return self.score == 1.0


@dataclass(frozen=True)
class Answer(Response):
    """An answer, and how likely the model found the reference answer."""

    reference_nll: float
    reference_tokens: int


@dataclass(frozen=True)
class Pair:
    """Both models' answers to the same prompt."""

    example: Example
    base: Answer
    tuned: Answer
    others: dict[str, Response] = field(default_factory=dict)

    @property
    def won(self) -> bool:
        return self.tuned.score > self.base.score

    @property
    def lost(self) -> bool:
        return self.tuned.score < self.base.score

    def as_row(self) -> dict[str, Any]:
        """The prompt's line in answers.jsonl."""
        return {
            "id": self.example.id,
            "group": self.example.group,
            "source": self.example.source,
            "prompt": list(self.example.prompt),
            "reference": self.example.reference,
            "base": vars(self.base),
            "tuned": vars(self.tuned),
            "others": {name: vars(response) for name, response in self.others.items()},
        }


@dataclass(frozen=True)
class AccuracyComparison:
    """Accuracy of both and the paired difference, in shares (0.05 = 5 points).

    Where a task gives part of a point (`graded`), accuracy is the mean score, and won and lost
    are the prompts with a higher and a lower one; `mcnemar_p` then is their sign test. `p` is the
    two-sided p of the paired difference, exact for right or wrong: McNemar's, or where prompts
    share sources the sign-flip test over sources. `smallest_detectable` is the difference that
    would be shown 4 times in 5.
    """

    prompts: int
    clusters: int
    base: Estimate
    tuned: Estimate
    difference: Estimate
    won: int
    lost: int
    mcnemar_p: float
    p: float
    smallest_detectable: float
    graded: bool


@dataclass(frozen=True)
class PerplexityComparison:
    """Perplexity of the reference answers; `ratio` is tuned over base (below 1: less surprised)."""

    tokens: int
    base: Estimate
    tuned: Estimate
    ratio: Estimate


@dataclass(frozen=True)
class GroupComparison:
    """One group's figures; `adjusted_p` is Holm's over all groups."""

    name: str
    accuracy: AccuracyComparison
    perplexity: PerplexityComparison
    adjusted_p: float


@dataclass(frozen=True)
class GapComparison:
    """The widest gap in accuracy between groups, before and after; `widened` if the change's
    interval is above zero. `worst_base` and `worst_tuned` name the groups answered worst."""

    base: float
    tuned: float
    change: Estimate
    worst_base: str
    worst_tuned: str
    widened: bool


@dataclass(frozen=True)
class OtherComparison:
    """Another contender's answers against `against` ('base' or 'tuned'), which stands in the
    place of the base in `accuracy`."""

    name: str
    against: str
    accuracy: AccuracyComparison


@dataclass(frozen=True)
class Contamination:
    """Held-out prompts that share a run of `words` words with a training example (`ids`), and the
    difference between tuned and base on the others; None where none or all are left."""

    words: int
    ids: list[str]
    without: Estimate | None


@dataclass(frozen=True)
class TextComparison:
    """Perplexity of one text under both models, in chunks as llama-perplexity cuts it.

    The intervals are wide enough to hold for all texts together.
    """

    name: str
    chunks: int
    base: Estimate
    tuned: Estimate
    ratio: Estimate

    @property
    def lost(self) -> bool:
        return self.ratio.low > 1.0


@dataclass(frozen=True)
class Verdict:
    """What may be said, in one word and in one sentence."""

    outcome: Outcome
    sentence: str


@dataclass(frozen=True)
class AnswerCounts:
    """How generation ended, over all prompts of one model."""

    cut_off_thoughts: int
    length_limited: int
    empty: int
    mean_tokens: float


@dataclass(frozen=True)
class Contender:
    """One of the two models."""

    name: str
    file: str
    size_bytes: int
    sha256: str
    quantization: str
    speed: Speed
    load_seconds: float
    counts: AnswerCounts


@dataclass(frozen=True)
class Report:
    """Everything in report.json, and all that the pages are made of."""

    run: str
    created: str
    task: str
    confidence: float
    verdict: Verdict
    accuracy: AccuracyComparison
    perplexity: PerplexityComparison
    groups: list[GroupComparison]
    gap: GapComparison | None
    others: list[OtherComparison]
    contamination: Contamination | None
    texts: list[TextComparison]
    forgetting: str
    base: Contender
    tuned: Contender
    conditions: dict[str, str]
    provenance: dict[str, Any]
    pairs: list[Pair] = field(default_factory=list, repr=False)
