"""One request on its way through the engine: its tokens, its text, its clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tuneserve.serve.engine.sampling import TokenSampler
from tuneserve.serve.engine.text import TextStream
from tuneserve.serve.engine.types import (
    Completion,
    Delta,
    Event,
    FinishReason,
    Sampling,
    Timings,
    TokenLogprob,
)


class Task:
    """State of one request. Belongs to the engine's thread, but for `cancelled`.

    `tokens` are prompt and answer so far; the first `computed` of them are in the KV cache under
    the id `sequence` (-1 while the task waits). What is pending is computed next, be it a prompt,
    one new token, or everything again after the task had to give its cells back.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        adapter: str | None,
        limit: int,
        deliver: Callable[[Event], None],
        stream: bool,
    ) -> None:
        self.tokens = list(prompt)
        self.prompt_length = len(self.tokens)
        self.sampling = sampling
        self.adapter = adapter
        self.deliver = deliver
        self.stream = stream
        self.cancelled = False
        self.sequence = -1
        self.computed = 0
        self.cached_tokens = 0
        self.sampler: TokenSampler | None = None
        self._end = limit
        if sampling.max_tokens is not None:
            self._end = min(limit, self.prompt_length + sampling.max_tokens)
        self._text = TextStream(sampling.stop)
        self._logprobs: list[TokenLogprob] = []
        self._submitted = time.monotonic()
        self._admitted = 0.0
        self._first_token = 0.0

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def waited(self) -> float:
        """Seconds in the queue; 0 once it has been admitted."""
        return 0.0 if self._admitted else time.monotonic() - self._submitted

    @property
    def age(self) -> float:
        """Seconds since it was submitted."""
        return time.monotonic() - self._submitted

    def admitted(self, sequence: int, reused: int) -> None:
        """The task got a sequence whose first `reused` tokens are there already."""
        self.sequence = sequence
        self.computed = reused
        if not self._admitted:
            self._admitted = time.monotonic()
            self.cached_tokens = reused

    def put_back(self) -> None:
        """The task lost its sequence and must be computed again."""
        self.sequence = -1
        self.computed = 0

    def advance(
        self, token: int, piece: bytes | None, logprob: TokenLogprob | None
    ) -> FinishReason | None:
        """Add a token (`piece` None: an end token); returns why the answer ends, if it does."""
        if not self._first_token:
            self._first_token = time.monotonic()
        self.tokens.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        if piece is None:
            return "stop"
        text, stopped = self._text.feed(piece)
        if self.stream:
            self.deliver(Delta(text, (token,), (logprob,) if logprob else ()))
        if stopped:
            return "stop"
        return "length" if len(self.tokens) >= self._end else None

    def finish(self, reason: FinishReason) -> Completion:
        """The whole answer; text held back until now goes out first."""
        rest = "" if reason == "cancelled" else self._text.finish()
        if rest and self.stream:
            self.deliver(Delta(rest, ()))
        return Completion(
            text=self._text.text,
            tokens=tuple(self.tokens[self.prompt_length :]),
            finish_reason=reason,
            prompt_tokens=self.prompt_length,
            cached_tokens=self.cached_tokens,
            timings=self._timings(),
            logprobs=tuple(self._logprobs),
        )

    def _timings(self) -> Timings:
        now = time.monotonic()
        admitted = self._admitted or now
        first = self._first_token or now
        return Timings(admitted - self._submitted, first - admitted, now - first)
