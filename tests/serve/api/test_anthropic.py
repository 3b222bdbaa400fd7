"""/v1/messages and what belongs to it, as Anthropic's API reference describes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

VERSION = {"anthropic-version": "2023-06-01", "x-api-key": "none"}
QUESTION = [{"role": "user", "content": "What is 1+1?"}]
TOOLS = [
    {
        "name": "get_weather",
        "description": "Weather of a city",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
        "cache_control": {"type": "ephemeral"},
    }
]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": QUESTION, "max_tokens": 64, "temperature": 0, **fields}


@pytest.fixture(scope="module")
def http(server: Any) -> Any:
    with httpx.Client(base_url=server.url, timeout=120, headers=VERSION) as client:
        yield client


def message(http: Any, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/messages", json=asked(**fields))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def events_of(http: Any, **fields: Any) -> list[dict[str, Any]]:
    answer = http.post("/v1/messages", json=asked(**fields, stream=True))
    assert answer.status_code == 200, answer.text
    found = []
    for block in answer.text.strip().split("\n\n"):
        name, _, data = block.partition("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_a_text_whole_and_streamed(http: Any) -> None:
    whole = message(http)
    [block] = whole["content"]
    assert "2" in block["text"]
    assert block == {"type": "text", "text": block["text"]}
    identity, usage = whole.pop("id"), whole.pop("usage")
    assert identity.startswith("msg_")
    assert whole == {
        "type": "message", "role": "assistant", "model": "demo", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [block],
    }  # fmt: skip
    assert set(usage) == {
        "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"
    }  # fmt: skip
    events = events_of(http)
    deltas = [event for event in events if event["type"] == "content_block_delta"]
    assert [event["type"] for event in events] == [
        "message_start", "ping", "content_block_start",
        *["content_block_delta"] * len(deltas),
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert "".join(event["delta"]["text"] for event in deltas) == block["text"]
    begun = events[0]["message"]
    assert (begun["content"], begun["stop_reason"]) == ([], None)
    told = events[-2]
    assert told["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert told["usage"]["output_tokens"] == usage["output_tokens"]
    # Of the prompt, what the prefix cache had stands apart.
    assert told["usage"]["cache_read_input_tokens"] > 0
    prompt = begun["usage"]["input_tokens"]
    assert prompt == told["usage"]["input_tokens"] + told["usage"]["cache_read_input_tokens"]
    count = http.post("/v1/messages/count_tokens", json={"model": "demo", "messages": QUESTION})
    assert count.json() == {"input_tokens": prompt}


def test_why_an_answer_ends(http: Any) -> None:
    assert message(http, max_tokens=1)["stop_reason"] == "max_tokens"
    stopped = message(http, stop_sequences=["never", " ="])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", " =")
    assert "=" not in stopped["content"][0]["text"]


def test_tools_round_trip(http: Any) -> None:
    options: dict[str, Any] = {"tools": TOOLS, "messages": WEATHER, "max_tokens": 128}
    # One call: a small model may write further ones until it is cut off.
    alone = {"disable_parallel_tool_use": True}
    called = message(http, **options, tool_choice={"type": "any", **alone})
    use = called["content"][-1]
    assert called["stop_reason"] == "tool_use"
    assert (use["type"], use["name"]) == ("tool_use", "get_weather")
    assert use["input"]["city"] in ("Paris", "Rome")
    one = {"type": "tool", "name": "get_weather", **alone}
    events = events_of(http, **options, tool_choice=one)
    begun = next(event for event in events if event["type"] == "content_block_start")
    assert begun["content_block"]["input"] == {}
    written = [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"]
    assert json.loads("".join(written))["city"] in ("Paris", "Rome")
    results = [
        {"type": "tool_result", "tool_use_id": use["id"], "content": "12 degrees"},
        {
            "type": "tool_result",
            "tool_use_id": use["id"],
            "is_error": True,
            "content": [{"type": "text", "text": "no answer"}],
        },
    ]
    for result in results:
        turns = [
            *WEATHER,
            {"role": "assistant", "content": called["content"]},
            {"role": "user", "content": [result, {"type": "text", "text": "Go on."}]},
        ]
        ended = message(http, **{**options, "messages": turns}, tool_choice={"type": "none"})
        assert ended["content"][0]["text"]


def test_a_call_that_is_cut_has_what_there_is(http: Any) -> None:
    cut = message(http, tools=TOOLS, messages=WEATHER, max_tokens=22, tool_choice={"type": "any"})
    assert cut["stop_reason"] == "max_tokens"
    assert isinstance(cut["content"][-1]["input"], dict)


def test_what_claude_code_sends(http: Any) -> None:
    ephemeral = {"type": "ephemeral"}
    billing = "x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch={};"
    tools = [{**TOOLS[0], "name": f"mcp__server__tool_{number}"} for number in range(4)]
    body = {
        "tools": tools,
        "metadata": {"user_id": "u"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "<system-reminder/>"}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Hi", "cache_control": ephemeral}],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                    {"type": "redacted_thinking", "data": "eHg="},
                    {"type": "text", "text": "Hello."},
                ],
            },
            {"role": "user", "content": "What is 1+1?"},
        ],
    }
    counts = []
    for stamp in ("a5145", "00000"):
        system = [
            {"type": "text", "text": billing.format(stamp)},
            {"type": "text", "text": "You answer.", "cache_control": ephemeral},
        ]
        answer = http.post(
            "/v1/messages?beta=true",
            json=asked(**body, system=system, max_tokens=2),
            headers={"anthropic-beta": "interleaved-thinking-2025-05-14"},
        )
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        counts.append((usage["input_tokens"], usage["cache_read_input_tokens"]))
    told = set(answer.headers["x-tuneserve-ignored"].split(", "))
    assert told == {"metadata", "context_management", "redacted_thinking", "thinking"}
    # The stamp that is new in every request does not hide the prefix.
    assert counts[1][0] == 1
    assert sum(counts[0]) == sum(counts[1])


def test_json_of_a_schema(http: Any) -> None:
    schema = TOOLS[0]["input_schema"]
    form = {"format": {"type": "json_schema", "schema": schema}}
    answer = message(http, messages=WEATHER, output_config=form)
    assert json.loads(answer["content"][0]["text"])["city"] in ("Paris", "Rome")


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


@pytest.mark.parametrize(
    ("fields", "status", "kind", "word"),
    [
        ({"model": "claude"}, 404, "not_found_error", "'claude'"),
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens"),
        ({"thread": {"type": "create"}}, 400, "invalid_request_error", "thread"),
        ({"colour": 1}, 400, "invalid_request_error", "'colour' is not supported"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, 400, "invalid_request_error",
         "'web_search_20250305'"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, 400, "invalid_request_error",
         "images"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "i", "name": "n",
          "input": {}}]}]}, 400, "invalid_request_error", "tool_use"),
        ({"tools": [{**TOOLS[0], "input_schema": {"not": {}}}], "tool_choice": {"type": "any"}},
         400, "invalid_request_error", "tools[0].input_schema"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, 400,
         "invalid_request_error", "tokens"),
        ({"messages": [{"role": "user", "content": "a" * 200_000}]}, 413, "request_too_large",
         "bytes"),
    ],
)  # fmt: skip
def test_errors_are_anthropics(
    http: Any, fields: dict[str, Any], status: int, kind: str, word: str
) -> None:
    answer = http.post("/v1/messages", json=asked(**fields))
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert word in body["error"]["message"]
    if "thread" in fields:
        assert body["error"]["details"] == {"error_code": "thread_unsupported_request"}
    assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


def test_models_in_the_form_that_is_asked_for(http: Any, server: Any) -> None:
    page = http.get("/v1/models").json()
    assert [model["id"] for model in page["data"]] == [page["first_id"]] == ["demo"]
    one = http.get("/v1/models/demo").json()
    assert one == page["data"][0]
    assert (one["type"], one["lifecycle"], one["display_name"]) == ("model", "active", "demo")
    missing = http.get("/v1/models/of/somebody").json()
    assert missing["error"]["type"] == "not_found_error"
    assert "'of/somebody'" in missing["error"]["message"]
    plain = httpx.get(f"{server.url}/v1/models/demo").json()
    assert plain["object"] == "model"


def test_paths_of_llama_server(http: Any) -> None:
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": TOOLS[0]["input_schema"]}}
    ]
    prompt = http.post("/apply-template", json={"messages": QUESTION, "tools": tools}).json()[
        "prompt"
    ]
    assert prompt.endswith("<|im_start|>assistant\n")
    assert '"name": "f"' in prompt
    props = http.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 4096
    assert (props["total_slots"], props["model_alias"]) == (8, "demo")
    assert "/" not in props["model_path"]
    assert (props["bos_token"], props["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "messages" in props["chat_template"]
    assert props["modalities"] == {"vision": False, "audio": False, "video": False}


def test_a_response_of_one_key_is_not_read_with_another(
    demo_gguf: Path, tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one\ntwo\n")
    with (
        start_server(
            tmp_path / "log", str(demo_gguf), "--name", "demo", "--ctx", "512",
            "--api-key-file", str(keys),
        ) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):  # fmt: skip
        one, two = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
        body = {"model": "demo", "input": "Hi", "max_output_tokens": 1}
        made = http.post("/v1/responses", json=body, headers=one).json()
        path = f"/v1/responses/{made['id']}"
        assert http.get(path, headers=one).status_code == 200
        assert http.get(path, headers=two).status_code == 404
        refused = http.post("/v1/messages", json=asked(), headers={"x-api-key": "three"})
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "authentication_error"
