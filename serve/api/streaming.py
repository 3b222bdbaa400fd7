"""Answers over HTTP that notice when the client has gone: whole, or as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import Response
from starlette.types import Receive, Scope, Send

from tuneserve.serve.api.errors import ApiError, as_api_error, to_json
from tuneserve.serve.api.mailbox import Mailbox, Mailboxes
from tuneserve.serve.api.writers import Writer
from tuneserve.serve.engine import (
    Completion,
    Delta,
    Engine,
    EngineError,
    Event,
    Generation,
    SamplingParams,
    UnavailableError,
)

Batch = list[tuple[int, Delta | Completion]]
"""(choice, event) pairs that came together."""


@asynccontextmanager
async def cancelled_when_gone(
    receive: Callable[[], Awaitable[object]], cancel: Callable[[], object]
) -> AsyncIterator[asyncio.Task[None]]:
    """While the block runs, watch the connection; call `cancel` if the client leaves. The task
    that is given to the block is done then.

    It is called as well if the block itself is left early. The request's body has been read, so
    the next thing to be received is the client's leaving.
    """

    async def watch() -> None:
        await receive()
        cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield watcher
    except BaseException:
        cancel()
        raise
    finally:
        watcher.cancel()


class EventStream(Response):
    """Server-sent events of some answers, written as the engine delivers them.

    A request that fails in the queue gets its status, as long as it has waited less than
    `ping_seconds`: after so long without an event, and then as often, a comment is sent, so that
    nobody on the way takes the connection for dead (0: none is). From the first comment on a
    failure is an event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        answers: Answers,
        writer: Writer,
        *,
        include_usage: bool,
        usage_in_chunks: bool = False,
        ping_seconds: float,
        on_end: Callable[[Sequence[Completion]], None],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        # Its length is not known, so it is sent in chunks.
        del self.headers["content-length"]
        self._answers = answers
        self._writer = writer
        self._include_usage = include_usage
        self._usage_in_chunks = usage_in_chunks
        self._counted = 0
        self._ping_seconds = ping_seconds
        self._on_end = on_end
        self.completions: dict[int, Completion] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line = _Line(send, self.status_code, self.raw_headers)
        async with cancelled_when_gone(receive, self._answers.cancel) as gone:
            try:
                async with _pinging(line, self._writer.ping, self._ping_seconds):
                    failure = await self._answered(line, gone)
            finally:
                self._on_end([*self.completions.values()])
            if failure is None and gone.done():
                return
            if failure is not None and not line.begun:
                await failure.response()(scope, receive, send)
                return
            if failure is not None:
                await line.write(self._writer.failure(failure))
            await line.end()

    async def _answered(self, line: _Line, gone: asyncio.Task[None]) -> ApiError | None:
        """Write the events as they come; returns what ended them too early."""
        batches = self._answers.events()
        try:
            first = await anext(batches)
            if not gone.done():
                await self._send_events(line, first, batches)
        except EngineError as error:
            return as_api_error(error)
        except asyncio.CancelledError:
            # The server ends without waiting for the answer.
            return as_api_error(UnavailableError("the server is shutting down"))
        return None

    async def _send_events(self, line: _Line, first: Batch, batches: AsyncIterator[Batch]) -> None:
        writer = self._writer
        opening = b"".join(writer.first(index) for index in range(len(self._answers)))
        await line.write(opening + self._written(first))
        async for batch in batches:
            await line.write(self._written(batch))
        done = [self.completions[index] for index in range(len(self._answers))]
        await line.write(writer.end(done, include_usage=self._include_usage))

    def _written(self, batch: Batch) -> bytes:
        parts = []
        for index, one in batch:
            if isinstance(one, Completion):
                self.completions[index] = one
                parts.append(self._writer.last(index, one))
            else:
                self._counted += len(one.tokens)
                parts.append(self._writer.delta(index, one))
        return self._with_usage(b"".join(parts))

    def _with_usage(self, events: bytes) -> bytes:
        """Events with the token counts so far in each, if they are asked for."""
        if not self._usage_in_chunks:
            return events
        prompt, answer = self._answers.prompt_tokens, self._counted
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }
        # Within an event's JSON no line ends.
        return events.replace(b"}\n\n", b',"usage":' + to_json(usage) + b"}\n\n")


