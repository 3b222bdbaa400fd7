"""Callbacks of the trainer: progress, logs, early stopping, Ctrl-C, checkpoints between
evaluations.

Import it late: the callbacks derive from transformers', which takes seconds.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from tuneserve.console import say
from tuneserve.files import errors_named
from tuneserve.finetune.runtime.libraries import memory_in_use
from tuneserve.finetune.runtime.processes import any_process, sum_of_all
from tuneserve.finetune.training.checkpoints import checkpoint_directory, drop_older, seal
from tuneserve.finetune.training.losses import (
    evaluations_without_gain,
    general_rise,
    losses_of,
    perplexity_of,
)
from tuneserve.finetune.training.progress import ProgressDisplay
from tuneserve.finetune.training.progress_file import ProgressFile
from tuneserve.finetune.training.quantization_aware import RoundedBase


class StopSignal:
    """Ctrl-C (or SIGTERM) while it is handled here: training ends after the step at hand and is
    saved."""

    def __init__(self) -> None:
        self.received = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while the block runs; a second one ends it at once."""

        def receive(number: int, _: Any) -> None:
            if self.received:
                raise KeyboardInterrupt
            self.received = True
            say("stopping after this step (once more: at once, without saving)")

        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, receive) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Checks and shows each step and evaluation, and logs them for TensorBoard and for those who
    watch (progress.jsonl)."""

    def __init__(
        self,
        display: ProgressDisplay,
        logger: Any = None,
        curves: Callable[[Sequence[Mapping[str, float]]], None] | None = None,
        file: ProgressFile | None = None,
        scalars: Callable[[Mapping[str, float], int], None] | None = None,
    ) -> None:
        """`curves` is given the trainer's log after each evaluation, to draw it; `scalars` is told
        what `logger` is."""
        self.display, self.logger, self.curves, self.file = display, logger, curves, file
        self.scalars = scalars
        self.trainer: Any = None
        self.started = time.monotonic()
        self.evaluation_seconds = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in (logs or {}):
            return
        figures = {"loss": logs["loss"]}
        if not args.fp16:  # there the scaler leaves a step with such gradients out
            figures["gradient's norm"] = logs["grad_norm"]
        self.trainer.check_step(figures)
        seen = sum_of_all(int(self.trainer.tokens_seen))
        before, self.trainer.tokens_in_all = self.trainer.tokens_in_all, seen
        if not state.is_world_process_zero:
            return
        # The loss has been read, so the device is done with the step.
        seconds = time.monotonic() - self.started
        progress = self.display.progress
        progress.stepped(state.global_step, seconds, seen - before)
        self.trainer.steady_rate = progress.steady_rate
        progress.loss, progress.learning_rate = logs["loss"], logs["learning_rate"]
        progress.memory = memory_in_use()
        self.display.show()
        if self.file is not None:
            self.file.stepped(progress)
        scalars = {
            "loss/train": logs["loss"],
            "learning rate": logs["learning_rate"],
            "gradient norm": logs["grad_norm"],
            "memory, GiB": progress.memory / 2**30,
        }
        if (rate := progress.tokens_per_second) is not None:
            scalars["tokens per second"] = rate
        self._log(state.global_step, scalars)

    def evaluating(self, name: str, done: int, batches: int) -> None:
        """A batch of an evaluation is done, of so many."""
        self.display.progress.evaluates(f"{name}: {done} of {batches}")
        self.display.show()
        if self.file is not None:
            self.file.evaluating(self.display.progress)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        losses, before = losses_of(metrics), self.evaluation_seconds
        self.evaluation_seconds = self.trainer.evaluation_seconds
        self.display.progress.evaluated(losses, self.evaluation_seconds - before)
        if not state.is_world_process_zero:
            return
        self.display.show()
        told = ", ".join(
            f"{name} loss {loss:.4f} (perplexity {value:,.{0 if value >= 1000 else 3}f})"
            for name, loss in losses.items()
            for value in (perplexity_of(loss),)
        )
        say(f"step {state.global_step}: {told}")
        self._log(state.global_step, {f"loss/{name}": loss for name, loss in losses.items()})
        if self.file is not None:
            self.file.evaluated(self.display.progress)
        if self.curves is not None:
            self.curves(state.log_history)

    def _log(self, step: int, scalars: Mapping[str, float]) -> None:
        if self.logger is not None:
            for name, value in scalars.items():
                self.logger.add_scalar(name, value, step)
        if self.scalars is not None:
            self.scalars(scalars, step)


class StoppingCallback(TrainerCallback):  # type: ignore[misc]
    """Decides after each step whether to save or to stop."""

    def __init__(
        self,
        stop: StopSignal,
        *,
        patience: int,
        max_general_rise: float,
        checkpoint_seconds: float,
        keep_checkpoints: int,
    ) -> None:
        self.stop, self.keep_checkpoints = stop, keep_checkpoints
        self.patience, self.max_general_rise = patience, max_general_rise
        self.checkpoint_seconds = checkpoint_seconds
        self.saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Each process has a clock of its own, and all must do the same: they ask each other.
        waited = time.monotonic() - self.saved_at
        if any_process(waited > self.checkpoint_seconds):
            control.should_save = True
        self.stop.received = any_process(self.stop.received)
        if self.stop.received:
            # An evaluation that is due still comes first: a training that goes on begins with the
            # next step and would never make up for it.
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            directory, last = Path(args.output_dir), state.global_step
            with errors_named(directory):
                seal(checkpoint_directory(directory, last))
                # The trainer would delete older ones before this one is on the disk.
                best = state.best_global_step
                drop_older(directory, last=last, best=best, keep=self.keep_checkpoints)
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


class RoundingCallback(TrainerCallback):  # type: ignore[misc]
    """Rounds the base anew every `every` steps, and before what is measured."""

    def __init__(self, base: RoundedBase, every: int) -> None:
        self.base, self.every = base, every

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.base.refresh()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The trainer's own callbacks, which decide whether to evaluate, come first.
        if state.global_step % self.every == 0 or control.should_evaluate:
            self.base.refresh()
