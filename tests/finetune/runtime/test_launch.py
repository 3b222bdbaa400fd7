"""Training that starts itself in several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.finetune.training.variants import make_small
from tests.support import ROOT
from tuneserve.errors import UsageError
from tuneserve.finetune.memory.schedule import plan_steps, shared_out
from tuneserve.finetune.runtime.launch import Machines, as_torchrun, processes_wanted
from tuneserve.finetune.runtime.shards import check_divisible
from tuneserve.finetune.training.result import TrainResult
from tuneserve.finetune.training.stage import train
from tuneserve.run import RunDirectory
from tuneserve.settings import Recipe, TrainSettings

# What `tuneserve train --gpus N` does where there are GPUs.
LAUNCH = """
import sys
from tuneserve.finetune.runtime.launch import Machines, launch
from tuneserve.errors import TuneserveError
try:
    sys.exit(launch(sys.argv[2:], int(sys.argv[1]), Machines()))
except TuneserveError as error:
    print(error.render(), file=sys.stderr)
    sys.exit(1)
"""
OPTIONS = (
    "train", "--file", "colours.jsonl", "--compile", "false", "--max-seq-length", "64",
    "--r", "4", "--batch-size", "4", "--gradient-accumulation", "2", "--evaluations", "1",
    "--near-duplicates", "1", "--precision", "fp32", "--no-preflight", "--least-held-out", "17",
)  # fmt: skip
# Within an epoch: several processes fill up its last step.
STEPS = ("--max-steps", "13", "--evaluations", "3", "--checkpoint-minutes", "1e-6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo_base: Path) -> Path:
    found = tmp_path_factory.mktemp("several")
    (found / "base").mkdir()
    make_small(demo_base, found / "base")
    colours = ("red", "green", "blue", "yellow", "black")
    rows = [
        {"instruction": f"What is the colour of number {n}?", "output": f"{colours[n % 5]} {n}"}
        for n in range(160)
    ]
    (found / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def started(folder: Path, processes: int, *options: str) -> subprocess.Popen[str]:
    """The training, in so many processes; in one without a launcher."""
    command = ["-m", "tuneserve"] if processes == 1 else ["-c", LAUNCH, str(processes)]
    return subprocess.Popen(
        [sys.executable, *command, *OPTIONS, "--base", str(folder / "base"), *options],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def done(folder: Path, processes: int, *options: str) -> tuple[int, str]:
    process = started(folder, processes, *options)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def wait_for_a_step(folder: Path, run: str, process: subprocess.Popen[str]) -> None:
    """Return when a training that writes a checkpoint after each step has made some."""
    deadline = time.monotonic() + 200
    while len(list((folder / "runs" / run / "checkpoints").glob("checkpoint-*"))) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def losses(folder: Path, run: str, of: str) -> list[float]:
    result = RunDirectory(folder / "runs" / run).read().stages["train"].result
    return [loss for _, loss in result["losses"][of]]


def assert_trained_alike(folder: Path, run: str, other: str) -> None:
    """Losses and adapters are the same within rounding."""
    for of in ("train", "eval"):
        np.testing.assert_allclose(losses(folder, run, of), losses(folder, other, of), atol=1e-4)
    found, wanted = (
        load_file(folder / "runs" / name / "adapter" / "adapter_model.safetensors")
        for name in (run, other)
    )
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def alone(folder: Path) -> str:
    """A run of one process, STEPS steps."""
    code, said = done(folder, 1, "--run", "one", *STEPS)
    assert code == 0, said
    return "one"


@pytest.mark.slow
def test_two_processes_train_as_one_does(folder: Path, alone: str) -> None:
    code, said = done(folder, 2, "--run", "two", *STEPS)
    assert code == 0, said
    assert "2 processes here, as by: torchrun --nproc-per-node=2 --standalone" in said
    assert "Traceback" not in said
    assert said.count("next: tuneserve convert --run two") == 1
    assert_trained_alike(folder, "two", alone)
    # Also where the examples do not share out evenly, each counts once in an evaluation.
    one, two = (
        RunDirectory(folder / "runs" / name).require_stage("train", TrainResult)
        for name in (alone, "two")
    )
    assert one.examples["eval"] % 4 == 1
    assert two.held_out["eval"].tokens == one.held_out["eval"].tokens
    assert abs(two.losses.eval[0][1] - one.losses.eval[0][1]) < 1e-6


@pytest.mark.slow
def test_a_stop_is_saved_by_all_and_one_process_goes_on(folder: Path) -> None:
    options = ("--run", "stopped", "--max-steps", "100", "--checkpoint-minutes", "1e-6")
    process = started(folder, 2, *options)
    wait_for_a_step(folder, "stopped", process)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "it is saved" in rest
    assert "Traceback" not in rest
    code, said = done(folder, 1, *options, "--skip-done")
    assert code == 0, said
    assert "going on from checkpoint-" in said


@pytest.mark.slow
def test_a_killed_process_ends_the_others(folder: Path) -> None:
    process = started(
        folder, 2, "--run", "killed", "--max-steps", "100000", "--checkpoint-minutes", "1e-6"
    )
    wait_for_a_step(folder, "killed", process)
    workers = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(workers) >= 2
    os.kill(int(workers[-1]), signal.SIGKILL)
    began = time.monotonic()
    rest, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == 1
    assert "was killed (SIGKILL); the others were ended" in rest


@pytest.mark.slow
def test_what_is_wrong_is_told_once(folder: Path) -> None:
    code, said = done(
        folder, 2, "--run", "wrong", "--batch-size", "3", "--gradient-accumulation", "1"
    )
    assert code == 2, said
    assert said.count("3 examples a step") == 1
    assert "Traceback" not in said


def test_the_examples_of_a_step_are_shared_out() -> None:
    settings = TrainSettings(batch_size=8, gradient_accumulation=2, epochs=2)
    for processes, size, accumulation in ((1, 8, 2), (2, 8, 1), (4, 4, 1), (8, 2, 1)):
        share = shared_out(settings, processes)
        assert (share.batch_size, share.gradient_accumulation) == (size, accumulation)
        assert plan_steps(share, 161, devices=processes) == plan_steps(settings, 161)
    share = shared_out(TrainSettings(batch_size=6), 4 - 1)
    assert (share.batch_size, share.gradient_accumulation) == (2, 1)
    with pytest.raises(UsageError, match="16 examples a step"):
        shared_out(settings, 3)


def test_no_process_is_started_where_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes_wanted(1, Machines()) == 0
    monkeypatch.setenv("RANK", "1")
    assert processes_wanted(4, Machines()) == 0


def test_the_line_is_torchruns() -> None:
    arguments = ("train", "--config", "my recipe.toml", "--gpus", "2")
    assert as_torchrun(arguments, 2, Machines()) == (
        "torchrun --nproc-per-node=2 --standalone --no-python tuneserve train --config "
        "'my recipe.toml' --gpus 2"
    )
    assert as_torchrun(("train",), 8, Machines(2, 1, "ten:1234")) == (
        "torchrun --nproc-per-node=8 --nnodes=2 --node-rank=1 --master-addr=ten "
        "--master-port=1234 --no-python tuneserve train"
    )


@pytest.mark.parametrize("wrong", [(1, 1, ""), (1, 0, "ten:1"), (2, 0, ""), (2, 2, "ten:1")])
def test_machines_that_can_not_be(wrong: tuple[int, int, str]) -> None:
    with pytest.raises(UsageError):
        Machines(*wrong)


@pytest.mark.parametrize(
    "wrong",
    ["abc", "abc:", "abc:xyz", "abc:0", "abc:65536", ":29500", "http://abc:29500", "::1:29500"],
)
def test_a_place_to_meet_is_a_host_and_a_port(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"--rendezvous: .*\n.*HOST:PORT"):
        Machines(2, 0, wrong)
    assert Machines(2, 0, "[::1]:29500").meeting == "[::1]:29500"


def test_a_base_to_divide_and_nobody_to_divide_it_with_is_told_first(tmp_path: Path) -> None:
    """Before the examples are read, and a base is fetched or imported."""
    recipe = Recipe.model_validate(
        {"data": {"file": tmp_path / "none.jsonl"}, "train": {"shard": True}}
    )
    with pytest.raises(UsageError, match=r"train\.shard: one process has nobody.*\n.*--gpus all"):
        train(recipe, RunDirectory(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_divided_base_trains_as_a_whole_one_and_goes_on(folder: Path, alone: str) -> None:
    options = ("--run", "divided", "--shard", *STEPS)
    process = started(folder, 2, *options)
    wait_for_a_step(folder, "divided", process)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    code, said = done(folder, 2, *options)
    assert code == 0, said
    assert "going on from checkpoint-" in said
    assert "Traceback" not in said
    assert said.count("next: tuneserve convert --run divided") == 1
    assert_trained_alike(folder, "divided", alone)


@pytest.mark.parametrize(
    "wrong", [{"shard": True}, {"shard": True, "gpus": 2, "quantization_aware": True}]
)
def test_what_can_not_be_divided(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        check_divisible(Recipe(train=TrainSettings(**wrong)))
    assert error.value.where == "train.shard"
    check_divisible(Recipe(train=TrainSettings(shard=True, gpus=2)))
