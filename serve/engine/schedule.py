"""What goes into the next batch: a token of every running answer, and as much prompt as is fair."""

from __future__ import annotations

from collections.abc import Sequence

from tuneserve.serve.engine.task import Task

SMALLEST_CHUNK = 32
"""Prompt tokens a step always takes: fewer would not make it noticeably shorter."""

STEP_SECONDS_BESIDE_STREAMS = 0.25
"""How long running answers may stand still for other requests' prompts."""

STEP_SECONDS_ALONE = 0.5
"""How long a step may take when nobody waits for a token: cancellation waits for its end."""


class PromptPace:
    """How many prompt tokens fit a step: `first` to begin with, then from how fast the last ones
    were computed, if it `adapts`."""

    def __init__(self, largest: int, first: int, *, adapts: bool = True) -> None:
        self._largest = largest
        self._first = first
        self._adapts = adapts
        self._rate = 0.0

    def chunk(self, *, beside_streams: bool) -> int:
        if not self._rate:
            return min(self._first, self._largest)
        seconds = STEP_SECONDS_BESIDE_STREAMS if beside_streams else STEP_SECONDS_ALONE
        return max(SMALLEST_CHUNK, min(self._largest, int(self._rate * seconds)))

    def observe(self, tokens: int, seconds: float) -> None:
        """A step with `tokens` of prompt took that long."""
        if tokens < SMALLEST_CHUNK or not self._adapts:
            return
        rate = tokens / seconds
        self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate


def plan_batch(running: Sequence[Task], *, room: int, chunk: int) -> list[tuple[Task, int]]:
    """(task, number of its pending tokens) for a batch of at most `room` tokens.

    Tasks that need one token come first, so that no answer stands still; then prompts in the
    order of arrival, `chunk` tokens in all.
    """
    plan = [(task, 1) for task in running if task.pending == 1][:room]
    left = min(room - len(plan), chunk)
    for task in running:
        if task.pending > 1 and left > 0:
            count = min(task.pending, left)
            plan.append((task, count))
            left -= count
    return plan
