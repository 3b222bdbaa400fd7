"""Which requests run, and what each step of the engine computes. Knows no llama.cpp."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile

from tuneserve.serve.engine.activation import adapter_key
from tuneserve.serve.engine.background import BackgroundShare
from tuneserve.serve.engine.kv_cache import KVCacheManager, PrefixMatch
from tuneserve.serve.engine.request import Request, TimeFunction
from tuneserve.serve.engine.speculation import Speculator
from tuneserve.serve.engine.types import FinishReason, UnavailableError

SMALLEST_CHUNK = 32
"""Prompt tokens a step always takes: fewer would not make it noticeably shorter."""

STEP_SECONDS_BESIDE_DECODING = 0.25
"""How long running answers may stand still for other requests' prompts."""

STEP_SECONDS_ALONE = 0.5
"""How long a step may take when nobody waits for a token: cancellation waits for its end."""

SCORED_AT_ONCE = 64
"""Prompt tokens of a step whose log probabilities are asked for: each has a row of logits."""

EXPECTED_AT_ONCE = 128
"""The same for tokens of expected answers, of one or of several."""

CELLS_PER_RUNNING_ANSWER = 8
"""Free cells beside a newcomer's prompt, for each running answer: with none it would be preempted
in the next steps."""

MOST_OVERTAKEN = 2
"""How often later requests of an adapter that runs already are admitted before another's, for each
slot. 4 adapters with 8 requests each, asked for in turn, take 2.8 times fewer steps in 8 slots."""

OVERTAKEN_SHARE = 0.25
"""And no more once a request has waited for this share of the time that it may wait."""

Chunk = tuple[Request, int]
"""A request and how many of its pending tokens are computed."""


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """What a step computes: the chunks, under one adapter (None: the base alone)."""

    chunks: list[Chunk] = field(default_factory=list)
    adapter: str | None = None


