"""The benchmark of a run: tuned against base on the held-out prompts, then the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneserve.bench.against import (
    Rival,
    ask_rivals,
    find_rivals,
    prepare_rivals,
    use_known_answers,
)
from tuneserve.bench.compare.analysis import responses
from tuneserve.bench.compare.answers import read_pairs
from tuneserve.bench.compare.earlier import earlier_report
from tuneserve.bench.compare.judge import read_labels, requests_of
from tuneserve.bench.compare.pairs import FAILED, HELD_OUT, Pair, Response
from tuneserve.bench.compare.report_file import read_report
from tuneserve.bench.compare.results import Report
from tuneserve.bench.conditions import describe_endpoint
from tuneserve.bench.inputs import input_hashes, report_settings, what_is_new
from tuneserve.bench.job import BenchmarkJob, prepare
from tuneserve.bench.measure.answers import measure_noise_floor
from tuneserve.bench.measure.base_store import BaseStore
from tuneserve.bench.measure.clients import measure_clients
from tuneserve.bench.measure.journal import FILE, Journal, Key
from tuneserve.bench.measure.judge import measure_judge
from tuneserve.bench.measure.measure import measure, measure_endpoint, measure_speeds
from tuneserve.bench.measure.speed import speed_text
from tuneserve.bench.measure.sweep import is_measured, measure_sweep
from tuneserve.bench.measure.sweep_files import remove_sweep_files
from tuneserve.bench.measure.values import ANSWER, SERVED, SPEED
from tuneserve.bench.measure.work import ENDPOINT, NOISE_FLOOR, TOGETHER
from tuneserve.bench.report.assemble import make_report, summary
from tuneserve.bench.report.page_data import tasks_of
from tuneserve.bench.report.pages import REPORT_FILES, write_report
from tuneserve.bench.result import BenchResult
from tuneserve.changes import changed_values, with_defaults
from tuneserve.console import say
from tuneserve.convert.result import ConvertOutput
from tuneserve.errors import OutputExistsError
from tuneserve.files import check_replaceable
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe

SHOWN_CHANGES = 8
JOURNAL_BEFORE = "bench-journal-before.jsonl"
AGAIN = (
    "Pass --rescore to make the report anew (what is measured is used again, only what is missing "
    "is measured), or --force to measure everything again."
)


def run_bench(
    run: RunDirectory,
    recipe: Recipe,
    *,
    force: bool = False,
    skip_done: bool = False,
    rescore: bool = False,
) -> Report:
    """Measure both GGUFs of a run and write runs/NAME/bench/; returns the report (without the
    answers, where it was there already).

    What was measured under the same conditions is used again: of this run, as far as an earlier
    benchmark came, and of the base, of other runs. With `rescore` a report that exists is made
    anew from it, with `force` everything is measured again. Raises UsageError for a run that is not
    converted or a report that exists (without either), TuneserveError where base and tuned can't be
    compared.
    """
    converted = run.require_stage("convert", ConvertOutput)
    rivals = find_rivals(recipe.bench.against, run, converted)
    changed: list[str] = []
    if skip_done and (result := _finished_result(run)):
        changed = what_is_new(result, run, recipe, _model_hashes(converted, rivals))
        if not changed:
            run.tidy()
            return _finished_report(run)
    if run.bench.exists() and not (force or rescore):
        made = run.finished("bench", BenchResult)
        if made is not None and not changed:
            changed = changed_values(with_defaults(made.settings), report_settings(recipe))
        elif made is None and (earlier := earlier_report(run)):
            changed = [f"the report is {earlier.of}"]
        raise OutputExistsError(run.bench, hint=AGAIN, problems=changed)
    if changed:
        say("the report is made anew: " + "; ".join(changed[:SHOWN_CHANGES]) + _and_more(changed))
    check_replaceable(run.bench, REPORT_FILES, what="benchmark")
    read_labels(recipe.bench.judge_labels)  # what is wrong with them comes out before measuring
    job = prepare(run, recipe, converted)
    prepared = prepare_rivals(rivals, job)
    journal_path = run.root / FILE
    with run.alone(), run.stage("bench", keep=True) as running:
        anew = force and not rescore
        if anew:
            _set_aside(journal_path)
        keys, conditions = job.keys(), job.model_conditions()
        for each in prepared:
            keys |= each.keys
            conditions[each.contender.name] = each.conditions
        with Journal(journal_path, job.fingerprint(), keys, conditions) as journal:
            store = BaseStore(run.root.parent, job.hashes["base"])
            _use_again(journal, None if anew else store, keys, job)
            use_known_answers(prepared, job, journal, anew=anew)
            others = _measure(job, journal, store)
            report = make_report(job, journal, others, ask_rivals(prepared, journal))
            _warn(report)
            running.withdraw()
            write_report(report, run.bench)
            journal.finish()
        inputs = input_hashes(run, recipe.bench)
        models = _model_hashes(converted, rivals)
        running.result = summary(report, report_settings(recipe), models, inputs)
    remove_sweep_files(job.sweep_folder)
    return report


def _set_aside(path: Path) -> None:
    """Keep the journal of a benchmark that is finished out of one that measures anew; one that was
    killed goes on."""
    if not path.is_file():
        return
    with Journal(path) as journal:
        finished = journal.is_finished
    if finished:
        path.replace(path.with_name(JOURNAL_BEFORE))
        say(f"--force: the earlier measurements are not used, and kept in {JOURNAL_BEFORE}")


def _use_again(
    journal: Journal, store: BaseStore | None, keys: Mapping[Key, str], job: BenchmarkJob
) -> None:
    """Say what is there of earlier benchmarks, and take what other runs have of the base."""
    for note in journal.notes():
        say(note)
    if len(journal) and journal.is_finished:
        say(f"{len(journal):,} measurements of {journal.newest[:10]} are used again")
    elif len(journal):
        say(f"going on with {len(journal):,} measurements of an earlier, unfinished benchmark")
    if store is not None:
        answers, day = store.give(journal, keys)
        if answers:
            say(f"base: {answers:,} answers taken from {day}")
            job.conditions["Base"] = f"{answers:,} answers were measured before, on {day}"


def _warn(report: Report) -> None:
    """Say what went wrong with single prompts; the report counts them."""
    for task, pairs in tasks_of(report):
        for name, answers in responses(pairs).items():
            _warn_of(name if task == HELD_OUT else f"{name}, {task}", pairs, answers)


def _warn_of(name: str, pairs: Sequence[Pair], answers: Sequence[Response]) -> None:
    broken = [
        (pair.example.id, one) for pair, one in zip(pairs, answers, strict=True) if one.problem
    ]
    if broken:
        example, first = broken[0]
        failed = first.finish_reason == FAILED
        what = "got no answer" if failed else "could not be scored"
        answer = "" if failed else f", answer {first.text[:60]!r}"
        say(
            f"{name}: {len(broken)} of {len(pairs)} prompts {what} and count as wrong; the first "
            f"is {example}{answer}: {first.problem}"
        )


def _measure(job: BenchmarkJob, journal: Journal, store: BaseStore) -> dict[str, str]:
    """Everything that the journal lacks. Returns who else answered, and which model each is to be
    compared with."""
    for name, contender in job.contenders.items():
        measure(contender, job.workload, journal)
        if name == "base":
            store.take(journal)
    others = {}
    if job.settings.noise_floor:
        measure_noise_floor(job.contenders["base"], job.own_workload.requests, journal)
        store.take(journal)
        others[NOISE_FLOOR] = "base"
    if job.settings.endpoint:
        measure_endpoint(job.asked.encoded, job.settings, journal)
        ids = [item.example.id for item in job.asked.encoded]
        answers = [journal.get(ANSWER, ENDPOINT, each) for each in ids]
        job.conditions["Endpoint"] = describe_endpoint(job.settings, answers)
        others[ENDPOINT] = "tuned"
    if job.settings.judge:
        measure_judge(requests_of(read_pairs(journal, job.asked)), job.settings, journal)
    measure_speeds(job.contenders, speed_text(job.workload.expected), journal)
    prompts = [example.prompt for example in job.asked.task.examples]
    measure_clients(job.contenders["tuned"], prompts, journal)
    job.conditions.update(_sittings(journal))
    if job.settings.ladder and not is_measured(job.sweep(), job.own_workload, journal):
        job.make_sweep_files(journal)
        measure_sweep(job.sweep(), job.asked.encoded, job.own_workload, journal)
    return others


def _sittings(journal: Journal) -> dict[str, str]:
    """When what is timed was timed."""
    found = {
        "Speeds": f"base and tuned in turn, in one sitting of {_day(journal, SPEED, TOGETHER)}"
    }
    if journal.has(SERVED, "tuned"):
        found["Clients"] = f"all numbers of them in one sitting of {_day(journal, SERVED, 'tuned')}"
    return found


def _day(journal: Journal, kind: str, model: str) -> str:
    return journal.made(kind, model)[:10]


def _finished_result(run: RunDirectory) -> BenchResult | None:
    """What a finished benchmark left in run.json, if its report is there."""
    result = run.finished("bench", BenchResult)
    return result if (run.bench / "report.json").is_file() else None


def _finished_report(run: RunDirectory) -> Report:
    """The report, which is what would be made now."""
    report = read_report(run)
    say(f"report of {report.created[:16].replace('T', ' ')} is up to date: nothing is measured")
    return report


def _model_hashes(converted: ConvertOutput, rivals: Sequence[Rival]) -> dict[str, str]:
    """SHA-256 of every model that is compared, by its name in the report."""
    hashes = {"base": converted.base.sha256, "tuned": converted.tuned.sha256}
    return hashes | {rival.name: rival.sha256 for rival in rivals}


def _and_more(changes: Sequence[str]) -> str:
    more = len(changes) - SHOWN_CHANGES
    return f"; and {more} more" if more > 0 else ""
