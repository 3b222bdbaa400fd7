"""What changes a few logits of a row before a token is drawn: logit_bias and penalties."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterator

import numpy as np

from tuneserve.serve.engine.types import SamplingParams
from tuneserve.serve.engine.weights import Row


class Adjustments:
    """logit_bias, then the penalties for the answer's last `penalty_window` tokens.

    The definitions are llama.cpp's: a token that occurred has its logit divided by
    `repeat_penalty` (multiplied if it is not positive), then `frequency_penalty` times its count
    and `presence_penalty` subtracted.
    """

    def __init__(self, sampling: SamplingParams) -> None:
        self._sampling = sampling
        bias = sampling.logit_bias
        self._biased = np.fromiter(bias.keys(), np.intp, len(bias))
        self._bias = np.fromiter(bias.values(), np.float32, len(bias))
        self._penalizes = sampling.penalizes and sampling.penalty_window > 0
        self._window: deque[int] = deque()
        self._counts: Counter[int] = Counter()

    def accept(self, token: int) -> None:
        """The answer's next token."""
        if not self._penalizes:
            return
        if len(self._window) == self._sampling.penalty_window:
            oldest = self._window.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        self._window.append(token)
        self._counts[token] += 1

    @contextlib.contextmanager
    def applied_to(self, row: Row) -> Iterator[None]:
        """The row is changed in place, and as it was again behind the block."""
        counted = np.fromiter(self._counts.keys(), np.intp, len(self._counts))
        before_bias = row[self._biased]
        row[self._biased] += self._bias
        before_penalties = row[counted]
        if len(counted):
            row[counted] = self._penalized(before_penalties)
        try:
            yield
        finally:
            row[counted] = before_penalties
            row[self._biased] = before_bias

    def _penalized(self, logits: Row) -> Row:
        sampling = self._sampling
        counts = np.fromiter(self._counts.values(), np.float32, len(logits))
        repeat = np.float32(sampling.repeat_penalty)
        result: Row = np.where(logits > 0, logits / repeat, logits * repeat)
        result -= counts * np.float32(sampling.frequency_penalty)
        result -= np.float32(sampling.presence_penalty)
        return result
