"""What a client is told of what its request says in vain; echoed prompts; limits of requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from tests.serve.api.test_app import post
from tuneserve.serve.api import token_routes
from tuneserve.serve.api.app import create_app
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.api.service import Service
from tuneserve.settings import ServeSettings

pytestmark = pytest.mark.slow

CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 3,
    "temperature": 0,
}
ODD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "odd",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", "format": "json"}},
            "required": ["a"],
        },
    },
}
FINE = {"type": "function", "function": {"name": "fine", "parameters": None}}


@pytest.fixture(scope="module")
def service(demo_gguf: Path) -> Iterator[Service]:
    settings = ServeSettings(
        ctx=1024, slots=2, threads=2, max_queue=6, log="off", embeddings=True,
        cache_type_k="f16", cache_type_v="f16",
    )  # fmt: skip
    service = Service(demo_gguf, "demo", settings)
    yield service
    service.close()


@pytest.fixture(scope="module")
def app(service: Service) -> FastAPI:
    return create_app(service)


@pytest.fixture
def strict(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = service.settings.model_copy(update={"strict": True})
    monkeypatch.setattr(service, "settings", settings)


def test_fields_without_effect_are_named_in_a_header(app: FastAPI, service: Service) -> None:
    fields = {"store": True, "metadata": {"a": "b"}, "best_of": 1}
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "Hi"})):
        for stream in (False, True):
            asked = {**body, **fields, "max_tokens": 2, "stream": stream}
            answer = post(app, service, path, asked)
            assert answer.status_code == 200
            assert answer.headers["x-tuneserve-ignored"] == "store, metadata, best_of"
    assert "x-tuneserve-ignored" not in post(app, service, "/v1/chat/completions", CHAT).headers


def test_older_fields_that_ask_for_nothing_are_taken(app: FastAPI, service: Service) -> None:
    for field, value in (("functions", []), ("function_call", "none"), ("top_logprobs", 0)):
        answer = post(app, service, "/v1/chat/completions", {**CHAT, field: value})
        assert (answer.status_code, answer.headers["x-tuneserve-ignored"]) == (200, field)
    with pytest.raises(ValidationError, match="is not a token id"):
        ChatRequest.model_validate({**CHAT, "logit_bias": {"\ud83d": 1}})


@pytest.mark.usefixtures("strict")
def test_a_strict_server_refuses_them(app: FastAPI, service: Service) -> None:
    answer = post(app, service, "/v1/chat/completions", {**CHAT, "metadata": {}, "store": False})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "unsupported_parameter")
    assert error["param"] == "metadata"
    assert "metadata, store" in error["message"]
    answer = post(app, service, "/v1/chat/completions", {**CHAT, "reasoning_effort": "low"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "reasoning_effort")
    odd = post(app, service, "/v1/chat/completions", {**CHAT, "tools": [ODD]})
    assert (odd.status_code, odd.json()["error"]["code"]) == (400, "invalid_schema")
    assert odd.json()["error"]["param"] == "tools[0].function.parameters"


def test_a_tool_that_can_not_be_enforced_costs_no_request(app: FastAPI, service: Service) -> None:
    asked = {**CHAT, "tools": [FINE, ODD]}
    answer = post(app, service, "/v1/chat/completions", asked)
    assert answer.status_code == 200
    assert answer.headers["x-tuneserve-unenforced"] == "tools[1].function.parameters: format"
    named = {"type": "function", "function": {"name": "odd"}}
    for choice in ("required", named):
        refused = post(app, service, "/v1/chat/completions", {**asked, "tool_choice": choice})
        error = refused.json()["error"]
        assert (refused.status_code, error["param"]) == (400, "tools[1].function.parameters")
        assert "'odd'" in error["message"]
        assert "json" in error["message"]
    fine = {"type": "function", "function": {"name": "fine"}}
    chosen = post(app, service, "/v1/chat/completions", {**asked, "tool_choice": fine})
    assert chosen.status_code == 200
    assert "x-tuneserve-unenforced" not in chosen.headers


def test_the_agents_apis_refuse_what_is_said_to_be_strict(app: FastAPI, service: Service) -> None:
    function = ODD["function"]
    openai = {"type": "function", **function}
    anthropic = {"name": "odd", "input_schema": function["parameters"]}
    user = {"role": "user", "content": "Hi"}
    for path, body, tool, place in (
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 2}, openai, "parameters"),
        ("/v1/messages", {"messages": [user], "max_tokens": 2, "model": "demo"}, anthropic,
         "input_schema"),
    ):  # fmt: skip
        loose = post(app, service, path, {**body, "tools": [tool]})
        assert loose.status_code == 200
        assert loose.headers["x-tuneserve-unenforced"] == f"tools[0].{place}: format"
        refused = post(app, service, path, {**body, "tools": [{**tool, "strict": True}]})
        assert refused.status_code == 400
        assert "Unknown format: json" in refused.json()["error"]["message"]


@pytest.mark.parametrize("as_ids", [False, True])
def test_an_echoed_prompt_has_log_probabilities(
    app: FastAPI, service: Service, as_ids: bool
) -> None:
    texts = ["The llama 🦙 said <|im_end|> hello", "Once upon a time"]
    model = service.engine.model
    ids = [model.tokenize(text) for text in texts]
    asked = {"prompt": ids if as_ids else texts, "echo": True, "logprobs": 2, "temperature": 0}
    answers = {
        most: post(app, service, "/v1/completions", {**asked, "max_tokens": most}).json()
        for most in (0, 1)
    }
    for most, answer in answers.items():
        for choice, text, tokens in zip(answer["choices"], texts, ids, strict=True):
            told = choice["logprobs"]
            count = len(tokens) + most
            assert {len(told[key]) for key in told} == {count}
            assert choice["text"].startswith(text)
            assert (choice["text"] == text) is (most == 0)
            assert told["token_logprobs"][0] is None
            assert told["top_logprobs"][0] is None
            assert all(value <= 0 for value in told["token_logprobs"][1:])
            assert all(len(top) == 2 for top in told["top_logprobs"][1:])
            for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
                if not token.startswith("bytes:"):
                    assert choice["text"][offset : offset + len(token)] == token
        assert answer["usage"]["completion_tokens"] == 2 * most
        assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))
    # What harnesses score a continuation by, and tell whether it is the likeliest.
    last = answers[1]["choices"][1]["logprobs"]
    alone = {"prompt": ids[1][:-1], "max_tokens": 1, "logprobs": 20, "temperature": 0}
    drawn = post(app, service, "/v1/completions", alone).json()["choices"][0]["logprobs"]
    best = drawn["top_logprobs"][0]
    token = last["tokens"][len(ids[1]) - 1]
    if token in best:
        assert best[token] == pytest.approx(last["token_logprobs"][len(ids[1]) - 1], abs=0.3)
    assert max(best, key=lambda key: best[key]) in last["top_logprobs"][len(ids[1]) - 1]


def test_a_prompt_of_one_token_has_its_place_in_log_probabilities(
    app: FastAPI, service: Service
) -> None:
    asked = {"prompt": "a", "echo": True, "logprobs": 1, "max_tokens": 0}
    answer = post(app, service, "/v1/completions", asked).json()
    told = answer["choices"][0]["logprobs"]
    assert (told["tokens"], told["token_logprobs"], told["text_offset"]) == (["a"], [None], [0])


def test_what_is_nested_too_deep_is_refused(app: FastAPI, service: Service) -> None:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(220):
        schema = {"type": "object", "properties": {"a": schema}}
    call = {"name": "f", "arguments": '{"a": ' + "[" * 950 + "]" * 950 + "}"}
    made = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    result = {"role": "tool", "tool_call_id": "1", "content": None}
    for fields, codes in (
        ({"tools": [tool]}, {"invalid_json"}),
        (
            {"messages": [*CHAT["messages"], made, result]},
            {"invalid_value", "context_length_exceeded"},
        ),
    ):
        answer = post(app, service, "/v1/chat/completions", {**CHAT, **fields})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] in codes


def test_an_echoed_prompt_without_log_probabilities(app: FastAPI, service: Service) -> None:
    asked = {"prompt": "Once upon", "echo": True, "max_tokens": 2, "temperature": 0, "n": 2}
    choices = post(app, service, "/v1/completions", asked).json()["choices"]
    assert [choice["text"][:9] for choice in choices] == ["Once upon"] * 2
    assert choices[0]["logprobs"] is None
    events = post(app, service, "/v1/completions", {**asked, "n": 1, "stream": True}).text
    pieces = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    streamed = "".join(piece["choices"][0]["text"] for piece in pieces)
    assert streamed.startswith("Once upon")
    assert len(streamed) > len("Once upon")
    refused = post(app, service, "/v1/completions", {**asked, "logprobs": 1, "stream": True})
    assert "without stream" in refused.json()["error"]["message"]


def test_counts_so_far_in_every_chunk(app: FastAPI, service: Service) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked = {**CHAT, "max_tokens": 4, "ignore_eos": True, "stream": True, "stream_options": options}
    events = post(app, service, "/v1/chat/completions", asked).text
    usages = [
        json.loads(line[6:])["usage"]
        for line in events.splitlines()
        if line.startswith("data: {") and '"choices":[{"index":0,"delta":{"content"' in line
    ]
    counts = [usage["completion_tokens"] for usage in usages]
    assert counts == sorted(counts)
    assert counts[-1] == 4
    assert len({usage["prompt_tokens"] for usage in usages}) == 1
    final = json.loads(events.rstrip().splitlines()[-3][6:])
    assert final["usage"]["prompt_tokens"] == usages[0]["prompt_tokens"]


def test_more_than_the_queue_ever_takes_is_refused_for_good(app: FastAPI, service: Service) -> None:
    many = post(app, service, "/v1/completions", {"prompt": ["a"] * 9, "max_tokens": 1})
    error = many.json()["error"]
    assert (many.status_code, error["param"]) == (400, "prompt")
    assert error["message"].startswith("At most 8 answers")
    choices = post(app, service, "/v1/chat/completions", {**CHAT, "n": 16}).json()["error"]
    assert choices["param"] == "n"
    fits = post(app, service, "/v1/completions", {"prompt": ["a"] * 8, "max_tokens": 1})
    assert len(fits.json()["choices"]) == 8


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "TEXT"}]}, "messages"),
        ("/v1/completions", {"prompt": "TEXT"}, "prompt"),
        ("/v1/embeddings", {"input": ["a", "TEXT"]}, "input"),
    ],
)
@pytest.mark.parametrize("repeated", ["<|im_end|>", "<|im_end|> x", "\n"])
def test_texts_full_of_special_tokens_are_refused_at_once(
    app: FastAPI, service: Service, path: str, body: dict[str, Any], param: str, repeated: str
) -> None:
    text = repeated * (500_000 // len(repeated))
    asked = json.loads(json.dumps(body).replace("TEXT", json.dumps(text)[1:-1]))
    started = time.perf_counter()
    answer = post(app, service, path, asked)
    assert time.perf_counter() - started < 3.0
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == param
    assert error["n_prompt_tokens"] > error["n_ctx"]


def test_a_long_text_is_tokenized_whole(
    app: FastAPI, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = post(app, service, "/tokenize", {"content": "<|im_end|>" * 50_000})
    assert answer.json()["count"] == 50_000
    monkeypatch.setattr(token_routes, "MOST_TOKENS", 40_000)
    endless = post(app, service, "/tokenize", {"content": "<|im_end|>" * 50_000})
    assert endless.json()["error"]["param"] == "content"


@pytest.mark.parametrize(
    ("fields", "right"),
    [
        ({"guided_choice": ["maybe", "perhaps"]}, {"maybe", "perhaps"}),
        ({"regex": "[xyz]"}, {"x", "y", "z"}),
        ({"structured_outputs": {"json": {"enum": [7, 8]}}}, {"7", "8"}),
        ({"guided_grammar": 'root ::= "u" | "v"'}, {"u", "v"}),
        ({"structured_outputs": {"grammar": 'start: "u" | WORD\nWORD: "v"'}}, {"u", "v"}),
    ],
)
def test_bounds_under_other_names(
    app: FastAPI, service: Service, fields: dict[str, Any], right: set[str]
) -> None:
    chat = post(app, service, "/v1/chat/completions", {**CHAT, "max_tokens": 9, **fields}).json()
    assert chat["choices"][0]["message"]["content"] in right
    text = post(app, service, "/v1/completions", {"prompt": "Hi", "max_tokens": 9, **fields})
    assert text.json()["choices"][0]["text"] in right


def test_a_last_turn_is_continued_or_closed(app: FastAPI, service: Service) -> None:
    messages = [*CHAT["messages"], {"role": "assistant", "content": "Well, "}]

    def count(**fields: Any) -> int:
        asked = {**CHAT, "messages": messages, "max_tokens": 0, **fields}
        return int(
            post(app, service, "/v1/chat/completions", asked).json()["usage"]["prompt_tokens"]
        )

    continued = count()
    assert count(continue_final_message=True, add_generation_prompt=False) == continued
    closed = count(continue_final_message=False, add_generation_prompt=False)
    opened = count(continue_final_message=False)
    assert continued < closed < opened


def test_efforts_of_a_model_that_does_not_think(app: FastAPI, service: Service) -> None:
    """To think less changes nothing of what it does; to think more is told of."""
    for field, value, told in (
        ("reasoning_effort", "none", None),
        ("reasoning_effort", "minimal", None),
        ("reasoning_effort", "low", "reasoning_effort"),
        ("reasoning_effort", "xhigh", "reasoning_effort"),
        ("reasoning_effort", "max", "reasoning_effort"),
        ("reasoning_budget", 5, "reasoning_budget"),
        ("reasoning_budget", 0, None),
    ):
        answer = post(app, service, "/v1/chat/completions", {**CHAT, field: value})
        assert (answer.status_code, answer.headers.get("x-tuneserve-ignored")) == (200, told)
    asked = {"input": "Hi", "max_output_tokens": 2, "reasoning": {"effort": "high"}}
    answer = post(app, service, "/v1/responses", asked)
    assert answer.headers["x-tuneserve-ignored"] == "reasoning.effort"


def test_an_end_token_behind_an_echoed_prompt_is_listed(app: FastAPI, service: Service) -> None:
    model = service.engine.model
    prompt = model.tokenize("Once upon a time")
    asked = {
        "prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0,
        "logit_bias": {str(model.eos): 100},
    }  # fmt: skip
    (choice,) = post(app, service, "/v1/completions", asked).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Once upon a time", "stop")
    # Clients drop the last one, for the token that they have to let generate.
    assert {len(value) for value in choice["logprobs"].values()} == {len(prompt) + 1}
