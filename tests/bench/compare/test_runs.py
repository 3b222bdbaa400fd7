"""Several runs side by side; a text measured from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tuneserve.bench.compare import analysis
from tuneserve.bench.compare.pairs import Answer, Pair
from tuneserve.bench.compare.report_file import as_json, read_report
from tuneserve.bench.compare.results import (
    AnswerCounts,
    ContenderSummary,
    Provenance,
    Report,
    TaskComparison,
    Verdict,
)
from tuneserve.bench.compare.runs import compare_runs
from tuneserve.bench.measure.journal import FILE
from tuneserve.bench.measure.speed import Rate, Speed
from tuneserve.bench.report.pages import write_report
from tuneserve.bench.stats.bootstrap import Bootstrap
from tuneserve.bench.stats.ranking import rank
from tuneserve.charts import LossCurves
from tuneserve.chat.examples import Example
from tuneserve.cli.bench import show
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.run import RunDirectory
from tuneserve.settings import BenchSettings

Runner = Callable[..., subprocess.CompletedProcess[str]]


def pairs(wrong: set[int], count: int = 60) -> list[Pair]:
    """So many prompts: the base answers every other one, the tuned model all but the `wrong`."""
    return [
        Pair(
            Example.of_turn(str(n), "?", "a"),
            base=Answer("a", "", False, float(n % 2), "stop", 1, 2.0, 1),
            tuned=Answer("a", "", False, float(n not in wrong), "stop", 1, 1.0, 1),
        )
        for n in range(count)
    ]


def contender(name: str, empty: int = 0) -> ContenderSummary:
    speed = Speed(Rate(100.0, 2.0, 64, 5), Rate(90.0, 2.0, 64, 5))
    counts = AnswerCounts(0, 0, empty, 1.0)
    return ContenderSummary(name, f"{name}.gguf", 1 << 20, "0" * 64, "Q4_K_M", speed, 0.5, counts)


def written_run(
    root: Path,
    name: str,
    wrong: set[int],
    test_sha256: str = "a",
    count: int = 60,
    scoring: dict[str, object] | None = None,
    empty: int = 0,
) -> RunDirectory:
    """A run of which only the benchmark's files are there."""
    run = RunDirectory(root / "runs" / name)
    run.update(stages={"bench": {"result": {}}})
    settings = BenchSettings(bootstrap=1000)
    asked = pairs(wrong, count)
    accuracy = analysis.compare_accuracy(asked, settings)
    # Answers to another task are no part of the comparison.
    task = TaskComparison(
        "General", "", accuracy, 1.0, "no difference shown", [], pairs(set(range(60)))
    )
    report = Report(
        run=name, created="2026-01-02T03:04:05+00:00", task="exact", confidence=0.95,
        verdict=Verdict("no difference shown", f"{name} is what it is."),
        accuracy=accuracy, perplexity=analysis.compare_perplexity(asked, settings),
        groups=[], gap=None, others=[], contamination=None,
        forgetting=Verdict("no forgetting shown", "Nothing."), tasks=[task], texts=[],
        curves=LossCurves([(1, 2.0)], [(1, 2.5)], [], 1), load=[], server=None, ladder=[],
        base=contender("base"), tuned=contender("tuned", empty), conditions={"Sampling": "greedy"},
        provenance=Provenance(
            "tuneserve bench", "demo", test_sha256, {"bench": scoring or {}}, {}, "", ""
        ),
        pairs=asked,
    )  # fmt: skip
    write_report(report, run.bench)
    return run


def test_runs_are_paired_with_the_first(tmp_path: Path) -> None:
    first = written_run(tmp_path, "first", set(range(20)))
    better = written_run(tmp_path, "better", set(range(5)))
    alike = written_run(tmp_path, "alike", set(range(1, 21)))
    found = compare_runs([first, better, alike])
    rows = found.rows
    assert rows[0].difference is None
    assert rows[1].difference is not None
    assert rows[1].difference.value == pytest.approx(15 / 60)
    assert rows[1].difference.low is not None
    assert rows[1].difference.low > 0
    # 15 won and none lost: 2 * 2^-15, doubled as the smaller of two p.
    assert rows[1].p == pytest.approx(2 * 2 * 2**-15)
    assert rows[2].difference is not None
    assert rows[2].difference.low is not None
    assert rows[2].difference.high is not None
    assert rows[2].difference.low < 0 < rows[2].difference.high
    assert rows[2].p == 1.0
    assert found.ranking is not None
    assert [(one.name, one.letters) for one in found.ranking.ranked] == [
        ("better", "a"), ("first", "b"), ("alike", "b"),
    ]  # fmt: skip
    assert found.note == ""