class Scheduler:
    """The queue of waiting requests and the running ones. Belongs to the engine's thread.

    The rules:
    - Requests are admitted in the order of arrival, while fewer than `slots` run and the KV cache
      has room for the prompt; but those whose adapter runs already before others, as far as each of
      these is overtaken MOST_OVERTAKEN times for each slot: a step of one request takes nearly as
      long as one of many. One that begins like a prompt that is being computed waits until it can
      share that beginning.
    - Background requests stand behind all others: they are admitted last and preempted first, and
      while any other runs they keep their cells and stand still; one of them is promoted after
      some seconds, and takes part like any other (see BackgroundShare).
    - A step computes one batch, of one LoRA adapter; adapters take turns of a few steps, the one
      served longest ago first.
    - Every running answer of that adapter gets its next token; prompts are computed beside them in
      chunks (chunked prefill), as many tokens as `prefill` allows, `batch_tokens` in all.
    - Where it pays, guesses are computed behind the pending tokens of a step without prompts; they
      take free cells only.
    - When the KV cache is full, cached prefixes are evicted first; then the request admitted last
      is preempted: its cells are freed, it goes to the head of the queue, and its tokens are
      computed again later.
    - A request that has never run leaves after `queue_seconds`; one that has, running or preempted,
      ends `answer_seconds` after it was submitted (0: no limit).
    """

    def __init__(
        self,
        cache: KVCacheManager,
        *,
        slots: int,
        batch_tokens: int,
        prefill: PrefillBudget,
        queue_seconds: float,
        answer_seconds: float = 0.0,
        speculator: Speculator | None = None,
        clock: TimeFunction = time.monotonic,
    ) -> None:
        self._cache = cache
        self._slots = slots
        self._batch_tokens = batch_tokens
        self._prefill = prefill
        self._queue_seconds = queue_seconds
        self._answer_seconds = answer_seconds
        self._speculator = speculator
        self._clock = clock
        self._share = BackgroundShare(clock)
        self._served: dict[str | None, int] = {}
        self._turn: str | None = None
        self._turn_began = float("-inf")
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.steps = 0
        self.preemptions = 0

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def has_foreground(self) -> bool:
        """Is there a request that is not in the background?"""
        return any(not one.background for one in (*self.running, *self.waiting))

    def add(self, request: Request) -> None:
        """Queue a request, before those in the background unless it is one."""
        if request.stands_back:
            self.waiting.append(request)
        else:
            self.waiting.insert(self._first_background, request)

    @property
    def _first_background(self) -> int:
        """Where background requests begin in the queue."""
        return sum(not request.stands_back for request in self.waiting)

    @property
    def _active(self) -> list[Request]:
        """The running requests that go on: those in the background only if there are no others."""
        return [one for one in self.running if not one.stands_back] or self.running

    def expire(self) -> list[tuple[Request, FinishReason | UnavailableError]]:
        """Take out the requests that are cancelled or past their time: (request, how it ends)."""
        now = self._clock()
        expired = [
            (request, why)
            for request in (*self.running, *self.waiting)
            if (why := self._expired(request, now)) is not None
        ]
        for request, _ in expired:
            self.finish(request)
        return expired

    def _expired(self, request: Request, now: float) -> FinishReason | UnavailableError | None:
        age = now - request.submitted
        if request.cancelled:
            return "cancelled"
        if request.background:
            return None
        if request.was_admitted:
            return "length" if 0 < self._answer_seconds < age else None
        if age > self._queue_seconds:
            return UnavailableError(f"no slot became free within {self._queue_seconds} s")
        return None

    def schedule(self) -> ScheduledBatch:
        """The next step. The cells that its chunks take are free."""
        self.steps += 1
        if self.waiting and not self.running:
            self._cache.start_low(self.waiting[0].adapter, self.waiting[0].tokens)
        self._share_with_background()
        self._admit()
        self._cache.trim()
        while self.running:
            active = self._active
            adapter = self._next_adapter(active)
            chunks = split_batch(
                [request for request in active if request.active_adapter == adapter],
                batch_tokens=self._batch_tokens,
                prefill_tokens=self._prefill.tokens(beside_decoding=self._short_steps),
            )
            chunks = with_expected(chunks, batch_tokens=self._batch_tokens)
            if self._cache.make_room(sum(count + len(one.draft) for one, count in chunks)):
                self._served[adapter] = self.steps
                self._draft(chunks)
                return ScheduledBatch(chunks, adapter)
            self._preempt(self._background_running() or self.running[-1])
        return ScheduledBatch()

    def _share_with_background(self) -> None:
        promoted = self._share.newly_promoted(self.running, self.waiting)
        if promoted is not None and promoted in self.waiting:
            self.waiting.remove(promoted)
            self.add(promoted)

    def _draft(self, chunks: Sequence[Chunk]) -> None:
        """Let a step of answers alone compute guesses too, in cells and places that are free."""
        if self._speculator is None or any(request.pending > 1 for request, _ in chunks):
            return
        room = min(self._batch_tokens, self._cache.free_cells) - len(chunks)
        self._speculator.plan([request for request, _ in chunks], room)

    def settle(self, request: Request, accepted: int) -> None:
        """The first `accepted` tokens of a request's draft were drawn; the others are dropped."""
        request.draft = ()
        request.computed += accepted
        self._cache.keep(request.sequence, request.computed)
        if self._speculator is not None and request.drafter is not None:
            self._speculator.settled(request.drafter, accepted)

    def computed(self, chunks: Sequence[Chunk]) -> None:
        """A step's chunks and drafts, in this order, are in the KV cache now."""
        answers = answers_next(chunks)
        self._cache.append_each([request.sequence for request in answers])
        for request in answers:
            request.computed += 1
        for request, count in chunks[len(answers) :]:
            request.computed += count
            self._cache.append(request.sequence, count + len(request.draft))

    def finish(self, request: Request) -> None:
        """Take a request out; what it has computed is left to the prefix cache."""
        if request in self.running:
            self.running.remove(request)
            self._cache.release(
                request.sequence, request.adapter, request.tokens[: request.computed]
            )
        else:
            self.waiting.remove(request)

    @property
    def _short_steps(self) -> bool:
        """Does anybody wait for the step's end? A running answer; and if all that runs is in the
        background, whoever may come."""
        return any(request.generated or request.stands_back for request in self._active)

    def _background_running(self) -> Request | None:
        """The one admitted last of the running requests in the background."""
        return next((one for one in reversed(self.running) if one.stands_back), None)

    def _admit(self) -> None:
        if not self.waiting:
            return
        held: set[Request] = set()
        computing = [one for one in self._active if one.pending > 1 and not one.scored_pending]
        while self.waiting:
            full = len(self.running) >= self._slots
            if full and self._background_running() is None:
                break
            request = self._next_to_admit(held)
            if request is None:
                break
            if self._cache.will_share(request, computing, self.running):
                held.add(request)
                continue
            behind = None if request.stands_back else self._background_running()
            if full:
                if behind is None:
                    break
                self._preempt(behind)
                continue
            match = self._match_with_room(request)
            if match is None:
                if behind is None:
                    break
                self._preempt(behind)
                continue
            place = self.waiting.index(request)
            for overtaken in islice(self.waiting, place):
                overtaken.overtaken += overtaken not in held
            del self.waiting[place]
            request.admit(*self._cache.allocate(match))
            self.running.append(request)
            if not request.scored_pending:
                computing.append(request)

    def _next_to_admit(self, held: Container[Request]) -> Request | None:
        """The first request, or a later one whose adapter runs already; none of those held."""
        waiting = [one for one in self.waiting if one not in held] if held else self.waiting
        if not waiting:
            return None
        first = waiting[0]
        there = {adapter_key(one.adapter) for one in self.running if not one.stands_back}
        if (
            not there
            or adapter_key(first.adapter) in there
            or first.was_admitted
            or first.overtaken >= MOST_OVERTAKEN * self._slots
            or self._clock() - first.submitted > OVERTAKEN_SHARE * self._queue_seconds
        ):
            return first
        alike = takewhile(lambda one: one.stands_back == first.stands_back, waiting)
        return next((one for one in alike if adapter_key(one.adapter) in there), first)

    def _match_with_room(self, request: Request) -> PrefixMatch | None:
        """What the request begins with, its cells being free; None while too few are."""
        reserve = CELLS_PER_RUNNING_ANSWER * len(self.running) + 1 if self.running else 0
        found = PrefixMatch()
        if not request.scored_pending:
            found = self._cache.match_prefix(request.adapter, request.tokens, self.running)
        # The matching prefix may be longer than what is shared, and hold the very cells that the
        # rest of the prompt needs: then the request begins from nothing.
        for match in (found, PrefixMatch()):
            needed = max(len(request.tokens) - match.shared + reserve, match.offloaded_tokens)
            if self._cache.make_room(needed, spare=match.sequence):
                return match
        return None

    def _next_adapter(self, active: Sequence[Request]) -> str | None:
        """Of these requests' adapters (None: the base alone) the one whose turn it is.

        A turn lasts some steps, since llama.cpp plans its graphs anew whenever the adapter changes;
        but no longer than that, all others having had theirs, no answer stood still for more than
        STEP_SECONDS_BESIDE_DECODING. Then it is the turn of the one served longest ago."""
        adapters = list(dict.fromkeys(request.active_adapter for request in active))
        now = self._clock()
        spent = (now - self._turn_began) * (len(adapters) - 1)
        if self._turn in adapters and spent < STEP_SECONDS_BESIDE_DECODING:
            return self._turn
        oldest = min(adapters, key=lambda adapter: self._served.get(adapter, 0))
        if oldest != self._turn:
            self._turn, self._turn_began = oldest, now
        return oldest

    def _preempt(self, request: Request) -> None:
        self.running.remove(request)
        if request.stands_back:
            # What it has computed is a cached prefix until the cells are needed.
            computed = request.tokens[: request.computed]
            self._cache.release(request.sequence, request.adapter, computed)
        else:
            self._cache.free(request.sequence)
        request.preempt()
        if request.stands_back:
            self.waiting.insert(self._first_background, request)
        else:
            self.waiting.appendleft(request)
        self.preemptions += 1


