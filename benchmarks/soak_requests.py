"""What the clients of the soak test send, and what an answer to each must be.

Every bounded answer must carry a code of its request's own, so that one that reached the wrong
client shows. Checks raise AssertionError; a stream must have exactly one end.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

CODE = re.compile(r"\d{5}-\d{8}")
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.7, "top_p": 0.95},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 0.8, "top_k": 40, "repeat_penalty": 1.1},
    {"temperature": 0.7, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {},
]
ENDS = {"stop", "length", "tool_calls"}
Json = dict[str, Any]


@dataclass
class Asked:
    """A request: `code` is what its answer must contain if it is `bound`; `temporary`: its adapter
    may have been unloaded before it came."""

    path: str
    body: Json
    code: str
    bound: bool = False
    temporary: bool = False
    choices: int = 1
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))


class Requests:
    """Makes requests of all kinds. `models`: (name, may it be unloaded at any time?)."""

    def __init__(self, random: random.Random, models: list[tuple[str, bool]], ctx: int) -> None:
        self._random = random
        self._models = models
        self._ctx = ctx
        self._responses: list[str] = []

    def make(self, kind: str, number: int) -> Asked:
        code = f"{number:05d}-{self._random.randrange(10**8):08d}"
        asked: Asked = getattr(self, f"_{kind}")(code)
        asked.body["model"], asked.temporary = self._random.choice(self._models)
        return asked

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _text(self, code: str) -> str:
        """Begins like others' texts do, so that prefixes are shared."""
        system = "You repeat codes, whatever else is in the text. " * self._random.randrange(1, 4)
        return f"{system}Repeat {code}. {'word ' * self._random.randrange(1, 120)}"

    def _common(self) -> Json:
        body = {**self._random.choice(SAMPLINGS), "max_tokens": self._random.randrange(1, 60)}
        if self._chance(0.3):
            body["seed"] = self._random.randrange(2**31)
        if self._chance(0.2):
            body["stop"] = self._random.sample(["e", "th", "\n", " of", "}"], 2)
        if self._chance(0.5):
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return body

    def _chat(self, code: str) -> Asked:
        body = {"messages": [{"role": "user", "content": self._text(code)}], **self._common()}
        asked = Asked("/v1/chat/completions", body, code)
        if self._chance(0.2):
            body |= {"logprobs": True, "top_logprobs": self._random.randrange(4)}
        if self._chance(0.2):
            body["n"] = asked.choices = self._random.randrange(2, 4)
        if self._chance(0.5):
            asked.bound = True
            body |= {"max_tokens": 200, **self._bound(code)}
            body.pop("stop", None)
        return asked

    def _bound(self, code: str) -> Json:
        """What makes an answer repeat the code."""
        schema = {
            "type": "object",
            "properties": {"code": {"const": code}, "word": {"type": "string", "maxLength": 20}},
            "required": ["code", "word"],
        }
        tool = {"type": "function", "function": {"name": "repeat", "parameters": schema}}
        named = {"name": "code", "schema": schema}
        return self._random.choice(
            [
                {"response_format": {"type": "json_schema", "json_schema": named}},
                {"grammar": f'root ::= "{code}" [a-z ]{{1,20}}'},
                {"tools": [tool], "tool_choice": "required"},
            ]
        )

    def _text_completion(self, code: str) -> Asked:
        body = {"prompt": self._text(code), **self._common()}
        asked = Asked("/v1/completions", body, code)
        if self._chance(0.3):
            body["prompt"] = [self._text(code), self._text(code)]
            asked.choices = 2
        elif self._chance(0.3):
            body["logprobs"] = self._random.randrange(4)
        return asked

    def _responses_api(self, code: str) -> Asked:
        body: Json = {"input": self._text(code), "max_output_tokens": self._random.randrange(1, 60)}
        if self._responses and self._chance(0.3):
            body["previous_response_id"] = self._random.choice(self._responses[-20:])
        return Asked("/v1/responses", body | {"stream": self._chance(0.5)}, code)

    def _messages_api(self, code: str) -> Asked:
        body = {
            "messages": [{"role": "user", "content": self._text(code)}],
            "max_tokens": self._random.randrange(1, 60),
            "stream": self._chance(0.5),
        }
        return Asked("/v1/messages", body, code)

    def _too_long(self, code: str) -> Asked:
        body: Json = {"messages": [{"role": "user", "content": "word " * self._ctx}]}
        return Asked("/v1/chat/completions", body, code)

    def keep(self, response: Json) -> None:
        """A response that a later one may go on from."""
        self._responses.append(response["id"])


KINDS = {
    "chat": 42,
    "text_completion": 12,
    "responses_api": 8,
    "messages_api": 8,
    "too_long": 5,
    "malformed": 5,
    "cut_off": 20,
}
"""Of a hundred requests so many are of each kind."""


async def answer_of(http: httpx.AsyncClient, asked: Asked) -> tuple[int, list[tuple[str, Json]]]:
    """(status, what came): the events of a stream as (name, data), or one without a name."""
    if not asked.stream:
        answer = await http.post(asked.path, json=asked.body)
        return answer.status_code, [("", answer.json())]
    async with http.stream("POST", asked.path, json=asked.body) as answer:
        if answer.status_code != 200:
            return answer.status_code, [("", json.loads(await answer.aread()))]
        return 200, [event async for event in _events(answer)]


