"""Answers over HTTP that notice when the client has gone: whole, or as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import Response
from starlette.types import Receive, Scope, Send

from tuneserve.serve.api.errors import as_api_error
from tuneserve.serve.api.writers import DONE, Writer, event, to_json
from tuneserve.serve.engine import (
    Completion,
    Delta,
    Engine,
    EngineError,
    Event,
    Generation,
    SamplingParams,
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
    """Server-sent events of some answers, written as the engine delivers them."""

    media_type = "text/event-stream"

    def __init__(
        self,
        answers: Answers,
        writer: Writer,
        *,
        include_usage: bool,
        usage_in_chunks: bool = False,
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
        self._on_end = on_end
        self.completions: dict[int, Completion] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        batches = self._answers.events()
        async with cancelled_when_gone(receive, self._answers.cancel) as gone:
            # Nothing is sent before something has come: a request that fails in the queue still
            # gets its status.
            try:
                first = await anext(batches)
            except EngineError as error:
                await as_api_error(error).response()(scope, receive, send)
                return
            if gone.done():
                return
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            try:
                await self._send_events(send, first, batches)
            except EngineError as error:
                await _send(send, event(as_api_error(error).body))
            finally:
                self._on_end([*self.completions.values()])
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_events(self, send: Send, first: Batch, batches: AsyncIterator[Batch]) -> None:
        writer = self._writer
        opening = b"".join(writer.first(index) for index in range(len(self._answers)))
        await _send(send, opening + self._written(first))
        async for batch in batches:
            await _send(send, self._written(batch))
        tail = DONE
        if self._include_usage:
            done = [self.completions[index] for index in range(len(self._answers))]
            tail = writer.usage(done) + tail
        await _send(send, tail)

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
        prompt, answer = self._answers.prompt_tokens // self._writer.choices, self._counted
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }
        # Within an event's JSON no line ends.
        return events.replace(b"}\n\n", b',"usage":' + to_json(usage) + b"}\n\n")


async def _send(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})


Mailbox = asyncio.Queue[tuple[int, Event]]
"""(choice, event) pairs of one request, in the event loop."""


class Bridge:
    """Carries events out of the engine's thread. `flush` is the engine's after_step."""

    def __init__(self) -> None:
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
        mailbox.put_nowait((index, arrived))


class Answers:
    """The answers to one HTTP request: one generation for every prompt and choice."""

    def __init__(self, engine: Engine, bridge: Bridge, *, adapter: str | None = None) -> None:
        self._adapter = adapter
        self._engine = engine
        self._bridge = bridge
        self._mailbox: Mailbox = asyncio.Queue()
        self._generations: list[Generation] = []
        self.prompt_tokens = 0
        """Of all choices' prompts together."""

    def __len__(self) -> int:
        return len(self._generations)

    def start(self, asked: Sequence[tuple[Sequence[int], SamplingParams]], *, stream: bool) -> None:
        """Submit all; if one is refused, none goes on. Raises what Engine.submit raises."""
        try:
            for index, (prompt, sampling) in enumerate(asked):
                listen = partial(self._bridge.post, self._mailbox, index)
                generation = self._engine.submit(
                    prompt, sampling, adapter=self._adapter, on_event=listen, stream=stream
                )
                self._generations.append(generation)
                self.prompt_tokens += len(prompt)
        except Exception:
            self.cancel()
            raise

    def cancel(self) -> None:
        for generation in self._generations:
            generation.cancel()

    async def events(self) -> AsyncIterator[Batch]:
        """(choice, event) as they come, several at a time, until every answer has ended.

        Raises EngineError if the engine fails.
        """
        left = len(self)
        while left:
            batch: Batch = []
            while not batch or not self._mailbox.empty():
                index, arrived = await self._mailbox.get()
                if isinstance(arrived, EngineError):
                    self.cancel()
                    raise arrived
                left -= isinstance(arrived, Completion)
                batch.append((index, arrived))
            yield batch

    async def completions(self) -> list[Completion]:
        """All answers, whole, in order."""
        done: dict[int, Completion] = {}
        async for batch in self.events():
            done.update((index, event) for index, event in batch if isinstance(event, Completion))
        return [done[index] for index in range(len(self))]
