"""JSON, schemas, tools, prefill and thoughts over the API, on a model that knows none of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tuneserve.chat.template import ChatTemplate
from tuneserve.serve.api.prepare import Turn, prepare_turn
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.chat.parts import (
    Content,
    Reasoning,
    calls_of,
)
from tuneserve.serve.chat.structured import GrammarCompiler
from tuneserve.serve.engine import Engine
from tuneserve.settings import ServeSettings

QUESTION = [{"role": "user", "content": "Give the weather in Paris as JSON."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
ADD = {"type": "function", "function": {"name": "add"}}


def body(**fields: Any) -> dict[str, Any]:
    return {
        "model": "demo",
        "messages": QUESTION,
        "temperature": 0.8,
        "seed": 11,
        "max_tokens": 120,
        **fields,
    }


def test_json_schema_is_kept_whole_and_streamed(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "sky": {"enum": ["clear", "grey"]},
            "degrees": {"type": "array", "items": {"enum": [1, 2, 3]}, "maxItems": 3},
        },
        "required": ["city", "sky", "degrees"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
    for n in (1, 2):
        whole = client.chat.completions.create(**body(response_format=wanted, n=n))
        for choice in whole.choices:
            value = json.loads(choice.message.content)
            assert list(value) == ["city", "sky", "degrees"]
            assert value["sky"] in ("clear", "grey")
    stream = client.chat.completions.create(**body(response_format=wanted, stream=True))
    json.loads("".join(chunk.choices[0].delta.content or "" for chunk in stream))


def test_json_object(client: Any) -> None:
    answer = client.chat.completions.create(
        **body(response_format={"type": "json_object"}, temperature=0, max_tokens=400)
    )
    assert answer.choices[0].message.content.lstrip().startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_a_grammar_of_the_clients_own(client: Any) -> None:
    grammar = {"grammar": 'root ::= "yes" | "no"'}
    answer = client.chat.completions.create(**body(), extra_body=grammar)
    assert answer.choices[0].message.content in ("yes", "no")
    text = client.completions.create(model="demo", prompt="Is it?", extra_body=grammar)
    assert text.choices[0].text in ("yes", "no")
    with pytest.raises(openai.BadRequestError, match="not closed"):
        client.completions.create(model="demo", prompt="x", extra_body={"grammar": "root ::= ("})


def test_a_required_call_is_made_with_valid_arguments(client: Any) -> None:
    request = body(tools=[WEATHER, ADD], tool_choice="required", parallel_tool_calls=False)
    choice = client.chat.completions.create(**request).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert call.function.name in ("get_weather", "add")
    assert isinstance(json.loads(call.function.arguments), dict)
    named = {"type": "function", "function": {"name": "get_weather"}}
    pieces = list(
        client.chat.completions.create(
            **{**request, "tool_choice": named, "stream": True, "temperature": 0}
        )
    )
    calls = [call for piece in pieces for call in piece.choices[0].delta.tool_calls or []]
    assert {call.index for call in calls} == {0}
    assert (calls[0].function.name, calls[0].function.arguments) == ("get_weather", "")
    assert calls[0].id.startswith("call_")
    assert all(call.id is call.function.name is None for call in calls[1:])
    arguments = json.loads("".join(call.function.arguments for call in calls))
    assert arguments["city"] in ("Paris", "Rome")
    assert isinstance(arguments["days"], int)
    assert pieces[-1].choices[0].finish_reason == "tool_calls"
    assert "tool_call" not in "".join(piece.choices[0].delta.content or "" for piece in pieces)


@pytest.mark.parametrize("tokens", [1, 6, 22])
def test_a_required_call_that_is_cut_shows_no_mark_and_can_be_sent_back(
    client: Any, tokens: int
) -> None:
    request = body(tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=tokens)
    choice = client.chat.completions.create(**request).choices[0]
    assert choice.finish_reason == "length"
    assert not choice.message.content
    pieces = [piece.choices[0] for piece in client.chat.completions.create(**request, stream=True)]
    assert not any(piece.delta.content for piece in pieces)
    assert pieces[-1].finish_reason == "length"
    called = choice.message.tool_calls or []
    results = [{"role": "tool", "tool_call_id": one.id, "content": "Rain"} for one in called]
    messages = [*request["messages"], choice.message.model_dump(), *results]
    client.chat.completions.create(**body(messages=messages, max_tokens=1))


def test_calls_and_results_of_earlier_turns_are_accepted(client: Any) -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Paris", "days": 1}'}
    messages = [
        *QUESTION,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    answer = client.chat.completions.create(
        **body(messages=messages, tools=[WEATHER], tool_choice="auto", max_tokens=8)
    )
    assert answer.usage.prompt_tokens > 60


def test_a_last_turn_of_the_assistants_is_continued(client: Any) -> None:
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is the city of"},
    ]
    answer = client.chat.completions.create(**body(messages=messages, temperature=0, max_tokens=4))
    assert answer.choices[0].message.content.startswith(" Paris")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"tools": [WEATHER, WEATHER]}, "same name"),
        ({"tool_choice": "required"}, "needs tools"),
        (
            {
                "tools": [WEATHER],
                "tool_choice": {"type": "function", "function": {"name": "nope"}},
            },
            "names no tool",
        ),
        ({"response_format": {"type": "xml"}}, "json_schema"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "tool_call_id"),
        ({"messages": [{"role": "user", "content": None}]}, "content is required"),
        ({"chat_template_kwargs": {"messages": "x"}}, "can't set"),
        ({"functions": [{"name": "f"}]}, "not supported"),
    ],
)
def test_what_makes_no_sense_is_refused(client: Any, fields: dict[str, Any], word: str) -> None:
    with pytest.raises(openai.BadRequestError, match=word):
        client.chat.completions.create(**body(), extra_body=fields)


def template(ending: str) -> ChatTemplate:
    """ChatML of a model that thinks; every prompt ends with `ending`."""
    return ChatTemplate(
        "{# <think> #}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n" + ending + "{% endif %}"
    )


ENDINGS = {"open": "<think>\n", "none": "<think>\n\n</think>\n\n", "may": ""}
OK = {
    "type": "json_schema",
    "json_schema": {"name": "x", "schema": {"enum": [{"ok": True}, {"ok": False}]}},
}


@pytest.fixture(scope="module")
def engine(demo_gguf: Any) -> Iterator[Engine]:
    with Engine(demo_gguf, ServeSettings(ctx=1024, slots=1, threads=1)) as running:
        yield running


def prepared(engine: Engine, template: ChatTemplate, request: ChatRequest) -> Turn:
    grammars = GrammarCompiler(engine.model)
    return prepare_turn(engine.model, grammars, template, request, default_max_tokens=80)


def answered(engine: Engine, left: str, **fields: Any) -> tuple[Turn, str]:
    request = ChatRequest.model_validate(
        {"messages": QUESTION, "max_tokens": 80, "temperature": 0, **fields}
    )
    turn = prepared(engine, template(ENDINGS[left]), request)
    assert turn.sampling.thoughts == left
    (done,) = engine.generate([turn.prompt], turn.sampling)
    return turn, done.text


def test_thoughts_have_a_budget_and_what_follows_has_the_grammar(engine: Engine) -> None:
    """The model itself never closes its thoughts, so the budget must; then comes the JSON."""
    turn, text = answered(engine, "open", reasoning_budget=12, response_format=OK)
    thoughts, closed, answer = text.partition("</think>")
    assert closed
    assert thoughts.strip()
    assert json.loads(answer) in ({"ok": True}, {"ok": False})
    reader = turn.reader()
    kinds = [type(part).__name__ for part in [*reader.feed(text), *reader.finish()]]
    assert kinds == ["Reasoning", "Content"]


@pytest.mark.parametrize("left", ["none", "may"])
def test_an_answer_without_thoughts_has_the_grammar_from_its_beginning(
    engine: Engine, left: str
) -> None:
    turn, text = answered(engine, left, response_format=OK)
    assert json.loads(text) in ({"ok": True}, {"ok": False})
    assert joined(turn, text) == ("", text)


@pytest.mark.parametrize("left", ["none", "may"])
def test_a_budget_leaves_an_answer_without_thoughts_alone(engine: Engine, left: str) -> None:
    _, free = answered(engine, left, max_tokens=20)
    turn, text = answered(engine, left, max_tokens=20, reasoning_budget=4)
    assert text == free
    assert joined(turn, text) == ("", text)


def test_thoughts_that_the_answer_opens_are_bounded_and_told_apart(engine: Engine) -> None:
    """A bias makes the model open with <think>, which the grammar does not know."""
    opening = engine.model.tokenize("<think>")
    turn, text = answered(
        engine, "may", response_format=OK, reasoning_budget=6,
        logit_bias={str(opening[0]): 100},
    )  # fmt: skip
    assert text.startswith("<think>")
    thoughts, answer = joined(turn, text)
    assert "<think>" not in thoughts
    assert json.loads(answer) in ({"ok": True}, {"ok": False})


def test_an_answer_that_the_client_began_has_the_thoughts_that_it_left_open(engine: Engine) -> None:
    for content, left in (("<think>\nLet me", "open"), ("<think>a</think>", "none"), ("I", "none")):
        messages = [*QUESTION, {"role": "assistant", "content": content}]
        request = ChatRequest.model_validate({"messages": messages})
        turn = prepared(engine, template(""), request)
        assert turn.sampling.thoughts == left


def test_tools_and_a_format_together_allow_both(engine: Engine) -> None:
    """The model's own first choice is biased one way and the other."""
    for wanted, other in (("<tool_call>", '{"'), ('{"', "<tool_call>")):
        bias = {
            str(engine.model.tokenize(wanted)[0]): 50,
            str(engine.model.tokenize(other)[0]): -50,
        }
        turn, text = answered(
            engine, "none", tools=[ADD], parallel_tool_calls=False, response_format=OK,
            logit_bias=bias,
        )  # fmt: skip
        reader = turn.reader()
        parts = [*reader.feed(text), *reader.finish()]
        if wanted == "<tool_call>":
            (call,) = calls_of(parts)
            assert call.name == "add"
            assert isinstance(json.loads(call.arguments), dict)
        else:
            assert json.loads(text) in ({"ok": True}, {"ok": False})


