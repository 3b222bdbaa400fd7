"""A whole sweep as a user runs it: real trainings of a tiny model, killed and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.finetune.training.variants import make_small
from tests.support import ROOT, ModulePaths
from tuneserve.finetune.training.progress_file import read_progress
from tuneserve.recipe import load_recipe

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow

RECIPE = """
[model]
base = "tiny"
max_seq_length = 64
[data]
file = "colours.jsonl"
test_fraction = 0.2
eval_fraction = 0.3
least_held_out = 0
[train]
r = 4
target_modules = ["q_proj", "v_proj"]
batch_size = 4
max_steps = 4
evaluations = 2
learning_rate = 1e-5
compile = false
[convert]
preflight = false
"""
OVER = (
    *("--over", "train.target_modules=q_proj+v_proj,q_prol"),
    *("--over", "train.learning_rate=2e-2,1e-5,1"),
)


@pytest.fixture(scope="module")
def workspace(module_paths: ModulePaths, demo_base: Path) -> Path:
    folder = module_paths.mktemp("sweep")
    (folder / "tiny").mkdir()
    make_small(demo_base, folder / "tiny")
    rows = [{"instruction": f"Which colour has number {i}?", "output": "red"} for i in range(60)]
    (folder / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "s.toml").write_text(RECIPE)
    return folder


def start(workspace: Path, *options: str, recipe: str = "s.toml") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tuneserve", "sweep", recipe, *options, "--json"],
        cwd=workspace, env={**os.environ, "PYTHONPATH": f"{ROOT}:{':'.join(sys.path)}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(workspace: Path) -> dict[str, Any]:
    """A sweep that was killed while its second trial was trained, and then gone on with."""
    process = start(workspace, *OVER, "--trials", "6")
    path = workspace / "runs" / "s-1" / "progress.jsonl"
    deadline = time.monotonic() + 240
    while not ((progress := read_progress(path)) and progress.curves.eval):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, killed = process.communicate(timeout=60)
    first = (workspace / "runs" / "s-sweep" / "trial-0.log").stat().st_mtime_ns
    process = start(workspace, *OVER, "--trials", "6")
    out, log = process.communicate(timeout=240)
    assert process.returncode == 0, log
    assert "Traceback" not in log
    result: dict[str, Any] = json.loads(out)
    unchanged = (workspace / "runs" / "s-sweep" / "trial-0.log").stat().st_mtime_ns == first
    return {**result, "killed": killed, "log": log, "first_unchanged": unchanged}


def test_killed_it_goes_on_with_the_trial_at_hand(finished: dict[str, Any]) -> None:
    assert "trial 1 begins" in finished["killed"]
    assert "trial 1 goes on" in finished["log"]
    assert "trial 0" not in finished["log"].partition("Sweep s")[0]
    assert finished["first_unchanged"]
    assert finished["method"] == "grid"
    assert [trial["number"] for trial in finished["trials"]] == list(range(6))


def test_trials_are_done_pruned_or_failed_with_their_reason(finished: dict[str, Any]) -> None:
    trials = {json.dumps(list(trial["varied"].values())): trial for trial in finished["trials"]}
    first = finished["trials"][0]
    assert first["varied"] == {
        "train.target_modules": ["q_proj", "v_proj"], "train.learning_rate": 1e-5,
    }  # fmt: skip
    best = trials['[["q_proj", "v_proj"], 0.02]']
    wild = trials['[["q_proj", "v_proj"], 1.0]']
    assert (first["state"], best["state"], wild["state"]) == ("complete", "complete", "pruned")
    assert [step for step, _ in first["evaluations"]] == [2, 4]
    assert [step for step, _ in wild["evaluations"]] == [2]
    assert finished["best"] == best["number"]
    assert best["eval_loss"] < first["eval_loss"]
    failed = [trial for trial in finished["trials"] if trial["state"] == "failed"]
    assert len(failed) == 3
    assert all("no module 'q_prol'" in trial["reason"] for trial in failed)


def test_the_best_is_compared_over_its_examples_and_its_recipe_can_be_trained(
    workspace: Path, finished: dict[str, Any]
) -> None:
    compared = finished["comparison"]
    lines = (workspace / "runs" / "s-0" / "data" / "eval.jsonl").read_text().splitlines()
    assert compared["examples"] == compared["sources"] == len(lines)
    assert compared["candidates"] == 2  # the pruned one was a candidate, the failed ones were not
    assert compared["ratio"] < 1
    assert "for all 2 candidates together" in finished["sentence"]
    recorded = json.loads((workspace / "runs" / "s-0" / "data" / "eval_losses.json").read_text())
    tokens = sum(example["tokens"] for example in recorded["examples"])
    mean = sum(one["tokens"] * one["loss"] for one in recorded["examples"]) / tokens
    assert mean == pytest.approx(finished["trials"][0]["eval_loss"], abs=2e-3)
    tables = load_recipe(workspace / finished["recipe"])
    written = load_recipe(workspace / "s.toml")
    assert tables == {**written, "train": {**written["train"], "learning_rate": 2e-2}}


def test_losers_leave_no_adapters_and_no_checkpoints(
    workspace: Path, finished: dict[str, Any]
) -> None:
    runs = {trial["number"]: workspace / "runs" / trial["run"] for trial in finished["trials"]}
    best = finished["best"]
    assert (runs[best] / "adapter" / "adapter_model.safetensors").is_file()
    for number, run in runs.items():
        assert not (run / "checkpoints").exists()
        assert (run / "adapter").exists() == (number == best)


def test_a_finished_sweep_tells_its_result_again_and_another_is_refused(
    workspace: Path, finished: dict[str, Any]
) -> None:
    process = start(workspace, *OVER, "--trials", "6")
    out, _ = process.communicate(timeout=60)
    assert json.loads(out)["trials"] == finished["trials"]
    process = start(workspace, "--over", "train.r=2,4", "--learning-rate", "1e-3")
    _, log = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "a sweep that was begun otherwise is here" in log
    assert "train.learning_rate was 1e-05, is 0.001" in log
    assert "--over was train.target_modules=q_proj+v_proj,q_prol" in log


def test_a_recipe_that_can_not_be_trained_ends_the_sweep(workspace: Path) -> None:
    text = RECIPE.replace('"v_proj"', '"q_prol"')
    (workspace / "wrong.toml").write_text(text)
    process = start(workspace, "--over", "train.r=2,4", recipe="wrong.toml")
    _, log = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "the recipe as it is can't be trained: " in log
    assert "no module 'q_prol'" in log


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--evaluations", "0"), "train.evaluations: trials are chosen by the eval loss"),
        (("--eval-fraction", "0"), "data.eval_fraction: trials are chosen by the loss on the eval"),
    ],
)
def test_a_recipe_without_held_out_losses_is_refused(
    workspace: Path, option: tuple[str, str], message: str
) -> None:
    process = start(workspace, "--over", "train.r=2,4", "--name", "none", *option)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in log
    assert not (workspace / "runs" / "none-sweep").exists()
