"""From the journal's measurements to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tuneserve.bench.compare import analysis
from tuneserve.bench.compare.answers import read_pairs, with_rivals
from tuneserve.bench.compare.cautions import caution, rank_contenders
from tuneserve.bench.compare.classes import compare_calibration, compare_classes, with_classes
from tuneserve.bench.compare.contamination import check_contamination
from tuneserve.bench.compare.costs import costs_of
from tuneserve.bench.compare.forgetting import (
    TextLosses,
    compare_elsewhere,
    judge_forgetting,
)
from tuneserve.bench.compare.judge import compare_judged
from tuneserve.bench.compare.pairs import Answer, Response
from tuneserve.bench.compare.results import ContenderSummary, KeptGain, Report
from tuneserve.bench.compare.sweep import read_sweep
from tuneserve.bench.job import BenchmarkJob
from tuneserve.bench.measure.clients import read_served
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.speed import Rate, Speed
from tuneserve.bench.measure.values import LIKELIHOOD, SPEED, TEXT
from tuneserve.bench.measure.work import TOGETHER
from tuneserve.bench.report.provenance import provenance
from tuneserve.bench.result import AccuracySummary, BenchResult, PerplexitySummary
from tuneserve.charts import LossCurves
from tuneserve.convert.result import GainKept
from tuneserve.finetune.training.result import TrainOutput
from tuneserve.run import RunDirectory

REPLAY = "general examples held out from training"


def make_report(
    job: BenchmarkJob,
    journal: Journal,
    others: Mapping[str, str],
    rivals: Mapping[str, Sequence[Response]],
) -> Report:
    """The figures and verdicts drawn from what the journal holds; `others` are the further
    contenders, each with the model it is compared with, `rivals` the answers of further models,
    which are compared with the tuned one."""
    settings = job.settings
    pairs = with_rivals(read_pairs(journal, job.asked, list(others)), rivals)
    pairs = with_classes(pairs, settings)
    others = {**others, **dict.fromkeys(rivals, "tuned")}
    accuracy = analysis.compare_accuracy(pairs, settings)
    groups = analysis.compare_groups(pairs, settings)
    cautions = caution(
        accuracy, analysis.count_pairs(pairs), settings.max_tokens, settings.confidence
    )
    tasks, texts = compare_elsewhere(
        [(asked.task, read_pairs(journal, asked)) for asked in job.elsewhere],
        _texts(job, journal),
        settings,
    )
    load, server = read_served(journal, "tuned") if settings.clients else ([], None)
    return Report(
        run=job.run.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=settings.task,
        confidence=settings.confidence,
        verdict=analysis.judge(accuracy, settings.confidence, cautions, groups),
        accuracy=accuracy,
        perplexity=analysis.compare_perplexity(pairs, settings),
        groups=groups,
        gap=analysis.compare_gap(pairs, settings),
        others=[
            analysis.compare_other(pairs, name, against, settings)
            for name, against in others.items()
        ],
        contamination=None
        if job.training is None
        else check_contamination(pairs, job.training, settings),
        forgetting=judge_forgetting(tasks, texts, settings),
        tasks=tasks,
        texts=texts,
        curves=read_curves(job.run),
        load=load,
        server=server,
        ladder=read_sweep(job.sweep(), job.asked, journal, settings) if settings.ladder else [],
        base=_contender("base", job, journal, [pair.base for pair in pairs]),
        tuned=_contender("tuned", job, journal, [pair.tuned for pair in pairs]),
        conditions=job.conditions,
        provenance=provenance(job.run, job.recipe),
        gain=_kept(job.gain),
        classes=compare_classes(pairs, settings),
        calibration=compare_calibration(pairs, settings),
        ranking=rank_contenders(pairs, settings),
        costs=costs_of(load, settings),
        judge=compare_judged(pairs, settings, journal) if settings.judge else None,
        pairs=pairs,
    )


def _kept(gain: GainKept | None) -> KeptGain | None:
    if gain is None:
        return None
    return KeptGain(gain.share, gain.low, gain.high, gain.update_kept, gain.describe())


def summary(
    report: Report, settings: dict[str, Any], sha256: dict[str, str], inputs: dict[str, str]
) -> BenchResult:
    """What run.json keeps of a report, beside the settings and hashes that it is known by."""
    found, perplexity = report.accuracy, report.perplexity
    return BenchResult(
        outcome=report.verdict.outcome,
        verdict=report.verdict.sentence,
        prompts=found.prompts,
        accuracy=AccuracySummary(base=found.base.value, tuned=found.tuned.value, p=found.p),
        forgetting=report.forgetting.sentence,
        cautions=(*report.verdict.cautions, *report.forgetting.cautions),
        perplexity=PerplexitySummary(base=perplexity.base.value, tuned=perplexity.tuned.value),
        settings=settings,
        sha256=sha256,
        inputs=inputs,
    )


def _texts(job: BenchmarkJob, journal: Journal) -> list[TextLosses]:
    """The texts, and the general examples that were held out from replay."""
    found = []
    for name in job.workload.texts:
        base, tuned = (journal.get(TEXT, model, name) for model in ("base", "tuned"))
        pieces = len(base["nll"])
        tokens = [base["tokens_per_chunk"]] * pieces
        found.append(TextLosses(name, "chunks", base["nll"], tuned["nll"], tokens, [None] * pieces))
    if job.replay:
        losses = {
            model: [journal.get(LIKELIHOOD, model, item.example.id) for item in job.replay]
            for model in ("base", "tuned")
        }
        nll = {model: [row["nll"] for row in rows] for model, rows in losses.items()}
        tokens = [row["tokens"] for row in losses["base"]]
        sources = [item.example.source for item in job.replay]
        found.append(TextLosses(REPLAY, "answers", nll["base"], nll["tuned"], tokens, sources))
    return found


def read_curves(run: RunDirectory) -> LossCurves | None:
    """The losses that training recorded; None where it recorded none."""
    trained = run.finished("train", TrainOutput)
    if trained is None or trained.losses is None or not trained.losses.train:
        return None
    losses = trained.losses
    best = trained.steps.best if trained.steps else None
    return LossCurves(losses.train, losses.eval, losses.general, best)


def _contender(
    name: str, job: BenchmarkJob, journal: Journal, answers: Sequence[Answer]
) -> ContenderSummary:
    contender = job.contenders[name]
    path = contender.lora or contender.path
    size = contender.path.stat().st_size
    timed = journal.get(SPEED, TOGETHER)[name]
    return ContenderSummary(
        name=name,
        file=path.name,
        size_bytes=size + (contender.lora.stat().st_size if contender.lora else 0),
        sha256=job.hashes[name],
        quantization=job.quantization,
        speed=Speed(Rate(**timed["prompt"]), Rate(**timed["generation"])),
        load_seconds=timed["load_seconds"],
        counts=analysis.count_answers(answers),
    )
