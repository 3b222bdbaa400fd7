"""Several runs side by side; a text measured from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tuneserve.bench.compare.results import HELD_OUT
from tuneserve.bench.compare.runs import compare_runs
from tuneserve.errors import UsageError
from tuneserve.run import RunDirectory

Runner = Callable[..., subprocess.CompletedProcess[str]]


def written_run(root: Path, name: str, wrong: set[int], **report: object) -> RunDirectory:
    """A run of which only the benchmark's files matter: 60 prompts, `wrong` ones answered so."""
    run = RunDirectory(root / "runs" / name)
    run.bench.mkdir(parents=True)
    run.update(stages={})
    content = {
        "run": name,
        "task": "exact",
        "confidence": 0.95,
        "accuracy": {
            "prompts": 60,
            "base": {"value": 0.5},
            "tuned": {"value": 1 - len(wrong) / 60},
        },
        "perplexity": {"tuned": {"value": 1.5}},
        "tuned": {"speed": {"generation": {"mean": 90.0}}, "size_bytes": 1 << 20},
        "verdict": {"sentence": f"{name} is what it is."},
        "provenance": {"test_sha256": "a"},
        **report,
    }
    (run.bench / "report.json").write_text(json.dumps(content))
    rows = [
        {
            "task": HELD_OUT,
            "id": str(n),
            "source": None,
            "tuned": {"score": float(n not in wrong)},
        }
        for n in range(60)
    ]
    # Answers to another task are no part of the comparison.
    rows.append({"task": "General", "id": "0", "source": None, "tuned": {"score": 0.0}})
    (run.bench / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_runs_are_paired_with_the_first(tmp_path: Path) -> None:
    first = written_run(tmp_path, "first", set(range(20)))
    better = written_run(tmp_path, "better", set(range(5)))
    alike = written_run(tmp_path, "alike", set(range(1, 21)))
    other = written_run(tmp_path, "other", set(), provenance={"test_sha256": "b"})
    rows = compare_runs([first, better, alike, other])
    assert rows[0].difference is None
    assert rows[1].difference is not None
    assert rows[1].difference.value == pytest.approx(15 / 60)
    assert rows[1].difference.low > 0
    # 15 won and none lost: 2 * 2^-15, doubled as the smaller of two p.
    assert rows[1].p == pytest.approx(2 * 2 * 2**-15)
    assert rows[2].difference is not None
    assert rows[2].difference.low < 0 < rows[2].difference.high
    assert rows[2].p == 1.0
    assert rows[3].difference is None
    assert rows[3].why_not == "other held-out prompts"


def test_a_run_without_benchmark_is_named(tmp_path: Path) -> None:
    run = written_run(tmp_path, "first", set())
    shutil.rmtree(run.bench)
    with pytest.raises(UsageError, match="no benchmark"):
        compare_runs([run])


def test_the_report_command(tmp_path: Path, tuneserve: Runner) -> None:
    for name, wrong in (("one", {1, 2}), ("two", {2})):
        written_run(tmp_path, name, wrong)
    shown = tuneserve("report", "one", "two", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "two is what it is." in shown.stderr
    data = json.loads(tuneserve("report", "one", "two", "--json", cwd=tmp_path).stdout)
    assert data[1]["difference"]["value"] == pytest.approx(1 / 60)
    absent = tuneserve("report", "one", "three", cwd=tmp_path)
    assert absent.returncode == 2
    assert "no such run" in absent.stderr


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
