"""The benchmark of a run: tuned against base on the held-out prompts, then the report."""

from __future__ import annotations

import json
from typing import Any

from tuneserve.bench.job import Job, prepare
from tuneserve.bench.measure.clients import measure_clients
from tuneserve.bench.measure.journal import Journal
from tuneserve.bench.measure.ladder import measure_ladder
from tuneserve.bench.measure.measure import (
    AGAIN,
    ENDPOINT,
    measure,
    measure_again,
    measure_endpoint,
)
from tuneserve.bench.report.assemble import make_report, summary
from tuneserve.bench.report.pages import as_json, write_report
from tuneserve.console import say
from tuneserve.errors import OutputExistsError
from tuneserve.files import remove
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe


def run_bench(
    run: RunDirectory, recipe: Recipe, *, force: bool = False, skip_done: bool = False
) -> dict[str, Any]:
    """Measure both GGUFs of a run and write runs/NAME/bench/; returns what report.json holds.

    Goes on where an earlier, killed benchmark with the same settings stopped. Raises UsageError
    for a run that is not converted or a report that exists (without `force`), TuneserveError
    where base and tuned can't be compared.
    """
    converted = run.require_stage("convert")
    if skip_done and (done := _finished_report(run, recipe, converted)):
        return done
    if run.bench.exists() and not force:
        raise OutputExistsError(run.bench)
    job = prepare(run, recipe, converted)
    with run.alone(), run.stage("bench", keep=True) as record:
        with Journal(job.journal_path, job.fingerprint()) as journal:
            others = _measure(job, journal)
            report = make_report(job, journal, others)
        write_report(report, run.bench)
        record.result = {**summary(report), **_inputs(recipe, converted)}
    job.journal_path.unlink()
    remove(job.ladder_folder)
    return as_json(report)


def _measure(job: Job, journal: Journal) -> dict[str, str]:
    """Everything that the journal lacks. Returns who else answered, and which model each is to be
    compared with."""
    if len(journal):
        say(f"going on with {len(journal):,} measurements of an earlier, unfinished benchmark")
    for subject in job.subjects.values():
        measure(subject, job.work, journal)
    others = {}
    if job.settings.noise_floor:
        measure_again(job.subjects["base"], job.own_work.questions, journal)
        others[AGAIN] = "base"
    if job.settings.endpoint:
        measure_endpoint(job.asked.encoded, job.settings, journal)
        others[ENDPOINT] = "tuned"
    prompts = [example.prompt for example in job.asked.task.examples]
    measure_clients(job.subjects["tuned"], prompts, journal)
    if job.settings.ladder:
        measure_ladder(job.ladder(journal), job.asked.task.examples, job.own_work, journal)
    return others


def _finished_report(
    run: RunDirectory, recipe: Recipe, converted: dict[str, Any]
) -> dict[str, Any] | None:
    """report.json, if it was made of these very models with these settings."""
    path = run.bench / "report.json"
    result = run.read()["stages"].get("bench", {}).get("result")
    if not result or not path.is_file():
        return None
    inputs = _inputs(recipe, converted)
    if {name: result.get(name) for name in inputs} != inputs:
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def _inputs(recipe: Recipe, converted: dict[str, Any]) -> dict[str, Any]:
    """What a finished benchmark is known by in run.json."""
    return {
        "settings": recipe.model_dump(mode="json", include={"bench", "serve"}),
        "sha256": {name: converted[name]["sha256"] for name in ("base", "tuned")},
    }
