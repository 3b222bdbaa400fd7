"""What happens beside the steps of training: progress, early stopping, checkpoints in between."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.trainer import EVAL_LOSS
from tuneserve.console import Advance, say


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


def build_callbacks(
    advance: Advance, switch: StopSwitch, *, patience: int, checkpoint_seconds: float
) -> list[Any]:
    """The callbacks of a training run. Imported late: they derive from transformers' class."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]
        """Feeds the progress display with tokens, and tells each evaluation in a line."""

        def __init__(self) -> None:
            self.trainer: Any = None
            self.counted = 0

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if not state.is_world_process_zero or "loss" not in (logs or {}):
                return
            seen = int(self.trainer.tokens_seen)
            note = f"step {state.global_step}/{state.max_steps}, loss {logs['loss']:.4f}"
            advance(seen - self.counted, note)
            self.counted = seen

        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
        ) -> None:
            if state.is_world_process_zero:
                loss = metrics[EVAL_LOSS]
                say(
                    f"step {state.global_step}: eval loss {loss:.4f}, "
                    f"perplexity {math.exp(min(loss, 700.0)):.3f}"
                )

    class Steering(TrainerCallback):  # type: ignore[misc]
        """Decides after each step whether to save or to stop."""

        def __init__(self) -> None:
            self.saved_at = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
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

    return [Progress(), Steering()]
