"""What the writers write is what the published types of the answers say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from tuneserve.chat.call_formats import CallForm
from tuneserve.serve.api.anthropic.writer import MessageWriter
from tuneserve.serve.api.logprobs import TextOffsets, chat_logprobs, text_logprobs
from tuneserve.serve.api.prepare import Turn
from tuneserve.serve.api.replies import ChatCompletion, TextCompletion
from tuneserve.serve.api.writers import ChatWriter, TextWriter
from tuneserve.serve.engine import Completion, Delta, SamplingParams, Timings, TokenLogprob


class Vocabulary:
    def token_bytes(self, token: int, *, special: bool = True) -> bytes:
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
    asked = bool(logprobs)
    chat = ChatWriter("demo", model, turn, choices=2, logprobs=asked).whole([done, done])
    plain = TextWriter("demo", model, choices=2, logprobs=asked).whole([done, done])
    for answer, kind in ((chat, ChatCompletion), (plain, TextCompletion)):
        checked = TypeAdapter[Any](kind)
        assert checked.validate_json(answer, strict=True) == json.loads(answer)


def test_an_answer_without_a_token_has_log_probabilities_of_none() -> None:
    """Who asked for them reads their list."""
    done = Completion("", (2,), "stop", 5, 2, Timings(0.0, 0.1, 0.2))
    model: Any = Vocabulary()
    turn = Turn([1], SamplingParams(), calls=False)
    for asked, of_chat, of_text in (
        (False, None, None),
        (True, {"content": []},
         {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}),
    ):  # fmt: skip
        chat = ChatWriter("demo", model, turn, choices=1, logprobs=asked).whole([done])
        plain = TextWriter("demo", model, choices=1, logprobs=asked).whole([done])
        assert json.loads(chat)["choices"][0]["logprobs"] == of_chat
        assert json.loads(plain)["choices"][0]["logprobs"] == of_text


def pieces(text: str) -> list[TokenLogprob]:
    """Tokens of a byte each."""
    data = text.encode()
    return [TokenLogprob(byte, -1.0, ((byte, -1.0), (0xF0, -2.0))) for byte in data]


def test_parts_of_characters_have_keys_and_the_place_of_their_character() -> None:
    model: Any = Vocabulary()
    told = text_logprobs(model, pieces("A🦙é"), TextOffsets())
    assert told["tokens"][:3] == ["A", r"bytes:\xf0", r"bytes:\x9f"]
    assert told["text_offset"] == [0, 1, 1, 1, 1, 2, 2]
    assert told["top_logprobs"][2] == {r"bytes:\x9f": -1.0, r"bytes:\xf0": -2.0}
    chat = chat_logprobs(model, pieces("🦙"))
    assert [one["token"] for one in chat["content"]] == [r"\xf0", r"\x9f", r"\xa6", r"\x99"]
    assert bytes(byte for one in chat["content"] for byte in one["bytes"] or ()) == "🦙".encode()


def test_alternatives_of_one_text_do_not_overwrite_each_other() -> None:
    class Doubled(Vocabulary):
        def token_bytes(self, token: int, *, special: bool = True) -> bytes:
            return b"a"

    model: Any = Doubled()
    told = text_logprobs(model, [TokenLogprob(1, -1.0, ((1, -1.0), (2, -3.0)))], TextOffsets())
    assert told["top_logprobs"] == [{"a": -1.0, r"bytes:\x61": -3.0}]


def test_offsets_of_a_stream_are_those_of_the_whole() -> None:
    model: Any = Vocabulary()
    tokens = pieces("A🦙B")
    offsets = TextOffsets()
    streamed = [text_logprobs(model, [token], offsets) for token in tokens]
    whole = text_logprobs(model, tokens, TextOffsets())
    assert [one["text_offset"][0] for one in streamed if one] == whole["text_offset"]


def test_arguments_that_are_no_json_reach_a_client_of_anthropics() -> None:
    text = '<tool_call>{"name": "f", "arguments": {oops'
    done = Completion(text, (1,), "length", 5, 0, Timings(0.0, 0.1, 0.2))
    turn = Turn([1], SamplingParams(), calls=True)

    class Whole(Vocabulary):
        def token_bytes(self, token: int, *, special: bool = True) -> bytes:
            return text.encode()

        def is_end(self, token: int) -> bool:
            return False

    model: Any = Whole()
    [block] = json.loads(MessageWriter("demo", model, turn).whole([done]))["content"]
    assert (block["name"], block["input"]) == ("f", {"INVALID_JSON": "{oops"})


def test_a_stream_of_calls_alone_shows_no_text_either() -> None:
    model: Any = Vocabulary()
    llama = CallForm(middle='", "parameters": ', several=False)
    turn = Turn([1], SamplingParams(), calls=True, form=llama, only_calls=True)
    done = Completion("} x", (1, 2), "length", 5, 0, Timings(0.0, 0.1, 0.2))
    writer = ChatWriter("demo", model, turn, choices=1)
    assert json.loads(writer.whole([done]))["choices"][0]["message"]["content"] == ""
    assert writer.delta(0, Delta("}", (1,))) + writer.delta(0, Delta(" x", (2,))) == b""