@pytest.mark.parametrize("per_source", [1, 2])
def test_a_difference_that_could_be_undone_is_said_to_be_none(
    tmp_path: Path, per_source: int
) -> None:
    count = 20 * per_source
    runs = [written_run(tmp_path, name, set(), count=count) for name in ("first", "second")]
    for run, score in zip(runs, (0.5, 0.613), strict=True):
        path = run.bench / "answers.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for place, row in enumerate(rows):
            row["tuned"]["score"] = score + place % 3 / 100
            row["source"] = f"s{place // per_source}" if per_source > 1 else None
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare_runs(runs)
    row = found.rows[1]
    assert row.p is not None
    assert row.p < 0.001
    assert row.difference is not None
    assert row.difference.low is not None
    assert row.difference.low > 0
    assert row.undone
    assert row.undoing == pytest.approx(0.05 ** (-1 / 20) - 1, rel=0.03)
    assert "second: no difference from the first run is shown, whatever p says" in found.note
    unit = "sources" if per_source > 1 else "prompts"
    assert f"could be undone by kinds of {unit} not seen." in found.note


def test_runs_of_other_prompts_are_compared_on_those_they_share(tmp_path: Path) -> None:
    first = written_run(tmp_path, "first", {1, 59})
    fewer = written_run(tmp_path, "fewer", {2}, test_sha256="b", count=40)
    found = compare_runs([first, fewer])
    assert (found.rows[0].shared, found.rows[1].shared) == (60, 40)
    assert found.rows[1].difference is not None
    assert found.rows[1].difference.value == 0.0  # one lost, one won; prompt 59 is not shared
    assert "differences are of those shared" in found.note


def test_two_runs_without_a_difference_say_so_and_what_would_be_shown(
    tmp_path: Path, tuneserve: Runner
) -> None:
    first = written_run(tmp_path, "first", {1})
    alike = written_run(tmp_path, "alike", {2}, count=30)
    found = compare_runs([first, alike])
    assert "alike: no difference from the first run is shown. " in found.note
    assert "would be shown" in found.rows[1].reach
    assert found.rows[1].reach in found.note
    for pair in (("first", "alike"), ("alike", "first")):
        tuneserve("report", *pair, "--markdown", "runs.md", cwd=tmp_path)
        assert "), 30 prompts |" in (tmp_path / "runs.md").read_text()
    better = written_run(tmp_path, "better", set(range(1, 21)))
    assert "no difference" not in compare_runs([first, better]).note


def test_a_verdict_beside_a_ranking_is_explained_wherever_both_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {
        name: np.arange(60) % (2 + place) for place, name in enumerate(("base", "tuned", "x"))
    }
    ranking = rank(
        {name: (each == 0) * 1.0 for name, each in scores.items()}, Bootstrap(np.arange(60))
    )
    report = replace(read_report(written_run(tmp_path, "one", {1})), ranking=ranking)
    show(report)
    shown = " ".join(capsys.readouterr().err.split())
    assert "Holm-adjusted over all 3 pairs. The verdict is of tuned against base alone" in shown
    write_report(report, tmp_path / "bench")
    for name in ("report.md", "report.html"):
        assert ranking.beside_verdict in (tmp_path / "bench" / name).read_text()


def test_runs_that_do_not_compare_say_why(tmp_path: Path) -> None:
    first = written_run(tmp_path, "first", {1})
    cut = written_run(tmp_path, "cut", {1}, scoring={"max_tokens": 4})
    path = written_run(tmp_path, "asked", {1}).bench / "answers.jsonl"
    path.write_text(path.read_text().replace('"content": "?"', '"content": "!"'))
    found = compare_runs([first, cut, RunDirectory(path.parent.parent)])
    assert [row.why_not for row in found.rows] == [
        "", "scored otherwise: max_tokens 512 / 4", "no prompt in common",
    ]  # fmt: skip
    assert [row.difference for row in found.rows] == [None] * 3
    assert found.ranking is None