class _Line:
    """The body of a streamed response, which begins with what is written first."""

    def __init__(self, send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._start = {"type": "http.response.start", "status": status, "headers": headers}
        self._lock = asyncio.Lock()
        self.begun = False
        self.written = time.monotonic()

    async def write(self, body: bytes) -> None:
        if not body:
            return
        async with self._lock:
            if not self.begun:
                self.begun = True
                await self._send(self._start)
            self.written = time.monotonic()
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        async with self._lock:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def _pinging(line: _Line, ping: bytes, seconds: float) -> AsyncIterator[None]:
    """While the block runs, write a ping whenever nothing was written for so many seconds."""

    async def watch() -> None:
        while True:
            left = line.written + seconds - time.monotonic()
            if left <= 0:
                await line.write(ping)
            else:
                await asyncio.sleep(left)

    watcher = asyncio.create_task(watch()) if seconds else None
    try:
        yield
    finally:
        if watcher is not None:
            watcher.cancel()


class Bridge:
    """Carries events out of the engine's thread, into `mailboxes`, which hold at most so many bytes
    that nobody reads. `flush` is the engine's after_step."""

    def __init__(self, most_unread: int) -> None:
        self.mailboxes = Mailboxes(most_unread)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outbox: list[tuple[Mailbox, int, Event]] = []

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver to this loop; before any request is submitted."""
        self._loop = loop

    def post(self, mailbox: Mailbox, index: int, event: Event) -> None:
        """Called in the engine's thread."""
        self._outbox.append((mailbox, index, event))

    def flush(self) -> None:
        """Called in the engine's thread after each step."""
        if not self._outbox or self._loop is None:
            return
        events, self._outbox = self._outbox, []
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_spread, events)


def _spread(events: list[tuple[Mailbox, int, Event]]) -> None:
    for mailbox, index, arrived in events:
        mailbox.put(index, arrived)


class Answers:
    """The answers to one HTTP request: one generation for every prompt and choice."""

    def __init__(self, engine: Engine, bridge: Bridge, *, adapter: str | None = None) -> None:
        self.adapter = adapter
        self._engine = engine
        self._bridge = bridge
        self._mailbox = Mailbox()
        self._generations: list[Generation] = []
        self.prompt_tokens = 0
        """Of all prompts together; one counts once, however many answers it has."""

    def __len__(self) -> int:
        return len(self._generations)

    def start(self, asked: Sequence[tuple[Sequence[int], SamplingParams]], *, stream: bool) -> None:
        """Submit all; if one is refused, none goes on. Raises what Engine.submit raises."""
        self._mailbox = self._bridge.mailboxes.new(stream=stream)
        try:
            for index, (prompt, sampling) in enumerate(asked):
                listen = partial(self._bridge.post, self._mailbox, index)
                generation = self._engine.submit(
                    prompt, sampling, adapter=self.adapter, on_event=listen, stream=stream
                )
                self._generations.append(generation)
                if not index or prompt is not asked[index - 1][0]:
                    self.prompt_tokens += len(prompt)
        except Exception:
            self.cancel()
            raise

    @property
    def inactive(self) -> int:
        """Answers that are the base's alone, though an adapter was asked for: its invocation
        sequence is not in their prompts."""
        asked = self.adapter is not None
        return sum(asked and generation.is_base for generation in self._generations)

    def cancel(self) -> None:
        for generation in self._generations:
            generation.cancel()

    async def events(self) -> AsyncIterator[Batch]:
        """(choice, event) as they come, several at a time, until every answer has ended.

        Raises EngineError if the engine fails, or if it goes on while nobody takes what comes.
        """
        left = len(self)
        while left:
            batch: Batch = []
            failure: EngineError | None = None
            for index, arrived in await self._mailbox.take():
                if isinstance(arrived, EngineError):
                    failure = arrived
                    break
                left -= isinstance(arrived, Completion)
                batch.append((index, arrived))
            if batch:
                yield batch
            if failure is not None:
                self.cancel()
                raise failure

    async def completions(self) -> list[Completion]:
        """All answers, whole, in order."""
        done: dict[int, Completion] = {}
        async for batch in self.events():
            done.update((index, event) for index, event in batch if isinstance(event, Completion))
        return [done[index] for index in range(len(self))]
