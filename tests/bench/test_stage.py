"""The whole benchmark on real models: figures, refusals, resuming after a kill, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bench.bench_support import QUANTIZATION, disturb, make_run, rows
from tests.bench.tasks.lm_eval.lm_eval_support import CHOOSING, GENERATING, write_task
from tests.support import ROOT
from tuneserve.bench.compare.pairs import HELD_OUT
from tuneserve.bench.compare.report_file import as_json
from tuneserve.bench.inputs import input_hashes
from tuneserve.bench.job import prepare
from tuneserve.bench.measure.endpoint import ask_endpoint
from tuneserve.bench.report.gates import read_gates
from tuneserve.bench.result import BenchResult
from tuneserve.bench.stage import run_bench
from tuneserve.chat.examples import Example
from tuneserve.convert.result import ConvertOutput
from tuneserve.errors import OutputExistsError, TuneserveError, UsageError
from tuneserve.files import sha256_file
from tuneserve.run import RunDirectory
from tuneserve.settings import BenchSettings, Recipe, ServeSettings


def answers(run: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.bench / "answers.jsonl").open()]


def report_of(run: RunDirectory) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run.bench / "report.json").read_text())
    return report


def test_a_benchmark_from_end_to_end(finished_run: RunDirectory) -> None:
    report = report_of(finished_run)
    rows = [row for row in answers(finished_run) if row["task"] == HELD_OUT]
    assert len(rows) == report["accuracy"]["prompts"] == 10
    for name in ("base", "tuned"):
        right = sum(row[name]["score"] for row in rows)
        assert report["accuracy"][name]["value"] == pytest.approx(right / 10)
        assert report[name]["speed"]["generation"]["mean"] > 0
    # The disturbed model is another model: it finds the references more or less likely.
    assert report["perplexity"]["ratio"]["value"] != pytest.approx(1.0, abs=1e-3)
    assert report["accuracy"]["clusters"] == 6
    assert [group["name"] for group in report["groups"]] == ["film", "shop"]
    assert finished_run.require_stage("bench", BenchResult).outcome == report["verdict"]["outcome"]
    assert [path.name for path in finished_run.root.glob("*journal*")] == ["bench-journal.jsonl"]
    assert report["base"]["counts"]["nothing_found"] == 0
    strict, lenient = (report["base"]["counts"][name] for name in ("strict", "lenient"))
    assert strict == report["accuracy"]["base"]["value"] <= lenient


def test_texts_noise_floor_endpoint_and_contamination(finished_run: RunDirectory) -> None:
    report = report_of(finished_run)
    text, general = report["texts"]
    # 1,540 tokens in chunks of 512, the rest dropped.
    assert (text["pieces"], text["unit"]) == (3, "chunks")
    assert (general["pieces"], general["unit"]) == (2, "answers")
    assert text["ratio"]["value"] == pytest.approx(text["tuned"]["value"] / text["base"]["value"])
    assert [task["name"] for task in report["tasks"]] == ["trivia", "General questions"]
    assert report["forgetting"]["outcome"] == "no forgetting shown"
    again, endpoint = report["others"]
    assert (again["name"], again["against"]) == ("base again", "base")
    assert (endpoint["name"], endpoint["against"]) == ("endpoint", "tuned")
    assert report["conditions"]["Endpoint"].endswith("/v1, the first model that it lists; greedy")
    rows = [row for row in answers(finished_run) if row["task"] == HELD_OUT]
    right = sum(row["others"]["endpoint"]["score"] for row in rows)
    assert endpoint["accuracy"]["tuned"]["value"] == pytest.approx(right / 10)
    # The endpoint serves the tuned model: up to chance it writes what the tuned model wrote.
    same = sum(row["others"]["endpoint"]["text"] == row["tuned"]["text"] for row in rows)
    assert same >= 7
    assert report["contamination"]["ids"] == ["s1"]


def test_a_finished_benchmark_is_not_overwritten(
    finished_run: RunDirectory, full_recipe: Recipe
) -> None:
    recipe = full_recipe
    with pytest.raises(OutputExistsError):
        run_bench(finished_run, recipe)
    before = (finished_run.bench / "report.json").read_text()
    again = run_bench(finished_run, recipe, skip_done=True)
    # Digit for digit: what a program reads is the same, measured or read back.
    assert json.dumps(as_json(again), indent=2, ensure_ascii=False) + "\n" == before
    other = recipe.model_copy(update={"bench": recipe.bench.model_copy(update={"limit": 3})})
    with pytest.raises(OutputExistsError) as caught:
        run_bench(finished_run, other, skip_done=True)
    assert caught.value.problems == ["bench.limit was 0, is 3"]


# General questions and clients enough to go through their code.
BRIEF = ("--general", "9", "--clients", "1")


def test_a_killed_benchmark_goes_on_to_the_same_report(
    tmp_path: Path, ggufs: dict[str, Path], recipe: Recipe
) -> None:
    """Killed amid the answers of one model, then of the other; all but the clock's figures are
    those of a benchmark that was left in peace."""
    settings = recipe.bench.model_copy(update={"parallel": 2, "general": 18})
    recipe = recipe.model_copy(update={"bench": settings})
    peaceful, killed = (make_run(tmp_path / name, ggufs, recipe) for name in ("a", "b"))
    run_bench(peaceful, recipe)
    command = [sys.executable, "-m", "tuneserve", "bench", "--run", killed.name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    journal = killed.root / "bench-journal.jsonl"
    for answered in (b'"model": "base"', b'"model": "tuned"'):
        process = subprocess.Popen(
            command, cwd=killed.root.parent.parent, env=environment, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 240
        # In blocks of 16, so that the third answer is amid one.
        while not (journal.exists() and _count(journal, b'"answer"', answered) >= 3):
            assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not killed.bench.exists()
    run_bench(killed, recipe)
    assert answers(killed) == answers(peaceful)
    assert _without_clock(report_of(killed)) == _without_clock(report_of(peaceful))


def _count(path: Path, *parts: bytes) -> int:
    return sum(all(part in line for part in parts) for line in path.read_bytes().split(b"\n"))


def _without_clock(report: dict[str, Any]) -> dict[str, Any]:
    for name in ("base", "tuned"):
        del report[name]["speed"], report[name]["load_seconds"]
    del report["created"]
    return report


def test_nothing_is_measured_twice(
    tmp_path: Path,
    ggufs: dict[str, Path],
    recipe: Recipe,
    demo_gguf: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another scorer is applied to the answers that are there; a second tune of the same base finds
    the base's answers; a file that has changed makes the report stale."""
    first = make_run(tmp_path, ggufs, recipe)
    report = run_bench(first, recipe)
    journal = first.root / "bench-journal.jsonl"
    lines = journal.read_text().count("\n")
    contains = recipe.model_copy(
        update={"bench": recipe.bench.model_copy(update={"task": "contains"})}
    )
    served = contains.serve.model_copy(update={"port": 9, "log": "json", "threads": 1})
    contains = contains.model_copy(update={"serve": served})
    again = run_bench(first, contains, rescore=True)
    assert journal.read_text().count("\n") == lines
    assert again.task == "contains"
    assert [pair.base.text for pair in again.pairs] == [pair.base.text for pair in report.pairs]
    assert again.tuned.speed == report.tuned.speed
    capsys.readouterr()
    assert run_bench(first, contains, skip_done=True).created == again.created
    assert "is up to date" in capsys.readouterr().err
    test = first.split("test")
    test.write_text("".join(test.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(OutputExistsError) as caught:
        run_bench(first, contains, skip_done=True)
    assert "--rescore" in caught.value.hint
    assert caught.value.problems == [f"{test} has changed"]
    run_bench(first, contains, skip_done=True, rescore=True)
    assert f"the report is made anew: {test} has changed" in capsys.readouterr().err

    other = tmp_path / "other.gguf"
    disturb(demo_gguf, other, 0.1)
    second = make_run(tmp_path, {**ggufs, "tuned": other}, recipe, name="second")
    found = run_bench(second, recipe)
    assert "base: 10 answers taken from" in capsys.readouterr().err
    assert "10 answers" in found.conditions["Base"]
    for ours, theirs in zip(found.pairs, report.pairs, strict=True):
        assert ours.base == theirs.base
    rows = [json.loads(line) for line in (second.root / "bench-journal.jsonl").open()]
    (speed,) = [row for row in rows if row.get("kind") == "speed"]
    assert speed["value"].keys() == {"base", "tuned"}
    run_bench(second, recipe, force=True)
    assert (second.root / "bench-journal-before.jsonl").is_file()
    assert "are not used" in capsys.readouterr().err


def test_another_task_sets_nothing_aside(
    converted_run: RunDirectory,
    recipe: Recipe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was measured of the held-out prompts, likelihoods too, is used when further tasks are
    asked, and the other way round."""
    first = run_bench(converted_run, recipe)
    trivia = tmp_path / "trivia.jsonl"
    trivia.write_text("".join(json.dumps(row) + "\n" for row in rows()[:3]))
    tasks = (f"{trivia}=contains", str(write_task(tmp_path, CHOOSING)))
    more = recipe.model_copy(update={"bench": recipe.bench.model_copy(update={"tasks": tasks})})
    capsys.readouterr()
    with_tasks = run_bench(converted_run, more, rescore=True)
    assert "not used" not in capsys.readouterr().err
    assert len(with_tasks.tasks) == 3
    assert with_tasks.perplexity == first.perplexity
    journal = converted_run.root / "bench-journal.jsonl"
    measured = Counter(
        (row["kind"], row["model"], row["id"])
        for row in map(json.loads, journal.read_text().splitlines())
        if row.get("kind") in ("answer", "likelihood", "choice")
    )
    assert set(measured.values()) == {1}
    assert ("likelihood", "tuned", "s0") in measured
    lines = len(journal.read_text().splitlines())
    run_bench(converted_run, recipe, rescore=True)
    added = map(json.loads, journal.read_text().splitlines()[lines:])
    assert {row.get("kind") for row in added} <= {None, "speed"}


def test_speeds_are_of_one_sitting(
    converted_run: RunDirectory, recipe: Recipe, demo_gguf: Path
) -> None:
    """A benchmark that goes on after a stop, or whose tuned model was made anew, sets no speed
    that the base had in another hour beside the tuned model's; answers are used again."""
    journal = converted_run.root / "bench-journal.jsonl"
    first = run_bench(converted_run, recipe)
    # As it would be after a stop ahead of the speeds, the machine busy until then.
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"kind": "speed"' not in line))
    second = run_bench(converted_run, recipe, rescore=True)
    assert [pair.base for pair in second.pairs] == [pair.base for pair in first.pairs]
    for name in ("base", "tuned"):
        assert getattr(second, name).speed != getattr(first, name).speed
    tuned = converted_run.tuned_gguf(QUANTIZATION)
    tuned.unlink()
    disturb(demo_gguf, tuned, 0.1)
    _record_hash(converted_run, "tuned", sha256_file(tuned))
    count = len(journal.read_text().splitlines())
    anew = run_bench(converted_run, recipe, rescore=True)
    added = [json.loads(line) for line in journal.read_text().splitlines()[count:]]
    assert "base" not in {row.get("model") for row in added}
    assert anew.base.speed != second.base.speed
    assert anew.conditions["Speeds"].startswith("base and tuned in turn, in one sitting of 20")


def test_a_changed_scorer_makes_the_report_stale(
    converted_run: RunDirectory, recipe: Recipe, tmp_path: Path
) -> None:
    path, helper = tmp_path / "mine.py", tmp_path / "help_to_score.py"
    path.write_text(
        "def f(answer, reference):\n    import help_to_score\n    return help_to_score.x\n"
    )
    helper.write_text("x = 0.0\n")
    changes = {"task": "python", "scorer": f"{path}:f"}
    recipe = recipe.model_copy(update={"bench": recipe.bench.model_copy(update=changes)})
    assert run_bench(converted_run, recipe).accuracy.tuned.value == 0.0
    run_bench(converted_run, recipe, skip_done=True)
    helper.write_text("x = 1.0\n")
    with pytest.raises(OutputExistsError):
        run_bench(converted_run, recipe, skip_done=True)
    assert run_bench(converted_run, recipe, rescore=True).accuracy.tuned.value == 1.0


def test_the_command_prints_json_and_fails_if_worse(
    converted_run: RunDirectory, tuneserve: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    work = converted_run.root.parent.parent
    # Four prompts can't show that a model is worse; that it can be is test_bench_analysis.
    done = tuneserve(
        "bench", "--run", "small", "--limit", "4", *BRIEF, "--json", "--fail-if-worse", cwd=work
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["accuracy"]["prompts"] == 4
    assert report["verdict"]["outcome"] == "no difference shown"
    again = tuneserve("bench", "--run", "small", cwd=work)
    assert again.returncode == 2
    assert "already exists" in again.stderr
    assert "Traceback" not in again.stderr


def test_exit_code_of_a_worse_model(
    converted_run: RunDirectory,
    demo_gguf: Path,
    tuneserve: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """A 'tuned' model so disturbed that it writes noise, on prompts that the base can do."""
    tuned = converted_run.tuned_gguf(QUANTIZATION)
    tuned.unlink()
    disturb(demo_gguf, tuned, 1.0)
    _record_hash(converted_run, "tuned", sha256_file(tuned))
    words = ["apple", "river", "window", "garden", "letter", "silver", "mountain", "candle"]
    rows = [
        {
            "id": word,
            "group": "words",
            "messages": [
                {"role": "user", "content": f"Repeat this word: {word}"},
                {"role": "assistant", "content": word},
            ],
        }
        for word in words
    ]
    converted_run.split("test").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["bench", "--run", "small", "--task", "contains", *BRIEF, "--json"]
    work = converted_run.root.parent.parent
    failed = tuneserve(*options, "--fail-if-worse", cwd=work)
    assert json.loads(failed.stdout)["verdict"]["outcome"] == "worse", failed.stdout
    assert failed.returncode == 3
    said = failed.stderr.splitlines()[-1]
    assert said.startswith(
        "failed: the tuned model is shown to be worse: all held-out prompts; wor"
    )
    # What only says when the command fails asks for no other benchmark.
    done = tuneserve(*options, "--skip-done", cwd=work)
    assert (done.returncode, done.stdout) == (0, failed.stdout)
    files = ["--junit", "junit.xml", "--markdown", "table.md"]
    below = tuneserve(*options, "--skip-done", "--fail-below", "accuracy=0.9", *files, cwd=work)
    assert below.returncode == 1
    assert below.stderr.splitlines()[-1].endswith(" is below 0.9")
    assert '<failure message="accuracy ' in (work / "junit.xml").read_text()
    assert "small: worse" in (work / "table.md").read_text()
    refused = tuneserve(*options, "--fail-below", "speed=3", cwd=work)
    assert refused.returncode == 2
    assert "bench.fail_below: speed=3: expected FIGURE=SHARE" in refused.stderr
    other = tuneserve(*options, "--limit", "3", "--skip-done", cwd=work)
    assert other.returncode == 2  # already there, of other settings


def test_further_models_are_asked_or_their_answers_taken(
    converted_run: RunDirectory,
    ggufs: dict[str, Path],
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The run's own tuned model once more: as another run that has its benchmark, and as a file."""
    monkeypatch.chdir(converted_run.root.parent.parent)
    other = RunDirectory(converted_run.root.with_name("other"))
    shutil.copytree(converted_run.root, other.root, symlinks=True)
    other.tuned_gguf(QUANTIZATION).symlink_to(ggufs["tuned"])
    run_bench(other, recipe)
    shutil.copy(ggufs["tuned"], "twin.gguf")
    against = recipe.bench.model_copy(update={"against": ("other", "twin.gguf")})
    run_bench(converted_run, recipe.model_copy(update={"bench": against}))
    said = capfd.readouterr().err
    assert "other: 10 of 10 answers are taken from its own benchmark of " in said
    assert "other is the same file as tuned" in said
    assert "twin is the same file as tuned" in said
    report = report_of(converted_run)
    assert [one["name"] for one in report["others"]] == ["other", "twin"]
    assert report["ranking"]["prompts"] == 10
    assert len(report["ranking"]["tests"]) == 6
    for row in answers(converted_run):
        for name in ("other", "twin"):
            assert row["others"][name]["text"] == row["tuned"]["text"]
            assert row["others"][name]["score"] == row["tuned"]["score"]
    # Asked otherwise, its answers are no longer the same.
    fewer = against.model_copy(update={"limit": 3})
    run_bench(converted_run, recipe.model_copy(update={"bench": fewer}), rescore=True)
    said = capfd.readouterr().err
    assert "are taken from its own benchmark" not in said
    assert (
        "other: its own benchmark's answers can't be used and it is asked now: the prompts, or "
        "those that shared a block, are others"
    ) in said
    conditions = report_of(converted_run)["conditions"]
    assert (
        "the same file as tuned; its own benchmark's answers can't be used" in conditions["other"]
    )
    # Of a run that was trained on other examples it is said how many prompts it may have seen.
    other.split("train").write_text(json.dumps(rows()[4]) + "\n")
    run_bench(converted_run, recipe.model_copy(update={"bench": against}), rescore=True)
    assert "other: trained on other examples than this run: 1 of the 10 prompts share" in (
        capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("gone.gguf", "no such file"),
        ("gone", "no such run"),
        ("base.gguf", "called 'base'"),
        ("small", "is this run's own tuned model"),
        ("link.gguf", "is this run's own tuned model"),
    ],
)
def test_further_models_that_can_not_be_asked(
    converted_run: RunDirectory, ggufs: dict[str, Path], recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch, against: str, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(converted_run.root.parent.parent)
    Path("base.gguf").symlink_to(ggufs["base"])
    Path("link.gguf").symlink_to(converted_run.tuned_gguf(QUANTIZATION))
    settings = recipe.bench.model_copy(update={"against": (against,)})
    with pytest.raises(UsageError, match=message):
        run_bench(converted_run, recipe.model_copy(update={"bench": settings}))


def test_unequal_quantization_is_refused(converted_run: RunDirectory, recipe: Recipe) -> None:
    from tuneserve.llama import backend

    api = backend()
    params = api.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = 7, True  # LLAMA_FTYPE_MOSTLY_Q8_0
    tuned = converted_run.tuned_gguf("Q4_0")
    source = tuned.resolve()
    tuned.unlink()
    assert api.llama_model_quantize(os.fsencode(source), os.fsencode(tuned), params) == 0
    _record_hash(converted_run, "tuned", sha256_file(tuned))
    with pytest.raises(TuneserveError, match="not quantized alike"):
        run_bench(converted_run, recipe)
    assert not converted_run.bench.exists()


def test_unequal_templates_are_refused(converted_run: RunDirectory, recipe: Recipe) -> None:
    tuned = converted_run.tuned_gguf("Q4_0")
    source = tuned.resolve()
    tuned.unlink()
    shutil.copy(source, tuned)
    content = tuned.read_bytes()
    marker = b"You are a helpful AI assistant named SmolLM"
    assert content.count(marker) == 1
    tuned.chmod(0o644)
    tuned.write_bytes(content.replace(marker, marker.replace(b"helpful", b"hateful")))
    _record_hash(converted_run, "tuned", sha256_file(tuned))
    with pytest.raises(TuneserveError, match="different chat templates"):
        run_bench(converted_run, recipe)


def test_bad_input_is_refused_before_measuring(converted_run: RunDirectory, recipe: Recipe) -> None:
    test_file = converted_run.split("test")
    rows = [json.loads(line) for line in test_file.open()]
    rows[3]["messages"][0]["content"] += " very" * 300
    test_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match="don't fit 256 tokens") as caught:
        run_bench(converted_run, recipe)
    assert "--ctx" in caught.value.hint
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["s3"]

    _record_hash(converted_run, "base", "0" * 64)
    with pytest.raises(UsageError, match="not the file that the conversion made"):
        run_bench(converted_run, recipe)

    converted_run.base_gguf("Q4_0").unlink()
    with pytest.raises(UsageError, match="no such GGUF"):
        run_bench(converted_run, recipe)

    converted_run.update(stages={})
    with pytest.raises(UsageError, match="no finished 'convert' stage"):
        run_bench(converted_run, recipe)


def test_what_would_fail_at_the_end_fails_at_once(
    converted_run: RunDirectory, recipe: Recipe, tmp_path: Path
) -> None:
    def refused(**changes: object) -> UsageError:
        settings = recipe.bench.model_copy(update=changes)
        with pytest.raises(UsageError) as caught:
            run_bench(converted_run, recipe.model_copy(update={"bench": settings}))
        return caught.value

    for name, value in (("noise_floor", True), ("endpoint", "http://127.0.0.1:9/v1")):
        error = refused(task="likelihood", **{name: value})
        assert error.where == f"bench.{name}"
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    assert refused(texts=(str(short),)).where == str(short)
    train = converted_run.split("train")
    train.write_text(train.read_text() + "{\n")
    error = refused()
    assert [problem.split(": ")[0] for problem in error.problems] == [f"{train}:3"]
    assert not list(converted_run.root.glob("*journal*"))


def test_training_texts_are_nothing_to_compare_prompts_with(
    converted_run: RunDirectory, recipe: Recipe
) -> None:
    text = {"id": "t", "group": None, "messages": [{"role": "assistant", "content": "Once."}]}
    converted_run.split("train").write_text(json.dumps(text))
    converted = converted_run.require_stage("convert", ConvertOutput)
    assert prepare(converted_run, recipe, converted).training == []


def _record_hash(run: RunDirectory, name: str, digest: str) -> None:
    """Let run.json say that the conversion made a file with this SHA-256."""
    stages = run.read().stages
    stages["convert"].result[name]["sha256"] = digest
    run.update(stages=stages)


def test_an_endpoint_that_is_not_there_is_one_clear_error() -> None:
    settings = BenchSettings(endpoint="http://127.0.0.1:9/v1")
    example = Example.of_turn("1", "x", "y")
    with pytest.raises(TuneserveError, match="the endpoint failed") as caught:
        list(ask_endpoint([example], settings))
    assert caught.value.where == "http://127.0.0.1:9/v1"


def test_the_reproducing_command_is_understood() -> None:
    """The command's options, parsed again over what the run has saved, give the same settings."""
    import shlex

    from tuneserve.bench.report.provenance import reproducing_command
    from tuneserve.cli import cli
    from tuneserve.cli.bench import command
    from tuneserve.options import resolve_settings

    saved = Recipe(
        serve=ServeSettings(flash_attention=False, threads=3, port=9000),
        bench=BenchSettings(limit=5, fail_if_worse=True, choices=("x", "y")),
    )
    recipe = Recipe(
        serve=ServeSettings(ctx=4096, cache_type_k="f16", threads=0, port=9000),
        bench=BenchSettings(noise_floor=True, clients=(2, 3), confidence=0.9, max_tokens=7),
    )
    words = shlex.split(reproducing_command("my-run", recipe, saved))
    assert words[:5] == ["tuneserve", "bench", "--run", "my-run", "--force"]
    assert words[words.index("--serve-ctx") + 1] == "4096"
    parent = cli.make_context("tuneserve", ["bench"])
    with command.make_context("bench", words[2:], parent=parent) as context:
        understood = resolve_settings(context, saved=saved.model_dump(mode="json"))
    assert (understood.bench, understood.serve) == (recipe.bench, recipe.serve)


def test_clients_are_served(finished_run: RunDirectory) -> None:
    report = report_of(finished_run)
    one, two = report["load"]
    assert (one["clients"], two["clients"]) == (1, 2)
    # End tokens are forbidden: every answer has its 32 tokens.
    assert (one["throughput"]["tokens"], two["throughput"]["tokens"]) == (64, 128)
    for level in (one, two):
        assert 0 < level["first_token_median"] <= level["first_token_worst"]
    assert report["server"]["memory"] > 90e6  # the model's file alone


def test_curves_come_from_the_training_record(finished_run: RunDirectory) -> None:
    curves = report_of(finished_run)["curves"]
    assert curves == {
        "train": [[1, 2.0], [2, 1.0]], "eval": [[2, 1.5]], "general": [[2, 0.5]], "best_step": 2,
    }  # fmt: skip


@pytest.mark.parametrize("entry", ["trivia.jsonl", "trivia.jsonl=likelihood", "=exact"])
def test_a_further_task_needs_a_score(
    converted_run: RunDirectory, recipe: Recipe, entry: str
) -> None:
    settings = recipe.bench.model_copy(update={"tasks": (entry,)})
    with pytest.raises(UsageError, match=r"expected file\.jsonl=score"):
        run_bench(converted_run, recipe.model_copy(update={"bench": settings}))


def test_task_files_of_lm_eval_are_measured_for_both(
    converted_run: RunDirectory, recipe: Recipe, tmp_path: Path
) -> None:
    choosing = write_task(tmp_path, CHOOSING, name="choosing")
    words = "generation_kwargs: {until: [' ', '.'], max_gen_toks: 6}\n"
    generating = write_task(tmp_path, GENERATING + words, name="generating")
    bench = recipe.bench.model_copy(
        update={
            "tasks": (str(choosing), str(generating)),
            "limit": 2,
            "fail_below": ("choosing acc_norm=0.5",),
        }
    )
    report = run_bench(converted_run, recipe.model_copy(update={"bench": bench}))
    names = ["choosing acc", "choosing acc_norm", "generating exact_match"]
    assert [task.name for task in report.tasks] == names
    for task in report.tasks:
        assert task.accuracy.prompts == 2
        assert task.accuracy.difference.low is not None
    plain, norm, generated = (task.pairs[0] for task in report.tasks)
    assert plain.base.finish_reason == "chosen"
    assert list(plain.base.probabilities) == ["blue", "loud and green"]
    # One measurement, compared in all and by character.
    assert plain.base.reference_nll == norm.base.reference_nll > 0
    assert plain.base.probabilities != norm.base.probabilities
    assert " " not in generated.base.text
    assert generated.base.reference_nll > 0
    assert read_gates(bench)[0].figure == "choosing acc_norm"
    # Changed data make the report stale.
    hashes = input_hashes(converted_run, bench)
    (tmp_path / "choosing.jsonl").write_text((tmp_path / "choosing.jsonl").read_text() * 2)
    changed = input_hashes(converted_run, bench)
    assert {key for key in hashes if hashes[key] != changed[key]} == {f"{tmp_path}/choosing.jsonl"}
