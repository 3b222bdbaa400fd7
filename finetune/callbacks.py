"""What happens beside the steps of training: progress, early stopping, checkpoints in between."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.board import Board
from finetune.panel import Watch
from finetune.processes import any_process
from finetune.runtime import memory_in_use
from finetune.trainer import EVAL_LOSS, general_rise
from tuneserve.console import say


class StopSwitch:
    """Turned by Ctrl-C (or SIGTERM): training ends after the step at hand and is saved."""

    def __init__(self) -> None:
        self.pressed = False

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM while the block runs; a second one ends it at once."""

        def press(number: int, _: Any) -> None:
            if self.pressed:
                raise KeyboardInterrupt
            self.pressed = True
            say("stopping after this step (once more: at once, without saving)")

        signals = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, press) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


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


def build_callbacks(
    watch: Watch,
    board: Board | None,
    switch: StopSwitch,
    *,
    patience: int,
    max_general_rise: float = 0.0,
    checkpoint_seconds: float,
) -> list[Any]:
    """The callbacks of a training run. Imported late: they derive from transformers' class.

    The first one's `trainer` is to be set before training starts.
    """
    from transformers import TrainerCallback

    class Telling(TrainerCallback):  # type: ignore[misc]
        """Shows each step and evaluation, and logs them for TensorBoard."""

        def __init__(self) -> None:
            self.trainer: Any = None
            self.counted = 0
            self.started = time.monotonic()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started = time.monotonic()

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if not state.is_world_process_zero or "loss" not in (logs or {}):
                return
            # The loss has been read, so the device is done with the step.
            seconds = time.monotonic() - self.started
            seen = int(self.trainer.tokens_seen)
            progress = watch.progress
            progress.stepped(state.global_step, seconds, seen - self.counted)
            progress.loss, progress.learning_rate = logs["loss"], logs["learning_rate"]
            progress.memory = memory_in_use()
            self.counted = seen
            watch.show()
            if board is not None:
                board.write(
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
            watch.progress.losses |= losses
            watch.show()
            told = ", ".join(
                f"{name} loss {loss:.4f} (perplexity {math.exp(min(loss, 700.0)):.3f})"
                for name, loss in losses.items()
            )
            say(f"step {state.global_step}: {told}")
            if board is not None:
                board.write(state.global_step, {f"loss/{k}": v for k, v in losses.items()})

    class Steering(TrainerCallback):  # type: ignore[misc]
        """Decides after each step whether to save or to stop."""

        def __init__(self) -> None:
            self.saved_at = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            switch.pressed = any_process(switch.pressed)
            if switch.pressed:
                control.should_save = control.should_training_stop = True
                # The checkpoint matters now; the evaluation comes again when training goes on.
                control.should_evaluate = False
            if time.monotonic() - self.saved_at > checkpoint_seconds:
                control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.saved_at = time.monotonic()

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if patience and evaluations_without_gain(state.log_history) >= patience:
                say(f"stopping early: {patience} evaluations without a lower eval loss")
                control.should_training_stop = True
            rise = general_rise(state.log_history)
            if 0 < max_general_rise < rise:
                say(
                    f"stopping: the loss on general examples has risen by {rise:.3f}, more than "
                    f"{max_general_rise:g}"
                )
                control.should_training_stop = True

    return [Telling(), Steering()]
