"""Text that models and servers write: answers with calls and thoughts, streams, terminals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from fuzz.target import Target, must
from tuneserve.chat.call_formats import HERMES, CallForm
from tuneserve.chat.thinking import CLOSE_THOUGHTS, OPEN_THOUGHTS
from tuneserve.serve.bounded_replies import http_library
from tuneserve.serve.chat.answer_parser import PartReader
from tuneserve.serve.chat.parts import CallBegin, Part
from tuneserve.serve.terminal_chat import Client
from tuneserve.visible import hidden_parts, json_text, one_line, visible

_FORMS = (
    HERMES,
    CallForm(middle='", "parameters": ', several=False),
    CallForm(begin="[TOOL_CALLS]", head="", middle="[ARGS]", tail=""),
    CallForm(section="[TOOL_CALLS][", tail=', "id": "\x00"}', separator=",", section_end="]"),
)
_FUNCTIONS = {"f": {"parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}}
_THOUGHTS = ("none", "may", "open")


def _plain(parts: Sequence[Part]) -> list[Any]:
    """The parts with their texts put together; ids of calls are drawn anew each time."""
    found: list[Any] = []
    for part in parts:
        if isinstance(part, CallBegin):
            found.append(("call", part.name))
        elif found and found[-1][0] == type(part).__name__:
            found[-1] = (found[-1][0], found[-1][1] + part.text)
        else:
            found.append((type(part).__name__, part.text))
    return [one for one in found if one[1]]


def _check_calls(data: bytes) -> None:
    """However an answer is cut into pieces, the same comes out."""
    head, text = data[:3].ljust(3, b"\0"), data[3:].decode("utf-8", "replace")
    form = _FORMS[head[0] % len(_FORMS)]
    thoughts: Any = _THOUGHTS[head[1] % len(_THOUGHTS)]
    size = 1 + head[2] % 7

    def read(pieces: Sequence[str]) -> list[Any]:
        reader = PartReader(thoughts, calls=form, functions=_FUNCTIONS)
        parts: list[Part] = []
        for piece in pieces:
            parts += reader.feed(piece)
        return _plain([*parts, *reader.finish()])

    whole = read([text])
    cut = read([text[at : at + size] for at in range(0, len(text), size)])
    must(whole == cut, f"whole: {whole!r}, in pieces of {size}: {cut!r}")


def _call_seeds() -> dict[str, bytes]:
    texts = [
        'Hm. <tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>',
        '{"name": "f", "parameters": {"x": "ä\\n{"}}',
        '[TOOL_CALLS]f[ARGS]{"x": [1, {"y": null}]}',
        '[TOOL_CALLS][{"name": "f", "arguments": {}, "id": "abcdefghi"}]',
        f"{OPEN_THOUGHTS}\nwell\n{CLOSE_THOUGHTS}\n\nanswer",
    ]
    return {str(n): bytes([n % 4, n % 3, n]) + text.encode() for n, text in enumerate(texts)}


@cache
def _client() -> tuple[Client, Any]:
    import openai

    http = http_library()
    state: dict[str, bytes] = {}

    def reply(_: Any) -> Any:
        return http.Response(
            200, headers={"content-type": "text/event-stream"}, content=iter([state["body"]])
        )

    client = Client("http://x/v1", model="m", api_key=None, temperature=0, seed=0, max_tokens=1)
    client._openai = openai.OpenAI(
        base_url="http://x/v1",
        api_key="x",
        max_retries=0,
        http_client=client._replies.client(transport=http.MockTransport(reply)),
    )
    return client, state


def _check_stream(data: bytes) -> None:
    """What any server may send to `tuneserve chat`."""
    client, state = _client()
    state["body"] = data
    pieces = list(client.chat([{"role": "user", "content": "x"}]))
    must(all(isinstance(piece, str) for piece in pieces), "a piece is no text")


def _stream_seeds() -> dict[str, bytes]:
    chunk = {
        "id": "x",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}],
    }
    lines = f": ping\n\ndata: {json.dumps(chunk)}\n\nevent: x\r\nid: 3\ndata: [DONE]\n\n"
    return {"stream": lines.encode()}


def _check_terminal(data: bytes) -> None:
    text = data.decode("utf-8", "surrogatepass" if data[:1] == b"s" else "replace")
    for shown in (visible(text), one_line(text), "".join(part for part, _ in hidden_parts(text))):
        must(not set(shown) & _OBEYED, f"{shown!r} acts on a terminal")
    must("\n" not in one_line(text), "a line break is left")
    must(json.loads(json_text(text)) == text, "JSON is not exact")
    middle = len(text) // 2
    pieces = visible(text[:middle]) + visible(text[middle:], before=text[:middle])
    must(pieces == visible(text), "in pieces it is shown otherwise")


_OBEYED = {
    chr(code) for code in (*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0))
} | set(
    "\r\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)


def _terminal_seeds() -> dict[str, bytes]:
    return {"text": "naïve 👩\u200d🚀\n\x1b[8mx\u202e\x9b".encode()}


TARGETS = (
    Target(
        "calls",
        _check_calls,
        _call_seeds,
        (
            b"<tool_call>",
            b"</tool_call>",
            b'{"name": "',
            b'"arguments": ',
            b"[TOOL_CALLS]",
            b"[ARGS]",
            OPEN_THOUGHTS.encode(),
            CLOSE_THOUGHTS.encode(),
            b"```json",
        ),
    ),
    Target(
        "stream",
        _check_stream,
        _stream_seeds,
        (
            b"data: ",
            b"\n\n",
            b"[DONE]",
            b'"choices"',
            b'"delta"',
            b'"content"',
            b"event: error",
            b'{"error": {"message": ',
            b"\r",
        ),
    ),
    Target(
        "terminal",
        _check_terminal,
        _terminal_seeds,
        (b"\x1b[2J", b"\xc2\x9b", b"\xe2\x80\x8d", b"\xef\xb8\x8f", b"\xf0\x9f\x9a\x80"),
        (UnicodeDecodeError,),
    ),
)
