"""The benchmark of a run: tuned against base on the held-out prompts, then the report."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import analysis, conditions
from bench.analysis import TextLosses
from bench.answers import LIKELIHOOD_TASKS, read_pairs, reference_of, with_choices
from bench.contamination import check_contamination
from bench.examples import read_examples
from bench.journal import Journal
from bench.measure import (
    AGAIN,
    ENDPOINT,
    SPEED,
    TEXT,
    Work,
    measure,
    measure_again,
    measure_endpoint,
)
from bench.offload import engine_settings, fitted
from bench.pages import as_json, write_report
from bench.results import Contamination, Contender, Pair, Report
from bench.scoring import Scorer, list_choices, make_scorer
from bench.speed import Rate, Speed
from tuneserve.console import say
from tuneserve.errors import OutputExistsError, UsageError
from tuneserve.files import sha256_file
from tuneserve.run import RunDirectory, versions
from tuneserve.settings import BenchSettings, Recipe, ServeSettings


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
    job = _prepare(run, recipe, converted)
    with run.stage("bench") as record:
        report = _measure(job)
        record.result = {**summary(report), **_inputs(recipe, converted)}
    job.journal_path.unlink()
    return as_json(report)


@dataclass(frozen=True)
class _Job:
    """What is measured, checked and ready before anything slow starts."""

    run: RunDirectory
    recipe: Recipe
    quantization: str
    paths: dict[str, Path]
    hashes: dict[str, str]
    work: Work
    choices: list[str]
    scorer: Scorer
    conditions: dict[str, str]
    serve: ServeSettings

    @property
    def journal_path(self) -> Path:
        return self.run.root / "bench-journal.jsonl"


def _prepare(run: RunDirectory, recipe: Recipe, converted: dict[str, Any]) -> _Job:
    quantization = str(converted["tuned"]["quantization"])
    paths = {"base": run.base_gguf(quantization), "tuned": run.tuned_gguf(quantization)}
    hashes = {name: _verified_hash(path, converted[name]) for name, path in paths.items()}
    examples = read_examples(run.split("test"), recipe.bench.limit)
    references = [reference_of(example) for example in examples]
    scorer = make_scorer(recipe.bench, references)
    choosing = recipe.bench.task in LIKELIHOOD_TASKS
    choices = list_choices(recipe.bench, references) if choosing else []
    types = conditions.require_same_types(paths["base"], paths["tuned"])
    everything = [*examples, *with_choices(examples, choices)]
    encoded, template = conditions.encode_for_both(paths["base"], paths["tuned"], everything)
    conditions.require_room(encoded, recipe.bench)
    texts = conditions.chunk_texts(paths["tuned"], recipe.bench.texts)
    work = Work(encoded[: len(examples)], encoded[len(examples) :], texts)
    layers = fitted(paths["tuned"], engine_settings(recipe.serve, recipe.bench)).gpu_layers
    serve = recipe.serve.model_copy(update={"gpu_layers": layers})
    shared = conditions.describe_conditions(quantization, types, template, serve, recipe.bench)
    return _Job(run, recipe, quantization, paths, hashes, work, choices, scorer, shared, serve)


def _measure(job: _Job) -> Report:
    settings = job.recipe.bench
    with Journal(job.journal_path, _fingerprint(job)) as journal:
        if len(journal):
            say(f"going on with {len(journal):,} measurements of an earlier, unfinished benchmark")
        for name, path in job.paths.items():
            measure(name, path, job.work, job.serve, settings, journal)
        others = _measure_others(job, journal)
        pairs = read_pairs(
            journal, job.work.encoded, job.choices, settings, job.scorer, list(others)
        )
        texts = {
            text: {name: TextLosses(**journal.get(TEXT, name, text)) for name in job.paths}
            for text in job.work.texts
        }
        contenders = {name: _contender(name, job, journal, pairs) for name in job.paths}
    provenance = _provenance(job.run, job.recipe)
    report = make_report(
        job.run.name, settings, pairs, texts, contenders, job.conditions, provenance
    )
    report = replace(
        report,
        others=[
            analysis.compare_other(pairs, name, against, settings)
            for name, against in others.items()
        ],
        contamination=_contamination(job.run, pairs, settings),
    )
    write_report(report, job.run.bench)
    return report


def _measure_others(job: _Job, journal: Journal) -> dict[str, str]:
    """Measure who else is asked for: their names, and which model each is compared with."""
    settings = job.recipe.bench
    others = {}
    if settings.noise_floor and not job.choices:
        measure_again(job.paths["base"], job.work.encoded, job.serve, settings, journal)
        others[AGAIN] = "base"
    if settings.endpoint:
        measure_endpoint(job.work.encoded, settings, journal)
        others[ENDPOINT] = "tuned"
    return others


def _contamination(
    run: RunDirectory, pairs: Sequence[Pair], settings: BenchSettings
) -> Contamination | None:
    """The overlap with the training examples; None where the run has kept none."""
    train = run.split("train")
    return check_contamination(pairs, read_examples(train), settings) if train.is_file() else None


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


def make_report(
    run_name: str,
    settings: BenchSettings,
    pairs: Sequence[Pair],
    texts: Mapping[str, Mapping[str, TextLosses]],
    contenders: dict[str, Contender],
    shared: dict[str, str],
    provenance: dict[str, Any],
) -> Report:
    """The figures and the verdict drawn from the pairs of answers."""
    accuracy = analysis.compare_accuracy(pairs, settings)
    compared_texts = analysis.compare_texts(texts, settings)
    return Report(
        run=run_name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=settings.task,
        confidence=settings.confidence,
        verdict=analysis.judge(accuracy, settings.confidence),
        accuracy=accuracy,
        perplexity=analysis.compare_perplexity(pairs, settings),
        groups=analysis.compare_groups(pairs, settings),
        gap=analysis.compare_gap(pairs, settings),
        others=[],
        contamination=None,
        texts=compared_texts,
        forgetting=analysis.judge_forgetting(compared_texts),
        base=contenders["base"],
        tuned=contenders["tuned"],
        conditions=shared,
        provenance=provenance,
        pairs=list(pairs),
    )


def summary(report: Report) -> dict[str, Any]:
    """What run.json keeps of a report."""
    return {
        "outcome": report.verdict.outcome,
        "verdict": report.verdict.sentence,
        "prompts": report.accuracy.prompts,
        "accuracy": {
            "base": report.accuracy.base.value,
            "tuned": report.accuracy.tuned.value,
            "p": report.accuracy.p,
        },
        "forgetting": report.forgetting,
        "perplexity": {
            "base": report.perplexity.base.value,
            "tuned": report.perplexity.tuned.value,
        },
    }


def _verified_hash(path: Path, recorded: dict[str, Any]) -> str:
    """The file's SHA-256, which must be the one that the conversion recorded."""
    if not path.is_file():
        raise UsageError(
            "no such GGUF", where=str(path), hint="Make it again: tuneserve convert --force"
        )
    digest = sha256_file(path)
    if digest != recorded["sha256"]:
        raise UsageError(
            "is not the file that the conversion made (its SHA-256 differs)",
            where=str(path),
            hint="Make it again: tuneserve convert --force",
        )
    return digest


