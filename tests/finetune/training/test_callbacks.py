"""What is decided between the steps of training."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl

from tests.support import ROOT
from tuneserve.finetune.training.callbacks import StoppingCallback, StopSignal
from tuneserve.finetune.training.losses import evaluations_without_gain

# One process's clock says that a checkpoint is due, the other's that it is not.
TWO_CLOCKS = """
import json, os
from accelerate import PartialState
from transformers import TrainerControl
from tuneserve.finetune.training.callbacks import StoppingCallback, StopSignal
PartialState(cpu=True)
seconds = 1e9 if os.environ["RANK"] == "0" else -1.0
stopping = StoppingCallback(
    StopSignal(), patience=0, max_general_rise=0.0, checkpoint_seconds=seconds,
    keep_checkpoints=2,
)
control = TrainerControl()
stopping.on_step_end(None, None, control)
print(json.dumps([control.should_save, control.should_training_stop]))
"""

# The second process computes three times as many tokens as the first.
TWO_COUNTS = """
import json, os
from types import SimpleNamespace
from accelerate import PartialState
from tuneserve.finetune.training.callbacks import ProgressCallback
from tuneserve.finetune.training.progress import Progress, ProgressDisplay
PartialState(cpu=True)
first = os.environ["RANK"] == "0"
class Display(ProgressDisplay):
    def show(self):
        pass
callback = ProgressCallback(Display(Progress(5)))
trainer = callback.trainer = SimpleNamespace(
    tokens_seen=0, tokens_in_all=0, steady_rate=0.0, check_step=lambda figures: None
)
logs = {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 1.0}
for step in range(1, 6):
    trainer.tokens_seen += 100 if first else 300
    state = SimpleNamespace(is_world_process_zero=first, global_step=step)
    callback.on_step_begin(None, state, None)
    callback.on_log(SimpleNamespace(fp16=False), state, None, logs)
tokens = [tokens for _, tokens in callback.display.progress._recent]
print(json.dumps({"in all": trainer.tokens_in_all, "tokens": tokens}))
"""


def stopping(stop: StopSignal, **changed: Any) -> StoppingCallback:
    usual = {"patience": 0, "max_general_rise": 0.0, "checkpoint_seconds": 1e9,
             "keep_checkpoints": 2}  # fmt: skip
    return StoppingCallback(stop, **{**usual, **changed})


def test_an_evaluation_that_is_due_comes_before_the_stop() -> None:
    stop = StopSignal()
    control = TrainerControl(should_evaluate=True)
    stopping(stop).on_step_end(None, None, control)
    assert not control.should_save
    stop.received = True
    stopping(stop).on_step_end(None, None, control)
    assert control.should_evaluate
    assert control.should_save
    assert control.should_training_stop


def test_a_checkpoint_is_due_by_the_clock() -> None:
    control = TrainerControl()
    stopping(StopSignal(), checkpoint_seconds=-1.0).on_step_end(None, None, control)
    assert control.should_save
    assert not control.should_training_stop


def test_training_stops_when_the_eval_loss_has_not_fallen_for_a_while() -> None:
    history = [{"eval_loss": loss} for loss in (3.0, 1.0, 2.0, 1.5)]
    assert evaluations_without_gain(history) == 2
    assert evaluations_without_gain([{"loss": 1.0}]) == 0
    for patience, stops in ((2, True), (3, False), (0, False)):
        control, state = TrainerControl(), SimpleNamespace(log_history=history)
        stopping(StopSignal(), patience=patience).on_evaluate(None, state, control)
        assert control.should_training_stop == stops


def in_two_processes(script: str) -> list[Any]:
    """What the script prints last (JSON), of the first process and of the second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**shared, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    found = []
    for process in processes:
        told, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        found.append(json.loads(told.splitlines()[-1]))
    return found


@pytest.mark.slow
def test_processes_save_together_though_their_clocks_differ() -> None:
    assert in_two_processes(TWO_CLOCKS) == [[True, False]] * 2


@pytest.mark.slow
def test_the_tokens_are_those_of_all_processes() -> None:
    first, second = in_two_processes(TWO_COUNTS)
    # Steps of 100 tokens in the first process and of 300 in the second.
    assert first["in all"] == second["in all"] == 2000
    assert first["tokens"] == [400] * 4  # of the steps after the first
    assert second["tokens"] == []  # which shows nothing
