"""A report of another GGUF than the run has now: what `bench`, `report`, `ls`, `show` and the page
say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.compare.test_runs import written_run
from tests.support import Runner
from tuneserve.bench.compare.earlier import earlier_report
from tuneserve.bench.stage import run_bench
from tuneserve.convert.result import ConvertOutput, GGUFRecord
from tuneserve.errors import OutputExistsError
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe
from tuneserve.ui.views import run_rows, run_view

NOW = "of Q4_K_M; the GGUF is now Q8_0"


def converted(run: RunDirectory, quantization: str, sha256: str = "b") -> None:
    """Record a conversion, as `convert` does: what was benched before is no longer the run's."""
    made = GGUFRecord(path="x.gguf", size_bytes=1, sha256=sha256, quantization=quantization)
    with run.stage("convert") as running:
        running.result = ConvertOutput(tuned=made, base=made)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """Benched as Q4_K_M, whose hash is 'a'; now of Q8_0."""
    monkeypatch.chdir(tmp_path)
    written = written_run(Path(), "mine", {1, 2})
    path = written.bench / "report.json"
    report = json.loads(path.read_text())
    report["tuned"] |= {"quantization": "Q4_K_M", "sha256": "a"}
    path.write_text(json.dumps(report))
    converted(written, "Q8_0")
    return written


def test_bench_says_of_what_the_report_is(run: RunDirectory) -> None:
    for skip_done in (False, True):
        with pytest.raises(OutputExistsError) as caught:
            run_bench(run, Recipe(), skip_done=skip_done)
        assert caught.value.problems == [f"the report is {NOW}"]
        assert "--rescore" in caught.value.hint


@pytest.mark.parametrize(
    ("quantization", "sha256", "of"),
    [
        ("Q8_0", "b", NOW),
        ("Q4_K_M", "b", "of an earlier conversion to Q4_K_M"),
        ("Q4_K_M", "a", "of this GGUF, but ended before it was recorded"),
    ],
)
def test_of_what_a_report_is(run: RunDirectory, quantization: str, sha256: str, of: str) -> None:
    converted(run, quantization, sha256)
    found = earlier_report(run)
    assert found is not None
    assert found.of == of
    assert found.describe("mine") == f"The benchmark is {of}: tuneserve bench --run mine --rescore"


def test_of_a_run_trained_again(run: RunDirectory) -> None:
    with run.stage("train"):
        pass
    found = earlier_report(run)
    assert found is not None
    assert found.of == "of Q4_K_M of an earlier training; the run is not converted now"
    assert found.describe("mine").endswith("tuneserve convert --run mine")


def test_a_report_that_the_record_has_is_not_earlier(run: RunDirectory) -> None:
    with run.stage("bench"):
        pass
    assert earlier_report(run) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}', '{"verdict": "better"}'])
def test_of_a_damaged_report_nothing_is_told(run: RunDirectory, text: str) -> None:
    (run.bench / "report.json").write_text(text)
    assert earlier_report(run) is None
    with pytest.raises(OutputExistsError):
        run_bench(run, Recipe())


def test_lists_tell_the_earlier_verdict_as_such(run: RunDirectory, tuneserve: Runner) -> None:
    again = f"The benchmark is {NOW}: tuneserve bench --run mine --rescore"
    shown = tuneserve("show", "mine", cwd=Path.cwd())
    assert again in shown.stderr
    assert "mine is what it is." in shown.stderr
    listed = tuneserve("ls", cwd=Path.cwd())
    assert f"mine: {again}" in listed.stderr
    assert "→ 96.7)" in listed.stderr
    figures = json.loads(tuneserve("ls", "--json", cwd=Path.cwd()).stdout)["runs"][0]
    assert figures["earlier_report"]["of"] == NOW
    assert "accuracy_tuned" not in figures["figures"]
    RunDirectory.named("other").save_settings(Recipe())
    compared = tuneserve("compare", "mine", "other", cwd=Path.cwd())
    assert f"mine: {again}" in compared.stderr
    reported = tuneserve("report", "mine", "--markdown", "runs.md", cwd=Path.cwd())
    assert f"mine: this benchmark is {NOW}" in reported.stderr
    assert f"| mine ({NOW}) |" in Path("runs.md").read_text()


def test_the_page_tells_the_earlier_verdict_as_such(run: RunDirectory) -> None:
    view = run_view(run)
    assert view["bench"] == [
        f"The benchmark is {NOW}: tuneserve bench --run mine --rescore", "mine is what it is.",
    ]  # fmt: skip
    assert view["report"]
    (row,) = run_rows()
    assert row["right"].endswith(f"%, {NOW})")
