"""One request: the caller's handle on it, and its state in the engine."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar

from tuneserve.serve.engine.activation import Activated, Adapter, active_at
from tuneserve.serve.engine.detokenizer import Detokenizer
from tuneserve.serve.engine.request_drafter import RequestDrafter
from tuneserve.serve.engine.sampling import TokenSampler
from tuneserve.serve.engine.types import (
    Completion,
    Delta,
    EngineError,
    Event,
    FinishReason,
    SamplingParams,
    Timings,
    TokenLogprob,
)

IN_BACKGROUND: ContextVar[bool] = ContextVar("in_background", default=False)
"""Are requests submitted from this context background ones, which wait for all others?"""

TimeFunction = Callable[[], float]
"""Seconds from any fixed moment on."""


class Generation:
    """A submitted request: wait for its result, or cancel it. Safe from any thread."""

    def __init__(
        self, on_event: Callable[[Event], None] | None = None, *, is_base: bool = True
    ) -> None:
        self.is_base = is_base
        """Does the base alone answer? So it does for an activated adapter whose invocation sequence
        is not in the prompt."""
        self._on_event = on_event
        self._done = threading.Event()
        self._outcome: Completion | EngineError | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """End it within a step; its result has finish_reason 'cancelled'."""
        self.cancelled = True

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the answer. Raises EngineError if the engine failed, TimeoutError."""
        if not self._done.wait(timeout):
            raise TimeoutError(f"no answer within {timeout} s")
        if isinstance(self._outcome, EngineError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def deliver(self, event: Event) -> None:
        """Called in the engine's thread: a Delta, or last a Completion or an EngineError. There is
        a result when the listener has heard of it."""
        try:
            if self._on_event is not None:
                self._on_event(event)
        finally:
            if isinstance(event, Completion | EngineError):
                self._outcome = event
                self._done.set()


class Request:
    """State of one request. Belongs to the engine's thread.

    `tokens` are prompt and answer so far; the first `computed` of them are in the KV cache under
    the id `sequence` (-1 while it waits). The others are pending: a prompt, one new token, or
    everything again after a preemption. `limit` is the number of tokens that the context can hold
    of it. `draft` are guesses that the coming step computes behind the last pending token: at first
    the expected answer, if there is one. `adapter` is the LoRA adapter that takes part, and from
    where on; None: the base alone. `background`: it waits for all others, unless it is `promoted`.
    `overtaken` are the later requests that were admitted before it.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        generation: Generation,
        *,
        limit: int,
        adapter: Adapter = None,
        stream: bool = False,
        background: bool = False,
        clock: TimeFunction = time.monotonic,
    ) -> None:
        self.tokens = list(prompt)
        self.prompt_length = len(self.tokens)
        self.sampling = sampling
        self.adapter = adapter
        self.background = background
        self.promoted = False
        self.overtaken = 0
        self.sequence = -1
        self.computed = 0
        self.cached_tokens = 0
        self.sampler: TokenSampler | None = None
        self.drafter: RequestDrafter | None = None
        self.draft: Sequence[int] = ()
        self.is_plainly_greedy = sampling.is_plainly_greedy
        self._generation = generation
        self._stream = stream
        self._end = limit
        if sampling.max_tokens is not None:
            self._end = min(limit, self.prompt_length + sampling.max_tokens)
        self._detokenizer = Detokenizer(sampling.stop)
        self._unread: list[tuple[int, bytes, TokenLogprob | None]] = []
        self._deltas: list[Delta] = []
        self._logprobs: list[TokenLogprob] = []
        # Those of tokens that may yet be part of a stop string, with where the tokens begin.
        self._held_logprobs: deque[tuple[int, TokenLogprob]] = deque()
        self._prompt_logprobs: list[TokenLogprob] = []
        self._expected_logprobs: tuple[float, ...] = ()
        self._clock = clock
        self.submitted = clock()
        self._admitted: float | None = None
        self._first_token: float | None = None

    @property
    def cancelled(self) -> bool:
        return self._generation.cancelled

    @property
    def pending(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def stands_back(self) -> bool:
        """Does it wait for all others?"""
        return self.background and not self.promoted

    @property
    def active_adapter(self) -> str | None:
        """The key of the adapter that takes part in the next pending token."""
        return active_at(self.adapter, self.computed)

    @property
    def pending_alike(self) -> int:
        """Pending tokens that are computed with this adapter, before another one's come."""
        if isinstance(self.adapter, Activated) and self.computed < self.adapter.start:
            return min(self.pending, self.adapter.start - self.computed)
        return self.pending

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    @property
    def remaining(self) -> int:
        """Tokens that the answer can still get."""
        return self._end - len(self.tokens)

    @property
    def was_admitted(self) -> bool:
        """Has it ever had a sequence? If so and it waits, it was preempted."""
        return self._admitted is not None

    def admit(self, sequence: int, cached: int) -> None:
        """The request gets a sequence whose first `cached` tokens are computed already."""
        self.sequence = sequence
        self.computed = cached
        if self._admitted is None:
            self._admitted = self._clock()
            self.cached_tokens = cached

    @property
    def scored_pending(self) -> int:
        """Pending tokens whose outputs tell the log probabilities of the prompt's next ones; none
        unless they are asked for."""
        if self.sampling.prompt_logprobs is None:
            return 0
        return max(0, self.prompt_length - 1 - self.computed)

    def score(self, logprobs: Sequence[TokenLogprob]) -> None:
        """Add log probabilities of the prompt's tokens behind those that are computed."""
        # What a preemption has taken is computed once more.
        del self._prompt_logprobs[self.computed :]
        self._prompt_logprobs += logprobs

    @property
    def expected(self) -> tuple[int, ...]:
        """The expected answer, as long as its log probabilities are not known."""
        return () if self._expected_logprobs else self.sampling.expected

    def expect(self, logprobs: Sequence[float]) -> None:
        """The log probabilities of the expected answer's tokens are these."""
        self._expected_logprobs = tuple(logprobs)

    def preempt(self) -> None:
        """The request loses its sequence; its tokens must be computed again."""
        self.sequence = -1
        self.computed = 0
        self.draft = ()
        if self.drafter is not None:
            self.drafter.release()

    def advance(
        self, token: int, piece: bytes | None, logprob: TokenLogprob | None
    ) -> FinishReason | None:
        """Add a token (`piece` None: an end token); returns why the answer ends, if it does. What
        is to be shown of it is told by `deliver`."""
        if self._first_token is None:
            self._first_token = self._clock()
        self.tokens.append(token)
        if self.drafter is not None:
            self.drafter.see()
        if piece is None:
            if self.sampling.prompt_logprobs is not None:
                # With the prompt's log probabilities every token has one, as clients count on that
                # take the last for the answer's.
                self._unread.append((token, b"", logprob))
            return "stop"
        self._unread.append((token, piece, logprob))
        # The text says whether a stop string ends the answer; else it can wait.
        if self.sampling.stop and self._read():
            return "stop"
        return "length" if len(self.tokens) >= self._end else None

    def _read(self) -> bool:
        """Make text of the tokens that have come; did a stop string end it?"""
        unread, self._unread = self._unread, []
        if not self._stream and not self.sampling.stop:
            self._held_logprobs += [(0, logprob) for _, _, logprob in unread if logprob]
            self._detokenizer.feed(b"".join([piece for _, piece, _ in unread]))
            self._shown_logprobs(ended=False)
            return False
        stopped = False
        for token, piece, logprob in unread:
            if logprob is not None:
                self._held_logprobs.append((self._detokenizer.read, logprob))
            text, stopped = self._detokenizer.feed(piece)
            logprobs = self._shown_logprobs(ended=False)
            if self._stream:
                self._deltas.append(Delta(text, (token,), logprobs))
        return stopped

    @property
    def streams(self) -> bool:
        """Is anything delivered before its end?"""
        return self._stream

    def deliver(self) -> None:
        """Deliver what `advance` has added since the last call, if it is streamed."""
        if not self._stream:
            return
        self._read()
        deltas, self._deltas = self._deltas, []
        for delta in deltas:
            self._generation.deliver(delta)

    def finish(self, why: FinishReason | EngineError) -> None:
        """Deliver the end: the whole answer, preceded by what was not delivered yet, or an
        error."""
        self.deliver()
        if self.drafter is not None:
            self.drafter.release()
        if isinstance(why, EngineError):
            self._generation.deliver(why)
            return
        if self._unread:
            self._read()
        rest = "" if why == "cancelled" else self._detokenizer.finish()
        logprobs = self._shown_logprobs(ended=self._detokenizer.stopped_by is None)
        if (rest or logprobs) and self._stream:
            self._generation.deliver(Delta(rest, (), logprobs))
        self._generation.deliver(
            Completion(
                text=self._detokenizer.text,
                tokens=tuple(self.tokens[self.prompt_length :]),
                finish_reason=why,
                prompt_tokens=self.prompt_length,
                cached_tokens=self.cached_tokens,
                timings=self._timings(),
                logprobs=tuple(self._logprobs),
                prompt_logprobs=tuple(self._prompt_logprobs),
                expected_logprobs=self._expected_logprobs,
                stopped_by=self._detokenizer.stopped_by,
            )
        )

    def _shown_logprobs(self, *, ended: bool) -> tuple[TokenLogprob, ...]:
        """Log probabilities of tokens that are known to be of the text: without stop strings all,
        else those that begin in what is shown."""
        held, shown = self._held_logprobs, self._detokenizer.shown
        known = []
        while held and (ended or not self.sampling.stop or held[0][0] < shown):
            known.append(held.popleft()[1])
        self._logprobs += known
        return tuple(known)

    def _timings(self) -> Timings:
        now = self._clock()
        admitted = now if self._admitted is None else self._admitted
        first = now if self._first_token is None else self._first_token
        return Timings(admitted - self.submitted, first - admitted, now - first)
