"""What the benchmark found, as data: one row per prompt, then the comparison drawn from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from tuneserve.bench.compare.beside import Cost, JudgeComparison
from tuneserve.bench.compare.pairs import Pair
from tuneserve.bench.measure.clients import Load, ServerStart
from tuneserve.bench.measure.perplexity import MeanError
from tuneserve.bench.measure.speed import Speed
from tuneserve.bench.stats.bootstrap import Estimate
from tuneserve.bench.stats.calibration import Calibration
from tuneserve.bench.stats.classes import Confusion
from tuneserve.bench.stats.gaps import GapComparison
from tuneserve.bench.stats.ranking import Ranking
from tuneserve.charts import LossCurves

T = TypeVar("T")
Outcome = Literal["better", "worse", "no difference shown"]
Retention = Literal["forgotten", "nothing forgotten", "no forgetting shown", "not measured"]


@dataclass(frozen=True)
class AccuracyComparison:
    """Accuracy of both and the paired difference, in shares (0.05 = 5 points).

    Where a task gives part of a point (`graded`), accuracy is the mean score, and won and lost
    are the prompts with a higher and a lower one; `mcnemar_p` then is their sign test. `p` is the
    two-sided p of the paired difference, exact for right or wrong: McNemar's, or where prompts
    share sources the sign-flip test over sources. `smallest_detectable` is the difference that
    would be shown 4 times in 5 by a test at `level`, which is Holm's for the smallest p where
    several are compared; None where so few prompts or sources could show none. `undoing`: what
    kinds of prompts or sources that are not among these could take from a difference, which is
    shown only beyond it.
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
    smallest_detectable: float | None
    graded: bool
    level: float = 0.05
    undoing: float = 0.0

    @property
    def unseen(self) -> float:
        """The share of all that `undoing` amounts to, if all of it is lost."""
        return self.undoing / (1 + self.undoing)


@dataclass(frozen=True)
class PerplexityComparison:
    """Perplexity of the reference answers; `ratio` is tuned over base (below 1: less surprised).
    `longest`: the tokens of the longest (or of the largest source), by the average."""

    tokens: int
    base: Estimate
    tuned: Estimate
    ratio: Estimate
    longest: float = 1.0


@dataclass(frozen=True)
class GroupComparison:
    """One group's figures; `adjusted_p` is Holm's over all groups (of all tasks that may have been
    forgotten)."""

    name: str
    accuracy: AccuracyComparison
    perplexity: PerplexityComparison
    adjusted_p: float


@dataclass(frozen=True)
class ClassComparison:
    """Of a task with a few classes: what each model took for what."""

    names: list[str]
    models: list[Confusion]


@dataclass(frozen=True)
class OtherComparison:
    """Another contender's answers against `against` ('base' or 'tuned'), which stands in the
    place of the base in `accuracy`; `counts` are of the contender's answers."""

    name: str
    against: str
    accuracy: AccuracyComparison
    counts: AnswerCounts | None = None


@dataclass(frozen=True)
class Contamination:
    """Held-out prompts that share an n-gram of `words` words with a training example (`ids`), and
    the difference between tuned and base on the others; None where none or all are left."""

    words: int
    ids: list[str]
    without: Estimate | None


@dataclass(frozen=True)
class TaskComparison:
    """Another task than the run's own: `accuracy` of both, in all and by kind of prompt.

    `adjusted_p` is Holm's over everything that may have been forgotten, tasks and texts; the
    kinds' is Holm's over all kinds of all tasks. `kept`: is a loss above the margin excluded?
    `cautions`: what makes the scores say less than they seem to.
    """

    name: str
    about: str
    accuracy: AccuracyComparison
    adjusted_p: float
    outcome: Outcome
    kinds: list[GroupComparison]
    pairs: list[Pair] = field(default_factory=list, repr=False)
    kept: bool = False
    cautions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TextComparison:
    """Perplexity of one text (or of a set of reference answers) under both models.

    `pieces` were measured and resampled: chunks of the text as llama-perplexity cuts it, or
    answers (`unit`). `adjusted_p` is Holm's over all tasks and texts. `kept`: is a rise above the
    margin excluded? `smallest_detectable`: the ratio above 1 that would be shown 4 times in 5;
    None where so few pieces could show none. `counted`: what is independent of each other
    ('5 chunks', '4 sources'). `unseen`: the share of all pieces that may be of a kind that none of
    these shows (`unseen_share`).
    """

    name: str
    pieces: int
    unit: str
    base: Estimate
    tuned: Estimate
    ratio: Estimate
    adjusted_p: float
    outcome: Outcome
    kept: bool = False
    smallest_detectable: float | None = None
    counted: str = ""
    unseen: float = 1.0


