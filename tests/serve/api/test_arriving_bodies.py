"""Bodies that arrive together, and requests whose mistakes are too many to be listed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from tuneserve.serve.api.arrival import ArrivingBody, Bodies
from tuneserve.serve.api.description_page import description_page
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.protocol import ChatRequest, CompletionRequest

PIECE = 100_000


class Sender:
    """A client that has sent some pieces and sends more when it is told to."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.more = asyncio.Event()

    async def receive(self) -> Any:
        if not self.pieces:
            await self.more.wait()
            return {"type": "http.request", "body": b"a" * PIECE, "more_body": False}
        self.pieces -= 1
        return {"type": "http.request", "body": b"a" * PIECE, "more_body": True}


async def read(bodies: Bodies, sender: Sender, *, seconds: float = 60) -> int:
    """Bytes of a whole body."""
    body = ArrivingBody(sender.receive, seconds)
    size, more = 0, True
    with bodies.holding(body):
        while more:
            message = await body.receive()
            size += len(message["body"])
            more = message["more_body"]
    return size


def test_the_body_that_began_first_gives_way() -> None:
    async def ask() -> None:
        bodies = Bodies(10 * PIECE)
        first, second, third = Sender(6), Sender(3), Sender(6)
        reading = []
        for sender in (first, second, third):
            reading.append(asyncio.create_task(read(bodies, sender)))
            await asyncio.sleep(0.01)
        with pytest.raises(ApiError) as refused:
            await reading[0]
        assert refused.value.status_code == 503
        assert not reading[1].done()
        assert not reading[2].done()
        for sender in (second, third):
            sender.more.set()
        assert await reading[1] == 4 * PIECE
        assert await reading[2] == 7 * PIECE
        assert bodies._held == 0

    asyncio.run(ask())


def test_a_body_that_does_not_come_is_told_so() -> None:
    async def ask() -> None:
        bodies = Bodies(10 * PIECE)
        with pytest.raises(ApiError) as refused:
            await read(bodies, Sender(2), seconds=0.05)
        assert refused.value.status_code == 408
        assert bodies._held == 0

    asyncio.run(ask())


MESSAGE = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (CompletionRequest, {"prompt": [None] * 100_000}),
        (CompletionRequest, {"prompt": [[None]] * 100_000}),
        (CompletionRequest, {"prompt": [*[1] * 100_000, "a"]}),
        (CompletionRequest, {"prompt": "a", **{f"x{number}": 1 for number in range(100_000)}}),
        (CompletionRequest, {"prompt": "a", "logit_bias": {str(one): "x" for one in range(9999)}}),
        (CompletionRequest, {"prompt": "a", "logit_bias": {str(one): 101 for one in range(9999)}}),
        (CompletionRequest, {"prompt": "a", "stop": [1] * 100_000}),
        (CompletionRequest, {"prompt": "a", "guided_choice": [1] * 100_000}),
        (ChatRequest, {"messages": [None] * 100_000}),
        (ChatRequest, {"messages": [{"role": "user", "content": [None] * 100_000}]}),
        (ChatRequest, {"messages": [{"role": "x"}] * 100_000}),
        (ChatRequest, {"messages": [MESSAGE], "tools": [{}] * 100_000}),
        (
            ChatRequest,
            {
                "messages": [MESSAGE],
                "chat_template_kwargs": {f"x{number}": [] for number in range(10_000)},
            },
        ),
    ],
)  # fmt: skip
def test_a_hundred_thousand_mistakes_are_a_few_errors(kind: Any, fields: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(fields)
    assert refused.value.error_count() <= 8


def test_the_description_shows_and_escapes_all_paths() -> None:
    operation = {"summary": "<b>", "responses": {"200": {"description": "fine"}}}
    page = description_page(
        {"info": {"title": "t", "version": "1"}, "paths": {"/a<b>": {"get": operation}}}
    )
    assert "GET /a&lt;b&gt;" in page
    assert "<b>" not in page
    assert "<script" not in page
    assert "http" not in page
