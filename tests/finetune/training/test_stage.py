"""Training end to end, as a user runs it: real base, real Unsloth, few and short examples."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, ModulePaths
from tuneserve.finetune.training.checkpoints import is_checkpoint

Train = Callable[..., subprocess.CompletedProcess[str]]
SHORT = ("--max-seq-length", "64", "--r", "4", "--learning-rate", "1e-3", "--batch-size", "2")


def command(workspace: Path, run: str, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "tuneserve", "train", "--file", "colours.jsonl", "--run", run),
        *("--test-fraction", "0.2", "--eval-fraction", "0.2", "--dropout", "0.1"),
        *("--max-steps", "6", "--evaluations", "2", *SHORT, *options),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def workspace(module_paths: ModulePaths) -> Path:
    directory = module_paths.mktemp("train")
    rows = [
        {"instruction": f"Which colour has number {i}?", "output": ("red", "green", "blue")[i % 3]}
        for i in range(40)
    ]
    (directory / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows[0]["instruction"] += "\x16"
    (directory / "control.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


@pytest.fixture(scope="module")
def train(workspace: Path) -> Train:
    def call(run: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(workspace, run, *options), cwd=workspace, env=environment(),
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    return call


@pytest.fixture(scope="module")
def finished(train: Train) -> dict[str, Any]:
    """The result of a training that was left alone."""
    done = train("whole", "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    result["stderr"] = done.stderr
    return result


def test_a_training_leaves_what_the_next_stages_need(
    workspace: Path, finished: dict[str, Any]
) -> None:
    run = workspace / "runs" / "whole"
    checkpoints = list((run / "checkpoints").glob("checkpoint-*"))
    assert checkpoints
    assert all(map(is_checkpoint, checkpoints))  # every file is known: `clean` removes them
    adapter = {path.name for path in (run / "adapter").iterdir()}
    assert adapter == {
        "adapter_model.safetensors", "adapter_config.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    record = json.loads((run / "run.json").read_text())
    result = record["stages"]["train"]["result"]
    assert result["base"]["spec"] == "demo"
    assert result["base"]["name"] == "SmolLM2-135M-Instruct"
    for name, count in result["examples"].items():
        lines = (run / "data" / f"{name}.jsonl").read_text().splitlines()
        assert len(lines) == count > 0
        assert json.loads(lines[0])["messages"][-1]["role"] == "assistant"
    assert record["settings"]["train"]["r"] == 4
    assert not (workspace / "unsloth_compiled_cache").exists()


def test_the_model_learns_and_the_figures_say_so(finished: dict[str, Any]) -> None:
    evaluations = finished["losses"]["eval"]
    assert [step for step, _ in evaluations] == [0, 3, 6]
    assert evaluations[-1][1] < evaluations[0][1] - 0.5
    assert finished["steps"] == {"planned": 6, "done": 6, "best": 6, "resumed_from": None}
    held_out = finished["held_out"]["eval"]
    assert held_out["loss"] == pytest.approx(evaluations[-1][1], abs=1e-5)
    assert held_out["tokens"] == finished["tokens"]["eval"]["trained_tokens"]
    assert finished["tokens_per_second"] > 0
    assert finished["peak_memory"]["resident_bytes"] > 2**29


def test_the_log_has_progress_and_no_library_noise(finished: dict[str, Any]) -> None:
    log = finished["stderr"]
    assert "step 6/6" in log
    assert "tokens/s" in log
    whole, later = finished["tokens_per_second"], finished["steady_tokens_per_second"]
    told = re.search(
        r"trained 6 steps in [^(]*\(([\d,]+) tokens/s(?:; ([\d,]+) after the first)?", log
    )
    assert told is not None
    assert told[1] == f"{whole:,.0f}"
    assert told[2] == (f"{later:,.0f}" if later > 1.1 * whole else None)
    for noise in ("Unsloth 20", "Warning", "pytree", "it/s]", "{'loss'", "bitsandbytes"):
        assert noise not in log


def test_a_finished_run_is_not_overwritten(train: Train, finished: dict[str, Any]) -> None:
    again = train("whole")
    assert again.returncode == 2
    assert "already exists" in again.stderr
    assert "--force" in again.stderr
    skipped = train("whole", "--skip-done", "--json")
    assert skipped.returncode == 0
    assert json.loads(skipped.stdout)["losses"] == finished["losses"]
    changed = train("whole", "--skip-done", "--seed", "1")
    assert changed.returncode == 2


def test_stopped_and_killed_a_training_goes_on_to_the_same_losses(
    workspace: Path, train: Train, finished: dict[str, Any]
) -> None:
    checkpoints = workspace / "runs" / "cut" / "checkpoints"
    # The check of a conversion is that of the training that was left alone.
    every_step = ("--checkpoint-minutes", "1e-6", "--no-preflight")

    def start_and_signal(number: int, after: str) -> tuple[int, str]:
        process = subprocess.Popen(
            command(workspace, "cut", *every_step), cwd=workspace, env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 300
        while not (checkpoints / after / "trainer_state.json").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, log = process.communicate(timeout=120)
        return process.returncode, log

    code, log = start_and_signal(signal.SIGINT, "checkpoint-1")
    assert code == 130
    assert "it is saved" in log
    assert "Run the same command again" in log
    assert not (workspace / "runs" / "cut" / "adapter").exists()

    code, _ = start_and_signal(signal.SIGKILL, "checkpoint-4")
    assert code == -signal.SIGKILL
    assert all(map(is_checkpoint, checkpoints.glob("checkpoint-*")))

    other = train("cut", *every_step, "--learning-rate", "1e-4")
    assert other.returncode == 2
    assert "train.learning_rate = 0.001 instead of 0.0001" in other.stderr

    resumed = train("cut", *every_step, "--json")
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout)
    assert result["steps"]["resumed_from"] >= 4
    for kind in ("train", "eval"):
        assert [s for s, _ in result["losses"][kind]] == [s for s, _ in finished["losses"][kind]]
        for (_, resumed_loss), (_, loss) in zip(
            result["losses"][kind], finished["losses"][kind], strict=True
        ):
            assert resumed_loss == pytest.approx(loss, abs=1e-5)


def test_stopped_before_its_first_step_a_training_does_not_evaluate_to_the_end(
    workspace: Path,
) -> None:
    """One example at a time, of nearly all that are there, takes longer than a signal's way."""
    options = ("--eval-fraction", "0.7", "--test-fraction", "0", "--batch-size", "1")
    process = subprocess.Popen(
        command(workspace, "early", *options), cwd=workspace, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (workspace / "runs" / "early" / "progress.jsonl").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)  # signals are handled as soon as the file is there
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 130, log
    assert "stopped before the first step: there is nothing to save" in log
    assert "step 0: eval loss" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--file", "none.jsonl"), "no such data file"),
        (("--base", "./nowhere"), "no such base model"),
        (("--target-modules", "q_proj,q_prol"), "no module 'q_prol'"),
        (("--max-seq-length", "16"), "no token to train on"),
        (("--optimizer", "adamw_8bit"), "the 8-bit optimizer needs a GPU"),
        (("--precision", "fp16"), "fp16 needs a GPU; a CPU takes bf16 or fp32"),
        (("--file", "control.jsonl"), "control.jsonl:1: '\\x16' (U+0016) has no token"),
    ],
)
def test_bad_input_is_one_clear_error(
    workspace: Path, train: Train, options: tuple[str, ...], message: str
) -> None:
    """Before the libraries are imported, which takes longer than all of it."""
    failed = train("bad", *options)
    assert failed.returncode == 2
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "loading Unsloth" not in failed.stderr
    assert not (workspace / "runs" / "bad" / "adapter").exists()


def test_without_the_check_before_it_a_training_refuses_examples_itself(train: Train) -> None:
    failed = train("bad", "--no-preflight", "--max-seq-length", "16")
    assert failed.returncode == 2
    assert "no token to train on" in failed.stderr
    assert "Traceback" not in failed.stderr