@dataclass(frozen=True)
class Verdict(Generic[T]):
    """What may be said, in one word and in a sentence, which ends with the `cautions`: what makes
    the figures say less than they seem to. `lost`: the groups or kinds of prompts, as the sentence
    names them, whose loss is shown though the outcome of all is not a loss."""

    outcome: T
    sentence: str
    cautions: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AnswerCounts:
    """How generation ended, over all prompts of one model, and what was found in the answers.

    `nothing_found`, `several_found`: answers without what the task asks for, or with more than one
    of it and no word which is meant. `failed`: prompts that an endpoint did not answer, `unscored`:
    answers that the user's scorer failed on; both count as wrong. `strict` and `lenient` are the
    mean scores of the stricter and the more lenient reading.
    """

    cut_off_thoughts: int
    length_limited: int
    empty: int
    mean_tokens: float
    nothing_found: int = 0
    several_found: int = 0
    failed: int = 0
    unscored: int = 0
    strict: float | None = None
    lenient: float | None = None


@dataclass(frozen=True)
class ContenderSummary:
    """One of the two models: its file, its speed, how its answers ended."""

    name: str
    file: str
    size_bytes: int
    sha256: str
    quantization: str
    speed: Speed
    load_seconds: float
    counts: AnswerCounts


@dataclass(frozen=True)
class SweepResult:
    """The tuned model at one quantization with one KV cache type.

    `kld` (nats) and `same_top` are against the reference, F16 with an f16 cache, for which they
    are None; so are `difference` (in accuracy, paired) and its Holm-adjusted p.
    """

    name: str
    cache: str
    size_bytes: int
    bits_per_weight: float
    perplexity: MeanError
    kld: MeanError | None
    same_top: MeanError | None
    accuracy: Estimate
    difference: Estimate | None
    adjusted_p: float | None


@dataclass(frozen=True)
class Provenance:
    """What it takes to repeat a benchmark: command, models, data, settings (the recipe's tables as
    JSON), versions of packages, machine; `scorer_files` are the SHA-256 of the user's scorer and
    what it imports from its folder, by file name."""

    command: str
    base_model: str
    test_sha256: str
    settings: dict[str, dict[str, Any]]
    versions: dict[str, str]
    platform: str
    processor: str
    scorer_files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KeptGain:
    """What quantization keeps of the tune, as the conversion measured it: the share of the gain in
    log-likelihood with its 95 % interval (None where the gain can't be told from none), that of the
    weights' update (None for an adapter beside its base), and both in a sentence."""

    share: float | None
    low: float | None
    high: float | None
    update_kept: float | None
    sentence: str


@dataclass(frozen=True)
class Report:
    """Everything in report.json, and all that the pages are made of."""

    run: str
    created: str
    task: str
    confidence: float
    verdict: Verdict[Outcome]
    accuracy: AccuracyComparison
    perplexity: PerplexityComparison
    groups: list[GroupComparison]
    gap: GapComparison | None
    others: list[OtherComparison]
    contamination: Contamination | None
    forgetting: Verdict[Retention]
    tasks: list[TaskComparison]
    texts: list[TextComparison]
    curves: LossCurves | None
    load: list[Load]
    server: ServerStart | None
    ladder: list[SweepResult]
    base: ContenderSummary
    tuned: ContenderSummary
    conditions: dict[str, str]
    provenance: Provenance
    gain: KeptGain | None = None
    classes: ClassComparison | None = None
    calibration: list[Calibration] = field(default_factory=list)
    ranking: Ranking | None = None
    costs: list[Cost] = field(default_factory=list)
    judge: JudgeComparison | None = None
    pairs: list[Pair] = field(default_factory=list, repr=False)