@pytest.mark.parametrize(
    ("table", "changes", "why_not", "differs"),
    [
        ("bench", {"tolerance": 0.1}, "scored otherwise: tolerance 1e-06 / 0.1", ""),
        ("bench", {"choices": ["a", "b"]}, "scored otherwise: choices none / a,b", ""),
        ("bench", {"max_tokens": 9}, "scored otherwise: max_tokens 512 / 9", ""),
        ("bench", {"pattern": "x", "separator": "|"},
         "scored otherwise: pattern none / x, separator none / |", ""),
        ("bench", {"scorer": "b.py:f"}, "scored otherwise: scorer none / b.py:f", ""),
        ("bench", {"parallel": 2, "confidence": 0.9}, "", "parallel 8 / 2"),
        ("serve", {"cache_type_k": "f16", "port": 1}, "", "cache_type_k q8_0 / f16"),
        ("versions", {"tuneserve": "9"},
         "scored otherwise: tuneserve  and 9: score again with --rescore", ""),
        ("scorer_files", {"b.py": "1"}, "scored otherwise: scorer's files", ""),
    ],
)  # fmt: skip
def test_what_scores_has_to_be_the_same(
    tmp_path: Path, table: str, changes: dict[str, object], why_not: str, differs: str
) -> None:
    first, other = (written_run(tmp_path, name, set()) for name in ("first", "other"))
    path = other.bench / "report.json"
    report = json.loads(path.read_text())
    provenance = report["provenance"]
    if table in ("bench", "serve"):
        provenance["settings"][table] = changes
    else:
        provenance[table] = changes
    path.write_text(json.dumps(report))
    row = compare_runs([first, other]).rows[1]
    assert (row.why_not, row.differs) == (why_not, differs)
    assert (row.difference is None) == bool(why_not)


def test_a_run_without_benchmark_is_named(tmp_path: Path) -> None:
    run = written_run(tmp_path, "first", set())
    shutil.rmtree(run.bench)
    with pytest.raises(UsageError, match="no benchmark"):
        compare_runs([run])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("{", "not valid JSON"), ("[]", "holds no"), ("{}", "lacks base"),
        ('{"task": "", "id": "1", "prompt": [], "reference": "", "source": "", "base": null,'
         ' "tuned": {}}', "no score of the base model"),
    ],
)  # fmt: skip
def test_damaged_answers_are_named(tmp_path: Path, damage: str, message: str) -> None:
    run = written_run(tmp_path, "one", {1})
    path = run.bench / "answers.jsonl"
    first, _, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, damage, *others]))
    with pytest.raises(TuneserveError, match=message) as caught:
        compare_runs([run, written_run(tmp_path, "two", {1})])
    assert "answers.jsonl:2" in str(caught.value)
    assert "tuneserve bench --run one --force" in caught.value.hint
    # What was measured is there: nothing has to be measured again.
    (run.root / FILE).touch()
    with pytest.raises(TuneserveError, match=message) as caught:
        compare_runs([run])
    assert "tuneserve bench --run one --rescore" in caught.value.hint


