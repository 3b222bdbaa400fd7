"""The benchmark of a run: tuned against base on the held-out prompts, then the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneserve.bench.against import Rival, ask_rivals, find_rivals
from tuneserve.bench.compare.report_file import read_report
from tuneserve.bench.compare.results import Report
from tuneserve.bench.job import BenchmarkJob, prepare
from tuneserve.bench.measure.clients import measure_clients
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.measure import (
    ENDPOINT,
    NOISE_FLOOR,
    measure,
    measure_endpoint,
    measure_noise_floor,
)
from tuneserve.bench.measure.sweep import measure_sweep
from tuneserve.bench.report.assemble import make_report, summary
from tuneserve.bench.report.pages import write_report
from tuneserve.bench.result import BenchResult
from tuneserve.console import say
from tuneserve.convert.result import ConvertOutput
from tuneserve.errors import OutputExistsError
from tuneserve.files import remove
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe


def run_bench(
    run: RunDirectory, recipe: Recipe, *, force: bool = False, skip_done: bool = False
) -> Report:
    """Measure both GGUFs of a run and write runs/NAME/bench/; returns the report (without the
    answers, where it was there already).

    Goes on where an earlier, killed benchmark with the same settings stopped. Raises UsageError
    for a run that is not converted or a report that exists (without `force`), TuneserveError
    where base and tuned can't be compared.
    """
    converted = run.require_stage("convert", ConvertOutput)
    rivals = find_rivals(recipe.bench.against)
    if skip_done and (done := _finished_report(run, recipe, converted, rivals)):
        return done
    if run.bench.exists() and not force:
        raise OutputExistsError(run.bench)
    job = prepare(run, recipe, converted)
    journal_path = run.root / "bench-journal.jsonl"
    with run.alone(), run.stage("bench", keep=True) as running:
        with Journal(journal_path, job.fingerprint()) as journal:
            others = _measure(job, journal)
            report = make_report(job, journal, others, ask_rivals(rivals, job, journal))
        write_report(report, run.bench)
        running.result = summary(
            report, _settings(recipe), job.hashes | {one.name: one.sha256 for one in rivals}
        )
    journal_path.unlink()
    remove(job.sweep_folder)
    return report


def _measure(job: BenchmarkJob, journal: Journal) -> dict[str, str]:
    """Everything that the journal lacks. Returns who else answered, and which model each is to be
    compared with."""
    if len(journal):
        say(f"going on with {len(journal):,} measurements of an earlier, unfinished benchmark")
    for contender in job.contenders.values():
        measure(contender, job.workload, journal)
    others = {}
    if job.settings.noise_floor:
        measure_noise_floor(job.contenders["base"], job.own_workload.requests, journal)
        others[NOISE_FLOOR] = "base"
    if job.settings.endpoint:
        measure_endpoint(job.asked.encoded, job.settings, journal)
        others[ENDPOINT] = "tuned"
    prompts = [example.prompt for example in job.asked.task.examples]
    measure_clients(job.contenders["tuned"], prompts, journal)
    if job.settings.ladder:
        measure_sweep(job.sweep(journal), job.asked.encoded, job.own_workload, journal)
    return others


def _finished_report(
    run: RunDirectory, recipe: Recipe, converted: ConvertOutput, rivals: Sequence[Rival]
) -> Report | None:
    """The report, if it was made of these very models with these settings."""
    result = run.finished("bench", BenchResult)
    if result is None or not (run.bench / "report.json").is_file():
        return None
    hashes = {"base": converted.base.sha256, "tuned": converted.tuned.sha256}
    hashes |= {rival.name: rival.sha256 for rival in rivals}
    if _without_gates(result.settings) != _settings(recipe) or result.sha256 != hashes:
        return None
    return read_report(run)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that a finished benchmark is known by in run.json."""
    return _without_gates(recipe.model_dump(mode="json", include={"bench", "serve"}))


def _without_gates(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings but for those that only say when the command fails: they change no report."""
    bench = {k: v for k, v in settings["bench"].items() if k not in ("fail_if_worse", "fail_below")}
    return {**settings, "bench": bench}
