"""What the writers write is what the published types of the answers say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from tuneserve.serve.api.prepare import Turn
from tuneserve.serve.api.protocol import ChatCompletion, TextCompletion
from tuneserve.serve.api.writers import ChatWriter, TextWriter
from tuneserve.serve.engine import Completion, SamplingParams, Timings, TokenLogprob


class Vocabulary:
    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


LOGPROBS = (TokenLogprob(97, -0.5, ((97, -0.5), (98, -1.0))), TokenLogprob(200, -2.0))


@pytest.mark.parametrize("logprobs", [(), LOGPROBS])
@pytest.mark.parametrize(
    "text",
    ["Hi", '<think>so</think><tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'],
)
def test_answers_are_as_published(text: str, logprobs: tuple[TokenLogprob, ...]) -> None:
    done = Completion(text, (1, 2, 3), "stop", 5, 2, Timings(0.0, 0.1, 0.2), logprobs)
    model: Any = Vocabulary()
    turn = Turn([1], SamplingParams(thoughts="may"), calls=True)
    chat = ChatWriter("demo", model, turn, choices=2).whole([done, done])
    plain = TextWriter("demo", model, choices=2).whole([done, done])
    for answer, kind in ((chat, ChatCompletion), (plain, TextCompletion)):
        checked = TypeAdapter[Any](kind)
        assert checked.validate_json(answer, strict=True) == json.loads(answer)
