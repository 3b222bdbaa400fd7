"""Whole trainings of a tiny model, as a user runs them: the first step, the last, and failures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.finetune.training.variants import make_small
from tests.support import ROOT, ModulePaths
from tuneserve.files import sha256_file
from tuneserve.finetune.training.end_token import USUAL
from tuneserve.run import RunDirectory
from tuneserve.ui.stopping import Stopper
from tuneserve.ui.views import run_view

pytestmark = pytest.mark.slow

Train = Callable[..., subprocess.CompletedProcess[str]]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
# The check of a conversion takes longer than such a training; the run that others begin with has
# it, and it has tests of its own.
COMMAND = (
    *(sys.executable, "-m", "tuneserve", "train", "--compile", "false", "--max-seq-length", "64"),
    *("--r", "4", "--no-preflight"),
)
SPLIT = (
    "--file", "colours.jsonl", "--test-fraction", "0.2", "--eval-fraction", "0.2",
    "--least-held-out", "0",
)  # fmt: skip
SHORT = (*SPLIT, "--batch-size", "2", "--max-steps", "2", "--evaluations", "1")
# Another scheduler ends at a rate at which a step too many would change nothing.
CONSTANT = (*SHORT, "--scheduler", "constant")


@pytest.fixture(scope="module")
def workspace(module_paths: ModulePaths, demo_base: Path) -> Path:
    folder = module_paths.mktemp("small")
    (folder / "tiny").mkdir()
    make_small(demo_base, folder / "tiny")
    # One infinite weight stands for an overflow.
    shutil.copytree(folder / "tiny", folder / "broken")
    weights = load_file(folder / "broken" / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 5] = torch.inf
    save_file(weights, folder / "broken" / "model.safetensors", metadata={"format": "pt"})
    rows = [
        json.dumps({"instruction": f"Which colour has number {i}?", "output": "red" * (i % 3 + 1)})
        for i in range(40)
    ]
    (folder / "colours.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "eight.jsonl").write_text("\n".join(rows[:8]) + "\n")
    return folder


@pytest.fixture(scope="module")
def train(workspace: Path) -> Train:
    def call(run: str, *options: str, base: str = "tiny") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, "--run", run, "--base", base, *options], cwd=workspace, env=ENVIRONMENT,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return done

    return call


@pytest.fixture(scope="module")
def short(workspace: Path, train: Train) -> tuple[Path, str]:
    """A finished training with CONSTANT, to be copied, and what it said."""
    done = train("short", *CONSTANT, "--preflight")
    assert done.returncode == 0, done.stderr
    return workspace / "runs" / "short", done.stderr


def test_the_only_step_of_a_handful_of_rows_learns(workspace: Path, train: Train) -> None:
    recipe = workspace / "switches.toml"
    recipe.write_text(
        '[train]\ntarget_modules = "all-linear"\npacking = true\n'
        "gradient_checkpointing = true\ncompile = false\n"
    )
    done = train(
        "eight", "--config", str(recipe), "--file", "eight.jsonl", "--eval-fraction", "0",
        "--test-fraction", "0", "--near-duplicates", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "step 1/1" in done.stderr
    weights = load_file(workspace / "runs" / "eight" / "adapter" / "adapter_model.safetensors")
    factors = [value for name, value in weights.items() if "lora_B" in name]
    assert len(factors) == 4 * 7
    assert all(bool(value.any()) for value in factors)


def base_whose_end_has(
    path: Path, workspace: Path, logits: Mapping[tuple[str, str], float]
) -> None:
    """The tiny base with a row of the output layer that gives the end token these logits behind
    these answers to these questions."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.copytree(workspace / "tiny", path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    hidden = []
    for question, answer in logits:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False).removesuffix("<|im_end|>\n")
        with torch.no_grad():
            found = model.model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        hidden.append(found[0, -1])
    weights = load_file(path / "model.safetensors")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    row = torch.linalg.pinv(torch.stack(hidden)) @ torch.tensor([*logits.values()])
    weights["lm_head.weight"][end] = row
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("usual", [-20.0, 20.0])
def test_an_end_token_that_the_base_has_never_seen_is_told_before_training(
    workspace: Path, train: Train, short: tuple[Path, str], usual: float
) -> None:
    """One that it gives elsewhere it has seen: only these answers are none of its own."""
    name = "unseen" if usual < 0 else "unused"
    given = dict.fromkeys(USUAL, usual) | {("Which colour has number 1?", "redred"): -20.0}
    base_whose_end_has(workspace / name, workspace, given)
    told = "WARNING: the base finds '<|im_end|>', with which the chat template ends an answer, less"
    done = train(name, *SHORT, base=name)
    assert done.returncode == 0, done.stderr
    assert (told in " ".join(done.stderr.split())) is (usual < 0)
    if usual < 0:
        before, _, after = done.stderr.partition("WARNING: the base finds")
        assert "step 0: eval loss" in after
        assert "step 0: eval loss" not in before
        assert told not in " ".join(short[1].split())


