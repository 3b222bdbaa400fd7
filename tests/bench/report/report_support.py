"""A report with every section, made of pairs of answers without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tuneserve.bench.compare import analysis
from tuneserve.bench.compare.cautions import rank_contenders
from tuneserve.bench.compare.classes import compare_calibration, compare_classes, with_classes
from tuneserve.bench.compare.forgetting import TextLosses, compare_elsewhere, judge_forgetting
from tuneserve.bench.compare.pairs import Answer, Pair
from tuneserve.bench.compare.results import (
    AnswerCounts,
    Contamination,
    ContenderSummary,
    KeptGain,
    Provenance,
    Report,
    SweepResult,
)
from tuneserve.bench.measure.clients import Held, Load, ServerStart
from tuneserve.bench.measure.perplexity import MeanError
from tuneserve.bench.measure.speed import Rate, Speed
from tuneserve.bench.stats.bootstrap import Estimate
from tuneserve.bench.tasks.tasks import Task
from tuneserve.charts import LossCurves
from tuneserve.chat.examples import Example
from tuneserve.settings import BenchSettings

HOSTILE = '</article><script>alert(1)</script> & | "quoted" {{ 1 }} `x`'


def contender(name: str) -> ContenderSummary:
    rate = Rate(100.0, 2.0, 64, 5)
    counts = AnswerCounts(0, 1, 2, 3.5)
    return ContenderSummary(
        name, f"{name}.gguf", 123_456_789, "0" * 64, "Q4_K_M", Speed(rate, rate), 0.5, counts
    )


def some_pairs(prefix: str) -> list[Pair]:
    return [
        Pair(
            Example.of_turn(f"{prefix}{n}", HOSTILE, "a", group=f"group {n % 3}"),
            base=Answer(HOSTILE, "", False, float(n % 4 == 0), "stop", 3, 2.0 + n % 5, 3),
            tuned=Answer(
                "a", "", False, float(n % 4 in (1, 2) or n % 8 == 0), "stop", 3, 1.0 + n % 3, 3
            ),
        )
        for n in range(60)
    ]


def some_points() -> list[SweepResult]:
    top = SweepResult(
        "F16", "f16", 270_000_000, 16.0, MeanError(12.3, 0.2), None, None,
        Estimate(0.7, 0.6, 0.8), None, None,
    )  # fmt: skip
    lower = replace(
        top, name="Q4_K_M", bits_per_weight=4.8, kld=MeanError(0.09, 0.004),
        same_top=MeanError(0.9, 0.01), difference=Estimate(-0.01, -0.04, 0.02), adjusted_p=0.4,
    )  # fmt: skip
    return [top, lower]


def make_report(
    pairs: Sequence[Pair], some_general: list[Pair], settings: BenchSettings | None = None
) -> Report:
    """A report with every section."""
    settings = settings or BenchSettings(bootstrap=1000)
    pairs = with_classes(pairs, settings)
    losses = TextLosses(
        f"{HOSTILE}.txt", "chunks", [500.0 + n for n in range(8)], [600.0 - n for n in range(8)],
        [255] * 8, [None] * 8,
    )  # fmt: skip
    general = Task("General questions", "60 questions", [], [], 1), some_general
    tasks, texts = compare_elsewhere([general], [losses], settings)
    accuracy = analysis.compare_accuracy(pairs, settings)
    rate = Rate(120.0, 3.0, 96, 3)
    return Report(
        run="x",
        gain=KeptGain(0.97, 0.95, 0.99, 0.93, "97.0 % of the gain is kept"),
        created="2026-01-02T03:04:05+00:00",
        task=settings.task,
        confidence=0.95,
        verdict=analysis.judge(accuracy, 0.95),
        accuracy=accuracy,
        perplexity=analysis.compare_perplexity(pairs, settings),
        groups=analysis.compare_groups(pairs, settings),
        gap=analysis.compare_gap(pairs, settings),
        others=[analysis.compare_other(pairs, name, "tuned", settings) for name in pairs[0].others],
        contamination=Contamination(8, ["p1"], Estimate(0.1, 0.0, 0.2)),
        forgetting=judge_forgetting(tasks, texts, settings),
        tasks=tasks,
        texts=texts,
        curves=LossCurves(
            [(n, 3.0 / n) for n in range(1, 50)], [(25, 0.4), (49, 0.3)], [(0, 1.0), (49, 1.5)], 49
        ),
        load=[Load(clients, rate, 0.2, 0.5, 6, Held(3e8, 1e6, 3)) for clients in (1, 4)],
        server=ServerStart(2.5, 400_000_000, 0),
        ladder=some_points(),
        base=contender("base"),
        tuned=contender("tuned"),
        conditions={"Sampling": "greedy"},
        provenance=Provenance(
            command="tuneserve bench --run x",
            base_model="demo",
            test_sha256="1" * 64,
            settings={"bench": {"task": "exact", "clients": [1, 4], "texts": []}},
            versions={"python": "3.11"},
            platform="Linux",
            processor="CPU",
        ),
        classes=compare_classes(pairs, settings),
        calibration=compare_calibration(pairs, settings),
        ranking=rank_contenders(pairs, settings),
        pairs=pairs,
    )