class PrefillBudget:
    """How many prompt tokens a step may compute: `first` to begin with, then, if it `adapts`, what
    fits the time that a step may take, by how fast the last ones were; `largest` at most.

    A step with fewer tokens than it might have had, and within its time, says nothing against the
    budget: much of its time goes to what does not depend on them, above all to running answers.
    """

    def __init__(self, largest: int, first: int, *, adapts: bool = True) -> None:
        self._largest = largest
        self._first = first
        self._adapts = adapts
        self._rate = 0.0  # tokens per second
        self._granted = 0
        self._seconds = STEP_SECONDS_ALONE

    def tokens(self, *, beside_decoding: bool) -> int:
        seconds = STEP_SECONDS_BESIDE_DECODING if beside_decoding else STEP_SECONDS_ALONE
        found = self._first
        if self._rate:
            found = max(SMALLEST_CHUNK, int(self._rate * seconds))
        self._granted, self._seconds = min(found, self._largest), seconds
        return self._granted

    def observe(self, chunks: Sequence[Chunk], seconds: float) -> None:
        """A step with these chunks took that long."""
        tokens = prompt_tokens(chunks)
        if tokens < SMALLEST_CHUNK or not self._adapts:
            return
        rate = tokens / seconds
        if rate < self._rate and tokens < self._granted and seconds < self._seconds:
            return
        self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate


