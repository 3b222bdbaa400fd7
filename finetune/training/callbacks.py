"""What happens beside the steps of training: progress, early stopping, checkpoints in between.

Import it late: the classes derive from transformers', which takes seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from tuneserve.console import say
from tuneserve.finetune.runtime.libraries import memory_in_use
from tuneserve.finetune.runtime.processes import any_process
from tuneserve.finetune.training.board import Board
from tuneserve.finetune.training.progress import Watch
from tuneserve.finetune.training.stop import StopSwitch
from tuneserve.finetune.training.trainer import EVAL_LOSS, general_rise


class Telling(TrainerCallback):  # type: ignore[misc]
    """Shows each step and evaluation, and logs them for TensorBoard."""

    def __init__(self, watch: Watch, board: Board | None) -> None:
        self.watch, self.board = watch, board
        self.trainer: Any = None
        self.counted = 0
        self.started = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        # The loss has been read, so the device is done with the step.
        seconds = time.monotonic() - self.started
        seen = int(self.trainer.tokens_seen)
        progress = self.watch.progress
        progress.stepped(state.global_step, seconds, seen - self.counted)
        progress.loss, progress.learning_rate = logs["loss"], logs["learning_rate"]
        progress.memory = memory_in_use()
        self.counted = seen
        self.watch.show()
        if self.board is not None:
            self.board.write(
                state.global_step,
                {
                    "loss/train": logs["loss"],
                    "learning rate": logs["learning_rate"],
                    "gradient norm": logs["grad_norm"],
                    "tokens per second": progress.tokens_per_second,
                    "memory, GiB": progress.memory / 2**30,
                },
            )

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        losses = losses_of(metrics)
        self.watch.progress.losses |= losses
        self.watch.show()
        told = ", ".join(
            f"{name} loss {loss:.4f} (perplexity {math.exp(min(loss, 700.0)):.3f})"
            for name, loss in losses.items()
        )
        say(f"step {state.global_step}: {told}")
        if self.board is not None:
            self.board.write(state.global_step, {f"loss/{k}": v for k, v in losses.items()})


class Steering(TrainerCallback):  # type: ignore[misc]
    """Decides after each step whether to save or to stop."""

    def __init__(
        self,
        switch: StopSwitch,
        *,
        patience: int,
        max_general_rise: float,
        checkpoint_seconds: float,
    ) -> None:
        self.switch = switch
        self.patience, self.max_general_rise = patience, max_general_rise
        self.checkpoint_seconds = checkpoint_seconds
        self.saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Each process has a clock of its own, and all must do the same: they ask each other.
        waited = time.monotonic() - self.saved_at
        if any_process(waited > self.checkpoint_seconds):
            control.should_save = True
        self.switch.pressed = any_process(self.switch.pressed)
        if self.switch.pressed:
            # An evaluation that is due still comes first: a training that goes on begins with the
            # next step and would never make up for it.
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved_at = time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.patience and evaluations_without_gain(state.log_history) >= self.patience:
            say(f"stopping early: {self.patience} evaluations without a lower eval loss")
            control.should_training_stop = True
        rise = general_rise(state.log_history)
        if 0 < self.max_general_rise < rise:
            say(
                f"stopping: the loss on general examples has risen by {rise:.3f}, more than "
                f"{self.max_general_rise:g}"
            )
            control.should_training_stop = True


def evaluations_without_gain(history: Sequence[Mapping[str, float]]) -> int:
    """How many evaluations, at the end of a training's log, did not lower the eval loss."""
    losses = [entry[EVAL_LOSS] for entry in history if EVAL_LOSS in entry]
    if not losses:
        return 0
    return len(losses) - 1 - losses.index(min(losses))


def losses_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """The losses among an evaluation's metrics, by what was evaluated."""
    return {
        name.removesuffix("_loss"): value
        for name, value in metrics.items()
        if name.endswith("_loss")
    }
