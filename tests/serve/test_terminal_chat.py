"""The terminal chat where the server fails in the middle of an answer."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.serve.replies import DONE, Replies, event
from tests.support import Runner
from tuneserve.chat.template import Message
from tuneserve.errors import TuneserveError
from tuneserve.serve.terminal_chat import Client, ask

GREETING: list[Message] = [{"role": "user", "content": "Hello"}]


def _client(address: str, model: str | None = "m") -> Client:
    return Client(address, model=model, api_key=None, temperature=0.0, seed=None, max_tokens=None)


def test_an_answer_that_breaks_off_is_one_error(address: str, replies: type[Replies]) -> None:
    replies.body, replies.missing = [event("Half")], 100_000
    pieces = _client(address).chat(GREETING)
    assert next(pieces) == "Half"
    with pytest.raises(TuneserveError, match="no server answers here"):
        next(pieces)


@pytest.mark.parametrize(
    "rest", ["", ": ping\n\n", event("\ndata: [DONE]\n\n"), event(" of it").rstrip()]
)
def test_a_stream_that_is_closed_before_its_end_is_no_answer(
    rest: str, address: str, replies: type[Replies], capsys: pytest.CaptureFixture[str]
) -> None:
    replies.body = [event("Half"), rest]
    with pytest.raises(TuneserveError, match="the answer broke off"):
        ask(_client(address), "Hello", system="", raw=False)
    assert capsys.readouterr().out.startswith("Half")


def test_the_command_fails_for_half_an_answer(
    tuneserve: Runner, address: str, replies: type[Replies]
) -> None:
    replies.body = [event("Half")]
    done = tuneserve("chat", "--url", address, "--model", "m", "--prompt", "Hello")
    assert (done.returncode, done.stdout) == (1, "Half\n")
    assert done.stderr.startswith(f"error: {address}: the answer broke off")


def test_a_text_that_goes_on_is_asked_for_some_tokens(
    tuneserve: Runner, address: str, replies: type[Replies]
) -> None:
    replies.body = [DONE]
    for options in (["--raw"], ["--raw", "--max-tokens", "9"], []):
        done = tuneserve("chat", "--url", address, "--model", "m", "--prompt", "Once", *options)
        assert done.returncode == 0, done.stderr
    asked = [body.get("max_tokens") for body in replies.asked[-3:]]
    assert asked == [256, 9, None]


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ([DONE], ""), (["data: [DO", "NE]\r\n\r\n"], ""), (["data:[DONE]\n\n"], ""),
        ([event("", "stop")], ""), ([event("", "stop"), DONE], ""),
        ([event("", "length"), DONE], "as long as it may be"),
        ([event("", "content_filter"), DONE], "left out a part"),
    ],
)  # fmt: skip
def test_why_an_answer_ended_is_told(
    rest: list[str], told: str, address: str, replies: type[Replies],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    replies.body = [event("All"), *rest]
    assert ask(_client(address), "Hello", system="", raw=False) == "All"
    said = capsys.readouterr().err
    assert told in said
    assert bool(said) == bool(told)


@pytest.mark.parametrize(
    "body",
    [
        '{"data": {"x": 1}}', '{"data": "m"}', '{"data": [[]]}', '{"data": {"0": {"id": "m"}}}',
    ],
)  # fmt: skip
def test_a_list_of_models_that_is_none_is_one_error(
    body: str, address: str, replies: type[Replies]
) -> None:
    replies.body = [body]
    with pytest.raises(TuneserveError, match="reply is not that of an OpenAI-compatible API"):
        _client(address, None)


@pytest.mark.parametrize(
    "choices",
    [{"x": 1}, "x", 3, [3], [None], [[]], [{"delta": 3}], [{"delta": {"content": {"a": 1}}}],
     [{"delta": {"content": "x"}, "finish_reason": 3}]],
    ids=str,
)  # fmt: skip
def test_choices_that_are_none_are_one_error(
    choices: Any, address: str, replies: type[Replies]
) -> None:
    replies.body = [f"data: {json.dumps({'choices': choices})}\n\n", DONE]
    with pytest.raises(TuneserveError):
        list(_client(address).chat(GREETING))


@pytest.mark.parametrize("line", ["data: ", "data: x\n", "x", ": "])
def test_an_event_without_end_is_one_error_and_no_memory(
    line: str, address: str, replies: type[Replies]
) -> None:
    piece = line * (100_000 // len(line))
    replies.body = itertools.chain([event("Half")], itertools.repeat(piece, 500))
    pieces = _client(address).chat(GREETING)
    assert next(pieces) == "Half"
    with pytest.raises(TuneserveError, match="an event of more than 1 MiB"):
        next(pieces)
    assert replies.sent < 20 << 20  # of 50 MB; what lies in the buffers between is sent


def test_a_list_of_models_without_end_is_one_error(address: str, replies: type[Replies]) -> None:
    replies.body = itertools.repeat(" " * 100_000, 500)
    with pytest.raises(TuneserveError, match="more than 16 MiB"):
        _client(address, None)


def test_a_compressed_reply_is_not_unpacked(address: str, replies: type[Replies]) -> None:
    replies.headers_too = {"content-encoding": "gzip"}
    with pytest.raises(TuneserveError, match="is compressed"):
        list(_client(address).chat(GREETING))


def test_many_events_are_as_long_as_they_like(address: str, replies: type[Replies]) -> None:
    replies.body = [*[event("x" * 100_000)] * 30, DONE]
    assert len("".join(_client(address).chat(GREETING))) == 3_000_000