def split_batch(
    running: Sequence[Request], *, batch_tokens: int, prefill_tokens: int
) -> list[Chunk]:
    """The chunks of a batch of at most `batch_tokens`, of them at most `prefill_tokens` of prompts.

    Requests that need one token come first, so that no answer stands still; then prompts in the
    order of admission. Last comes one prompt at most whose tokens are scored, without its last
    token: that is an answer's.
    """
    answers: list[Chunk] = []
    prompts = []
    for request in running:
        if request.pending == 1:
            answers.append((request, 1))
        elif request.pending:
            prompts.append(request)
    chunks = answers[:batch_tokens]
    if not prompts:
        return chunks
    left = min(batch_tokens - len(chunks), prefill_tokens)
    for request in prompts:
        if left > 0 and not request.scored_pending:
            count = min(request.pending_alike, left)
            chunks.append((request, count))
            left -= count
    for request in [one for one in prompts if one.scored_pending][:1]:
        if left > 0:
            count = min(request.scored_pending, request.pending_alike, left, SCORED_AT_ONCE)
            chunks.append((request, count))
    return chunks


def with_expected(chunks: Sequence[Chunk], *, batch_tokens: int) -> list[Chunk]:
    """The chunks, with expected answers behind the prompts that they complete, as drafts: so one
    reading of a prompt is enough for both. Prompts that a batch has no room for wait with their
    last token."""
    rows, room = EXPECTED_AT_ONCE, batch_tokens - sum(count for _, count in chunks)
    planned: list[Chunk] = []
    for request, count in chunks:
        expected = request.expected
        if expected:
            request.draft = ()
        if expected and count == request.pending:
            if len(expected) <= rows and len(expected) - 1 <= room:
                request.draft = expected[:-1]
                rows -= len(expected)
                room -= len(expected) - 1
            elif count == 1:
                continue
            else:
                count -= 1
        planned.append((request, count))
    return planned


def answers_next(chunks: Sequence[Chunk]) -> list[Request]:
    """The requests that a step begins with and that get one token each, without a draft."""
    answers = []
    for request, count in chunks:
        if count != 1 or request.draft or request.pending != 1 or not request.generated:
            break
        answers.append(request)
    return answers


def prompt_tokens(chunks: Sequence[Chunk]) -> int:
    """Tokens of prompts among them; a chunk of one token is an answer's."""
    return sum(count for _, count in chunks if count > 1)
