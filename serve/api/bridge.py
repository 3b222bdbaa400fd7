"""Between the engine's thread and the event loop.

A step of the engine touches every running answer; its events cross to the event loop together, in
one wake-up, and each answer takes all that has come for it at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from tuneserve.serve.engine import (
    Completion,
    Delta,
    Engine,
    EngineError,
    Event,
    Generation,
    SamplingParams,
)


class Mailbox:
    """Events of one request, in the event loop."""

    def __init__(self) -> None:
        self._events: list[tuple[int, Event]] = []
        self._arrived = asyncio.Event()

    def put(self, index: int, event: Event) -> None:
        self._events.append((index, event))
        self._arrived.set()

    async def take(self) -> list[tuple[int, Event]]:
        """All events that have come; waits for the first."""
        await self._arrived.wait()
        self._arrived.clear()
        events, self._events = self._events, []
        return events


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
    for mailbox, index, event in events:
        mailbox.put(index, event)


class Answers:
    """The answers to one HTTP request: one generation for every prompt and choice."""

    def __init__(self, engine: Engine, bridge: Bridge, *, adapter: str | None = None) -> None:
        self._adapter = adapter
        self._engine = engine
        self._bridge = bridge
        self._mailbox = Mailbox()
        self._generations: list[Generation] = []

    def start(
        self, prompts: Sequence[Sequence[int]], samplings: Sequence[SamplingParams], *, stream: bool
    ) -> None:
        """Submit all; if one is refused, none goes on. Raises what Engine.submit raises."""
        try:
            for index, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
                self._generations.append(self._submit(index, prompt, sampling, stream))
        except Exception:
            self.cancel()
            raise

    def _submit(
        self, index: int, prompt: Sequence[int], sampling: SamplingParams, stream: bool
    ) -> Generation:
        def listen(event: Event) -> None:
            self._bridge.post(self._mailbox, index, event)

        return self._engine.submit(
            prompt, sampling, adapter=self._adapter, on_event=listen, stream=stream
        )

    def cancel(self) -> None:
        for generation in self._generations:
            generation.cancel()

    async def events(self) -> AsyncIterator[list[tuple[int, Delta | Completion]]]:
        """(choice, event) as they come, several at a time, until every answer has ended.

        Raises EngineError if the engine fails.
        """
        left = len(self._generations)
        while left:
            batch: list[tuple[int, Delta | Completion]] = []
            for index, event in await self._mailbox.take():
                if isinstance(event, EngineError):
                    self.cancel()
                    raise event
                left -= isinstance(event, Completion)
                batch.append((index, event))
            yield batch

    async def completions(self) -> list[Completion]:
        """All answers, whole, in order."""
        done: dict[int, Completion] = {}
        async for batch in self.events():
            done.update((index, event) for index, event in batch if isinstance(event, Completion))
        return [done[index] for index in range(len(self._generations))]