def joined(turn: Turn, text: str) -> tuple[str, str]:
    """(thoughts, answer) as a client gets them."""
    reader = turn.reader()
    parts = [*reader.feed(text), *reader.finish()]
    told = [
        "".join(part.text for part in parts if isinstance(part, kind))
        for kind in (Reasoning, Content)
    ]
    return told[0], told[1]


def test_grammars_made_to_be_slow_hold_up_no_request_without_one(
    demo_gguf: Path, start_server: Any, tmp_path: Path
) -> None:
    optional = " ".join(["[a-z]?"] * 900)
    slow = [f"part ::= {optional}\nroot ::= {' '.join(['part'] * 12)}"]
    slow.append(f"root ::= {' '.join(['[a-z]?'] * 50)}")  # exponential in llama.cpp's own sampler
    with start_server(tmp_path / "log", str(demo_gguf), "--name", "demo") as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)

        def attack(number: int) -> int:
            grammar = {"grammar": slow[number % 2]}
            try:
                if number % 4 < 2:
                    client.chat.completions.create(**body(extra_body=grammar))
                else:
                    client.completions.create(model="demo", prompt="a", extra_body=grammar)
            except openai.APIStatusError as error:
                return error.status_code
            return 200

        def free() -> float:
            started = time.monotonic()
            client.chat.completions.create(**body(max_tokens=2))
            return time.monotonic() - started

        alone = free()
        with ThreadPoolExecutor(8) as pool:
            attacks = [pool.submit(attack, number) for number in range(8)]
            time.sleep(0.5)
            beside = max(free() for _ in range(3))
            ended = [attack.result() for attack in attacks]
        assert set(ended[::2]) <= {400, 503}
        assert set(ended[1::2]) <= {200, 503}  # 503: the places to compile are taken
    assert beside < max(4 * alone, 3.0)