async def _events(answer: httpx.Response) -> AsyncIterator[tuple[str, Json]]:
    name = ""
    async for line in answer.aiter_lines():
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, {"done": True} if value == "[DONE]" else json.loads(value)
            name = ""


def check(asked: Asked, status: int, came: list[tuple[str, Json]]) -> str:
    """Raises AssertionError unless the answer is right; returns its text."""
    if asked.temporary and status == 404:
        assert "no model" in str(came) or "no adapter" in str(came), came
        return ""
    assert status == 200, (status, came)
    if asked.path == "/v1/responses":
        return _check_response(asked, came)
    if asked.path == "/v1/messages":
        return _check_message(asked, came)
    texts = (_streamed if asked.stream else _whole)(asked, came)
    assert len(texts) == asked.choices, f"{len(texts)} choices of {asked.choices}"
    for text in texts:
        if asked.bound:
            found = {*CODE.findall(text)}
            # A word that was drawn may look like a code; its own has to be there.
            assert asked.code in found, f"{found} for {asked.code}: {text!r}"
        for stop in asked.body.get("stop", ()):
            assert stop not in text, f"{stop!r} in {text!r}"
    return "\n".join(texts)


def _whole(asked: Asked, came: list[tuple[str, Json]]) -> list[str]:
    choices = came[0][1]["choices"]
    assert [one["index"] for one in choices] == [*range(len(choices))]
    assert all(one["finish_reason"] in ENDS for one in choices), choices
    used = came[0][1]["usage"]["completion_tokens"]
    assert used <= asked.choices * asked.body["max_tokens"], f"{used} tokens"
    for one in choices:
        if asked.body.get("logprobs") is True:
            told = one["logprobs"]["content"]
            assert all(token["logprob"] <= 0 for token in told)
    return [_said(one.get("message") or one) for one in choices]


def _streamed(asked: Asked, came: list[tuple[str, Json]]) -> list[str]:
    texts: dict[int, str] = {}
    ended: dict[int, str] = {}
    assert [data for _, data in came].count({"done": True}) == 1, "not one end"
    assert came[-1][1] == {"done": True}, "something behind the end"
    usages = 0
    for _, data in came[:-1]:
        assert "error" not in data, data
        usages += bool(data.get("usage"))
        for one in data["choices"]:
            index = one["index"]
            assert index not in ended, f"choice {index} goes on behind its end"
            texts[index] = texts.get(index, "") + _said(one.get("delta") or one)
            if one["finish_reason"]:
                ended[index] = one["finish_reason"]
    assert ended.keys() == texts.keys(), f"ends {ended} of {texts.keys()}"
    assert usages == 1, f"{usages} usages"
    return list(texts.values())


def _said(part: Json) -> str:
    calls = part.get("tool_calls") or ()
    return (part.get("content") or part.get("text") or "") + "".join(
        call["function"].get("arguments") or "" for call in calls
    )


def _check_response(asked: Asked, came: list[tuple[str, Json]]) -> str:
    ends = [
        data for name, data in came
        if name in ("response.completed", "response.incomplete", "response.failed")
    ] if asked.stream else [{"response": came[0][1]}]  # fmt: skip
    assert len(ends) == 1, f"{len(ends)} ends"
    response = ends[0]["response"]
    assert response["status"] in ("completed", "incomplete"), response
    if asked.stream:
        numbers = [data["sequence_number"] for _, data in came if "sequence_number" in data]
        assert numbers == [*range(len(numbers))]
    asked.body["id"] = response["id"]
    return json.dumps(response["output"])


def _check_message(asked: Asked, came: list[tuple[str, Json]]) -> str:
    if not asked.stream:
        message = came[0][1]
        assert message["stop_reason"] in ("end_turn", "max_tokens"), message
        return json.dumps(message["content"])
    # Who waits for a slot hears pings, which clients leave out.
    names = [name for name, _ in came if name != "ping"]
    assert names[0] == "message_start", names[:1]
    assert names[-1] == "message_stop", names[-1:]
    assert names.count("message_stop") == names.count("message_delta") == 1
    assert names.count("content_block_start") == names.count("content_block_stop")
    return ""


async def leave(url: str, asked: Asked, chance: random.Random) -> None:
    """Send a request, at times half of it, and go away at a random moment."""
    data = json.dumps(asked.body).encode()
    host, _, port = url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST {asked.path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    sent = head.encode() + data
    writer.write(sent if chance.random() < 0.9 else sent[: len(sent) // 2])
    await writer.drain()
    await asyncio.sleep(chance.expovariate(2.0))
    if chance.random() < 0.3:
        writer.transport.abort()
    writer.close()


async def malformed(http: httpx.AsyncClient, chance: random.Random) -> None:
    content, headers = chance.choice(
        [
            (b"{", {"Content-Type": "application/json"}),
            (b'{"messages": 3}', {"Content-Type": "application/json"}),
            (b'{"messages": [{"role": "user", "content": "x"}], "frob": 1}', {}),
            (b"\xff\xfe", {"Content-Type": "application/json"}),
        ]
    )
    path = chance.choice(["/v1/chat/completions", "/v1/completions", "/v1/responses"])
    answer = await http.post(path, content=content, headers=headers)
    assert answer.status_code in (400, 415), answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def too_long(http: httpx.AsyncClient, asked: Asked) -> None:
    answer = await http.post(asked.path, json=asked.body)
    if asked.temporary and answer.status_code == 404:
        return
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "context_length_exceeded", answer.text
