"""The points of a quantization sweep, each against the reference point."""

from __future__ import annotations

from collections.abc import Sequence

from tuneserve.bench.compare import analysis
from tuneserve.bench.compare.answers import Asked, read_responses
from tuneserve.bench.compare.results import SweepResult
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.perplexity import MeanError
from tuneserve.bench.measure.sweep import SweepPoint
from tuneserve.bench.measure.values import FIDELITY
from tuneserve.bench.stats import significance
from tuneserve.settings import BenchSettings


def read_sweep(
    points: Sequence[SweepPoint], asked: Asked, journal: Journal, settings: BenchSettings
) -> list[SweepResult]:
    """The measured points, each against the reference point, with Holm-adjusted p."""
    scores = [
        analysis.scores_of(read_responses(journal, point.contender.name, asked)) for point in points
    ]
    bootstrap = analysis.bootstrap_of([item.source for item in asked.task.examples], settings)
    compared = [analysis.compare_scores(other, scores[0], bootstrap) for other in scores]
    adjusted = [1.0, *significance.holm([found.p for found in compared[1:]])]
    rows = []
    for point, found, p in zip(points, compared, adjusted, strict=True):
        measured = journal.get(FIDELITY, point.contender.name)
        rows.append(
            SweepResult(
                name=point.step.name,
                cache=point.cache,
                size_bytes=measured["size_bytes"],
                bits_per_weight=measured["bits_per_weight"],
                perplexity=MeanError(**measured["perplexity"]),
                kld=None if point.is_reference else MeanError(**measured["kld"]),
                same_top=None if point.is_reference else MeanError(**measured["same_top"]),
                accuracy=found.tuned,
                difference=None if point.is_reference else found.difference,
                adjusted_p=None if point.is_reference else p,
            )
        )
    return rows