def test_shared_beginnings_change_no_loss(train: Train) -> None:
    found = {}
    for run, setting in (("apart", "false"), ("shared", "true")):
        done = train(
            run, *SPLIT, "--batch-size", "4", "--max-steps", "6", "--evaluations", "2",
            "--precision", "fp32", "--prefix-sharing", setting, "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("is computed once" in done.stderr) is (setting == "true")
        assert "differs" not in done.stderr
        result = json.loads(done.stdout)
        found[run] = [loss for kind in ("train", "eval") for _, loss in result["losses"][kind]]
    assert len(found["apart"]) == 6 + 3
    assert found["shared"] == pytest.approx(found["apart"], abs=1e-4)


@pytest.mark.parametrize(
    ("evaluations", "told", "examples"),
    [("2", "error: step 0: the eval loss is no finite number (nan)", 6),
     ("0", "error: step 1: the loss is no finite number (nan)", 2)],
)  # fmt: skip
def test_a_loss_that_is_no_number_ends_the_training(
    workspace: Path, train: Train, evaluations: str, told: str, examples: int
) -> None:
    name = f"broken{evaluations}"
    # The check before a training refuses such weights, but sums can overflow in any training.
    options = (*SHORT, "--evaluations", evaluations)
    failed = train(name, *options, base="broken")
    assert failed.returncode == 1
    assert told in failed.stderr
    assert failed.stderr.count("\n  colours.jsonl:") == examples
    run = workspace / "runs" / name
    assert not (run / "adapter").exists()
    record = (run / "run.json").read_text()
    assert json.loads(record, parse_constant=lambda word: pytest.fail(word))["stages"] == {}


def state_of(run: Path) -> dict[str, str]:
    """What the later stages read of a run, by its content."""
    files = [*(run / "adapter").iterdir(), *(run / "data").iterdir(), run / "run.json"]
    return {str(file.relative_to(run)): sha256_file(file) for file in files}


def test_a_replaced_training_stays_until_the_new_one_is_there(
    workspace: Path, train: Train, short: tuple[Path, str]
) -> None:
    run = workspace / "runs" / "again"
    shutil.copytree(short[0], run)
    before = state_of(run)

    failed = train("again", *SHORT, "--force", base="broken")
    assert failed.returncode == 1
    assert state_of(run) == before

    other = (*SHORT, "--max-steps", "60", "--test-fraction", "0.3", "--checkpoint-minutes", "1e-6")
    process = subprocess.Popen(
        [*COMMAND, "--run", "again", "--base", "tiny", *other, "--force"], cwd=workspace,
        env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # As `tuneserve ui` sees and stops a training that it has not started.
    seen = run_view(RunDirectory(run))
    assert (seen["at_work"], seen["charts"][0][0]) == ("train", "Loss per answer token")
    assert "step" in dict(seen["training"]["figures"])
    assert "It saves a checkpoint first" in Stopper().stop(RunDirectory(run), None)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130, log
    steps = [json.loads(line)["step"] for line in
             (run / "progress.jsonl").read_text().splitlines()[1:]]  # fmt: skip
    assert steps == sorted(steps)
    assert "Run the same command again to go on from there (without --force" in log
    assert state_of(run) == before
    # The finished training is still done, and the unfinished one goes on where it was.
    assert "done already" in train("again", *CONSTANT, "--skip-done").stderr
    done = train("again", *other, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"]["resumed_from"] > 0
    after = state_of(run)
    assert all(after[name] != before[name] for name in ("data/test.jsonl", "run.json"))
    assert after["adapter/adapter_model.safetensors"] != before["adapter/adapter_model.safetensors"]
    saved = json.loads((run / "run.json").read_text())["settings"]
    assert (saved["train"]["max_steps"], saved["data"]["test_fraction"]) == (60, 0.3)
    assert "already exists" in train("again", *other).stderr


def test_a_training_killed_after_its_last_step_makes_none_more(
    workspace: Path, train: Train, short: tuple[Path, str]
) -> None:
    run = workspace / "runs" / "killed"
    shutil.copytree(short[0], run)
    adapter = sha256_file(run / "adapter" / "adapter_model.safetensors")
    record = json.loads((run / "run.json").read_text())
    recorded = sha256_file(run / "data" / "recorded_losses.json")
    held_out = record["stages"]["train"]["result"]["held_out"]
    (run / "run.json").write_text(json.dumps({**record, "stages": {}}))
    done = train("killed", *CONSTANT, "--json")
    assert done.returncode == 0, done.stderr
    assert "step 3" not in done.stderr
    assert json.loads(done.stdout)["steps"] == {
        "planned": 2, "done": 2, "best": 2, "resumed_from": 2,
    }  # fmt: skip
    assert json.loads(done.stdout)["held_out"] == held_out
    assert sha256_file(run / "data" / "recorded_losses.json") == recorded
    assert sha256_file(run / "adapter" / "adapter_model.safetensors") == adapter


def test_a_training_that_never_beats_the_base_says_so(train: Train) -> None:
    done = train("worse", *SHORT, "--learning-rate", "1", "--max-grad-norm", "0")
    assert done.returncode == 0, done.stderr
    assert "WARNING: no evaluation was below the untouched base's" in done.stderr


def test_what_was_changed_in_the_data_is_told(workspace: Path, train: Train) -> None:
    ended = workspace / "ended.jsonl"
    ended.write_text((workspace / "colours.jsonl").read_text().replace('red"', 'red<|im_end|>"'))
    options = ("--file", ended.name, "--max-steps", "1", "--batch-size", "2", "--evaluations", "1")
    done = train("ended", *options, "--test-fraction", "0.2", "--eval-fraction", "0.2")
    assert done.returncode == 0
    assert "note: 40 x an answer ends with <|im_end|>: taken out" in done.stderr
