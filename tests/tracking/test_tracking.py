"""What trackers are told, read back from the real libraries' files."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.finetune.training.variants import make_small
from tests.support import ROOT, Runner
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.records import Record
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe
from tuneserve.tracking import Tracking, tracked
from tuneserve.tracking.figures import figures_of

SHA = "ab" * 32
RESULT: dict[str, Any] = {
    "held_out": {"eval": {"loss": 0.5, "tokens": 40}},
    "losses": {"eval": [[0, 1.0]]},
    "files": {"adapter/adapter_model.safetensors": SHA},
    "settings": {"r": 8},
    "verdict": "better",
    "verification": [
        {"contract": "token ids", "passed": True, "detail": "all", "figures": {"texts": 12}}
    ],
    "none": None,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)
    for name in ("TRACKIO_DIR", "TUNESERVE_RUNS"):
        monkeypatch.delenv(name, raising=False)
    return RunDirectory.named("a")


def recipe(*trackers: str, **more: Any) -> Recipe:
    return Recipe.model_validate({"train": {"r": 8}, "tracking": {"track": trackers, **more}})


def train(run: RunDirectory, given: Recipe, first: int = 1) -> None:
    """A stage with two steps, as a training reports them."""
    with tracked(given, run, "train") as tracking:
        with run.alone(), run.stage("train") as running:
            for step in (first, first + 1):
                tracking.scalars({"loss/train": 1.0 / step, "memory, GiB": 2.0}, step)
            running.result = Record.model_validate(RESULT)
        tracking.finish()


def test_a_result_is_taken_apart_into_figures_and_hashes() -> None:
    figures, texts = figures_of(
        {**RESULT, "odd": {"a,b": 1, "long": "x" * 301}, "nan": float("nan")}
    )
    assert figures == {
        "held_out/eval/loss": 0.5, "held_out/eval/tokens": 40.0,
        "verification/token ids/passed": 1.0, "verification/token ids/texts": 12.0, "odd/a_b": 1.0,
    }  # fmt: skip
    assert texts == {"files/adapter/adapter_model.safetensors": SHA, "verdict": "better"}


def test_mlflow_has_curve_settings_figures_and_hashes(run: RunDirectory) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    train(run, recipe("mlflow", track_project="p"))
    client = MlflowClient(f"sqlite:///{Path('runs/mlflow.db').absolute()}")
    experiment = client.get_experiment_by_name("p")
    (found,) = client.search_runs([experiment.experiment_id])
    curve = client.get_metric_history(found.info.run_id, "loss/train")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5)]
    assert found.data.metrics["memory GiB"] == 2.0
    assert found.data.params["train.r"] == "8"
    assert found.data.metrics["held_out/eval/loss"] == 0.5
    assert found.data.tags["files/adapter/adapter_model.safetensors"] == SHA
    assert found.data.tags["tuneserve.stage"] == "train"
    assert (found.info.run_name, found.info.status) == ("a-train", "FINISHED")

    # A training that goes on is the same tracked run; one that starts afresh is another.
    train(run, recipe("mlflow", track_project="p"), first=3)
    (same,) = client.search_runs([experiment.experiment_id])
    assert len(client.get_metric_history(same.info.run_id, "loss/train")) == 4
    tracking = Tracking(recipe("mlflow", track_project="p"), run, "train", anew=True)
    tracking.scalars({"loss/train": 1.0}, 1)
    tracking.close(failed=True)
    states = {one.info.status for one in client.search_runs([experiment.experiment_id])}
    assert states == {"FINISHED", "FAILED"}


def test_wandb_writes_files_offline(run: RunDirectory) -> None:
    wandb = pytest.importorskip("wandb")
    train(run, recipe("wandb"))
    number = json.loads((run.root / "tracking.json").read_text())["wandb"]
    (folder,) = Path("runs/wandb").glob(f"offline-run-*-{number}")
    (file,) = folder.glob("*.wandb")
    parts = (b"loss/train", b"held_out/eval/loss", SHA.encode(), b"train.r")
    deadline = time.monotonic() + 30  # a process of W&B's own writes it
    while not all(part in file.read_bytes() for part in parts):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert wandb.run is None


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_writes_files(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    train(run, recipe("trackio"))  # where it writes is settled when it is imported
    assert capsys.readouterr().out == ""
    (file,) = Path("runs/trackio").glob("tuneserve*.db")
    with sqlite3.connect(file) as database:
        rows = [json.loads(row[0]) for row in database.execute("SELECT metrics FROM metrics")]
    assert [row["loss/train"] for row in rows if "loss/train" in row] == [1.0, 0.5]
    assert any(row.get("held_out/eval/loss") == 0.5 for row in rows)


def test_a_stage_that_was_done_before_is_not_tracked_again(run: RunDirectory) -> None:
    pytest.importorskip("mlflow")
    train(run, recipe())
    with tracked(recipe("mlflow"), run, "train") as tracking:
        tracking.finish()
    assert not Path("runs/mlflow.db").exists()


def test_a_training_that_begins_anew_may_find_a_damaged_record(run: RunDirectory) -> None:
    run.root.mkdir(parents=True, exist_ok=True)
    run.record_path.write_text("{")
    with pytest.raises(TuneserveError), tracked(Recipe(), run, "train"):
        pass
    with tracked(Recipe(), run, "train", anew=True):
        pass


def test_a_tracker_that_is_not_installed_is_one_error(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ['no-such-tracker>=1; extra == "wandb"']
    monkeypatch.setattr("tuneserve.extras.importlib.metadata.requires", lambda name: needed)
    with pytest.raises(UsageError, match=r"tracking with wandb needs more packages: pip install"):
        Tracking(recipe("wandb"), run, "train")
    assert not run.root.exists()


def test_a_server_that_is_not_there_is_told_before_anything_starts(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TuneserveError, match="MLflow can't be used there"):
        Tracking(recipe("mlflow", track_address="http://127.0.0.1:9"), run, "train")


def test_a_tracker_that_fails_is_a_warning_and_costs_no_training(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    given = recipe("mlflow")
    with tracked(given, run, "train") as tracking:
        with run.alone(), run.stage("train") as running:
            tracking.scalars({"loss/train": 1.0}, 1)
            Path("runs/mlflow.db").write_bytes(b"no database at all" * 100)
            running.result = Record.model_validate(RESULT)
        tracking.finish()
    assert capsys.readouterr().err.count("WARNING: mlflow: ") == 1
    assert run.read().stages["train"].result["verdict"] == "better"


def test_a_word_that_is_no_tracker_is_refused(tuneserve: Runner, tmp_path: Path) -> None:
    done = tuneserve("train", "--run", "a", "--track", "mlflo", cwd=tmp_path)
    assert done.returncode == 2
    assert "input should be 'mlflow', 'wandb' or 'trackio'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_training_is_tracked_step_by_step(demo_base: Path, tmp_path: Path) -> None:
    """A real training, as a user runs it, for two trackers at once."""
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    from mlflow.tracking import MlflowClient

    (tmp_path / "tiny").mkdir()
    make_small(demo_base, tmp_path / "tiny")
    rows = [{"instruction": f"Which colour has number {i}?", "output": "red"} for i in range(20)]
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # The W&B of this process leaves the address of its own service there.
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tuneserve", "train", "--run", "a", "--base", "tiny", "--file"),
            *("colours.jsonl", "--test-fraction", "0.2", "--eval-fraction", "0.2"),
            *("--least-held-out", "0", "--r", "4", "--max-seq-length", "64", "--batch-size", "2"),
            *("--max-steps", "2", "--evaluations", "1", "--compile", "false", "--no-preflight"),
            *("--track", "mlflow,wandb", "--json"),
        ],
        cwd=tmp_path, env={**own, "PYTHONPATH": f"{ROOT}:{':'.join(sys.path)}"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nothing is tracked there" not in done.stderr
    assert "tracked: mlflow, wandb" in done.stderr
    result = json.loads(done.stdout)
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tuneserve")
    (found,) = client.search_runs([experiment.experiment_id])
    for kind in ("train", "eval"):
        curve = client.get_metric_history(found.info.run_id, f"loss/{kind}")
        told = [(point.step, pytest.approx(point.value, abs=1e-4)) for point in curve]
        assert [tuple(pair) for pair in result["losses"][kind]] == told
    assert found.data.metrics["tokens/train/trained_tokens"] > 0
    (name,) = (name for name in result["files"] if name.endswith("adapter_model.safetensors"))
    assert found.data.tags[f"files/{name}"] == result["files"][name]
    assert list((tmp_path / "runs" / "wandb").glob("offline-run-*/*.wandb"))