def _fingerprint(job: _Job) -> str:
    """Names everything that a measurement depends on; not what only the analysis uses."""
    measured = {
        "models": job.hashes,
        "prompts": [
            [item.example.id, item.prompt, item.answer]
            for item in (*job.work.encoded, *job.work.choices)
        ],
        "texts": {name: chunks.tolist() for name, chunks in job.work.texts.items()},
        "serve": job.recipe.serve.model_dump(mode="json"),
        "bench": job.recipe.bench.model_dump(
            mode="json",
            include={"max_tokens", "ctx", "parallel", "endpoint", "endpoint_model"},
        ),
        "versions": {
            name: version
            for name, version in versions().items()
            if name in ("tuneserve", "llama-cpp-python")
        },
    }
    return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()


def _contender(name: str, job: _Job, journal: Journal, pairs: Sequence[Pair]) -> Contender:
    path = job.paths[name]
    timed = journal.get(SPEED, name)
    return Contender(
        name=name,
        file=path.name,
        size_bytes=path.stat().st_size,
        sha256=job.hashes[name],
        quantization=job.quantization,
        speed=Speed(Rate(**timed["prompt"]), Rate(**timed["generation"])),
        load_seconds=timed["load_seconds"],
        counts=analysis.count_answers(pairs, name),
    )


def _provenance(run: RunDirectory, recipe: Recipe) -> dict[str, Any]:
    """What it takes to repeat this: models, data, settings, versions, machine, command."""
    record = run.read()
    trained = record.get("stages", {}).get("train", {}).get("result", {})
    return {
        "command": reproducing_command(run.name, recipe.bench),
        "base_model": trained.get("base", {}).get("spec", recipe.model.base),
        "test_sha256": sha256_file(run.split("test")),
        "settings": recipe.model_dump(mode="json", include={"bench", "serve", "convert"}),
        "versions": versions(),
        "platform": platform.platform(),
        "processor": _processor(),
    }


def reproducing_command(run_name: str, settings: BenchSettings) -> str:
    """The command line that repeats a benchmark: every setting that is not the default."""
    words = ["tuneserve", "bench", "--run", run_name, "--force"]
    default = BenchSettings()
    for name in BenchSettings.model_fields:
        value = getattr(settings, name)
        if value == getattr(default, name):
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words += [f"--{flag}", text]
    return shlex.join(words)


def _processor() -> str:
    """The CPU's name as the kernel gives it, or the machine type."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} threads)" if names else platform.machine()