def test_copied_and_renamed_runs_are_called_by_their_folders(tmp_path: Path) -> None:
    first = written_run(tmp_path, "first", set(range(20)))
    written_run(tmp_path, "better", set(range(5)))
    copies = [RunDirectory(tmp_path / "runs" / name) for name in ("copy", "second-copy")]
    shutil.copytree(first.root, copies[0].root)
    shutil.copytree(tmp_path / "runs" / "better", copies[1].root)
    found = compare_runs([first, *copies])
    assert [row.report.run for row in found.rows] == ["first", "copy", "second-copy"]
    assert [row.measured_as for row in found.rows] == ["", "first", "better"]
    assert found.ranking is not None
    assert [(one.name, one.letters) for one in found.ranking.ranked] == [
        ("second-copy", "a"), ("first", "b"), ("copy", "b"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="given more than once: first"):
        compare_runs([first, copies[0], first])


def test_runs_that_are_not_ranked_say_why(tmp_path: Path) -> None:
    first, other = (written_run(tmp_path, name, {1}) for name in ("first", "other"))
    cut = written_run(tmp_path, "cut", {1}, scoring={"max_tokens": 4})
    assert "No ranking" not in compare_runs([first, other]).note
    found = compare_runs([first, other, cut])
    assert found.ranking is None
    assert "No ranking: only 2 of 3 runs compare" in found.note


def test_empty_answers_of_a_run_stand_beside_its_place(tmp_path: Path) -> None:
    first, other = (written_run(tmp_path, name, {1}) for name in ("first", "other"))
    mute = written_run(tmp_path, "mute", set(range(60)), empty=60)
    said = "Caution: 100.0 % of mute's and none of any other's answers were empty."
    ranked = compare_runs([first, other, mute])
    assert ranked.ranking is not None
    assert ranked.ranking.sentence.endswith(said)
    assert ranked.note == ""
    said = "Caution: 0.0 % of first's and 100.0 % of mute's answers were empty."
    assert compare_runs([first, mute]).note == said


def test_a_report_of_another_release_is_refused(tmp_path: Path, tuneserve: Runner) -> None:
    run = written_run(tmp_path, "one", {1})
    path = run.bench / "report.json"
    written = json.loads(path.read_text())
    for schema, message in (
        (3, "a newer tuneserve wrote this file: its schema is 3"),
        (1, "an older tuneserve wrote this report: its schema is 1"),
        (None, "an older tuneserve wrote this report: its schema is 0"),
    ):
        content = {**written, "schema": schema}
        if schema is None:
            del content["schema"]
        path.write_text(json.dumps(content))
        refused = tuneserve("report", "one", cwd=tmp_path)
        assert refused.returncode == 2
        assert f"one/bench/report.json: {message}" in refused.stderr
        assert "Traceback" not in refused.stderr
    # A report of this schema from before the general loss was drawn.
    curves = {name: value for name, value in written["curves"].items() if name != "general"}
    path.write_text(json.dumps({**written, "curves": curves}))
    before = read_report(run)
    assert before.curves is not None
    assert before.curves.general == []
    path.write_text(json.dumps({**written, "accuracy": {"prompts": "many"}}))
    with pytest.raises(TuneserveError, match="not in the form") as caught:
        read_report(run)
    assert any(problem.startswith("accuracy.prompts: ") for problem in caught.value.problems)
    assert "tuneserve bench --run one --force" in caught.value.hint


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = written_run(tmp_path, "one", {1})
    text = (run.bench / "report.json").read_text()
    assert json.dumps(as_json(read_report(run)), indent=2, ensure_ascii=False) + "\n" == text


def test_the_report_command(tmp_path: Path, tuneserve: Runner) -> None:
    for name, wrong in (("one", {1, 2}), ("two", {2})):
        written_run(tmp_path, name, wrong)
    shown = tuneserve("report", "one", "two", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "two is what it is." in shown.stderr
    said = tuneserve("report", "one", "two", "--json", "--markdown", "runs.md", cwd=tmp_path)
    data = json.loads(said.stdout)["runs"]
    assert "| two | 50.0 % | 98.3 % |" in (tmp_path / "runs.md").read_text()
    assert data[1]["difference"]["value"] == pytest.approx(1 / 60)
    absent = tuneserve("report", "one", "three", cwd=tmp_path)
    assert absent.returncode == 2
    assert "no such run" in absent.stderr


@pytest.mark.slow
def test_the_perplexity_command(tmp_path: Path, demo_gguf: Path, tuneserve: Runner) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"Line {n} of a plain text." for n in range(40)))
    arguments = ["perplexity", str(demo_gguf), str(text), "--chunk", "32", "--threads", "1"]
    done = tuneserve(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 1 < found["perplexity"]["value"] < 100
    assert found["tokens"] == found["chunks"] * 15
    compared = tuneserve(*arguments, "--against", str(demo_gguf), "--json")
    assert compared.returncode == 0, compared.stderr
    divergence = json.loads(compared.stdout)
    assert divergence["kld"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert divergence["perplexity"]["value"] == pytest.approx(found["perplexity"]["value"])
    short = tuneserve("perplexity", str(demo_gguf), str(text), "--chunk", "4096")
    assert short.returncode == 2
    assert "Take a longer text" in short.stderr
