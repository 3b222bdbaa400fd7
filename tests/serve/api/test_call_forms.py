"""Calls in the forms of many models' templates, from the request to what the client gets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.chat.test_round_trip import joined, template
from tuneserve.chat.template import ChatTemplate
from tuneserve.chat.thinking import OPEN_THOUGHTS
from tuneserve.serve.api.prepare import Turn, prepare_turn
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.chat.parts import (
    Content,
    Part,
    calls_of,
)
from tuneserve.serve.chat.structured import GrammarCompiler
from tuneserve.serve.engine import Engine
from tuneserve.settings import ServeSettings

QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Rome"]}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "add", "description": "Adds nothing"}},
]
AS_TOKENS = {
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": {
        "<｜tool▁calls▁begin｜>": "<jupyter_start>",
        "<｜tool▁call▁begin｜>": "<jupyter_text>",
        "<｜tool▁sep｜>": "<jupyter_code>",
        "<｜tool▁call▁end｜>": "<jupyter_output>",
        "<｜tool▁calls▁end｜>": "<jupyter_script>",
    },
    "Qwen-Qwen2.5-7B-Instruct": {"<tool_call>": "<jupyter_start>", "</tool_call>": "<file_sep>"},
    "mistralai-Mistral-Nemo-Instruct-2407": {"[TOOL_CALLS]": "<repo_name>"},
    "GLM-4.6": {
        "<tool_call>": "<jupyter_start>",
        "</tool_call>": "<file_sep>",
        "<arg_key>": "<jupyter_text>",
        "</arg_key>": "<jupyter_code>",
        "<arg_value>": "<jupyter_output>",
        "</arg_value>": "<jupyter_script>",
    },
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": {
        "<|START_ACTION|>": "<jupyter_start>",
        "<|END_ACTION|>": "<file_sep>",
    },
    "upstage-Solar-Open-100B": {
        "<|tool_calls|>": "<jupyter_start>",
        "<|tool_call:begin|>": "<jupyter_text>",
        "<|tool_call:name|>": "<jupyter_code>",
        "<|tool_call:args|>": "<jupyter_output>",
        "<|tool_call:end|>": "<jupyter_script>",
    },
    "google-gemma-4-31B-it": {
        "<|tool_call>": "<jupyter_start>",
        "<tool_call|>": "<file_sep>",
        '<|"|>': "<jupyter_text>",
    },
}
"""Templates whose marks stand for control tokens, here those of the demo model's vocabulary."""

OF_EACH_FORM = (
    "Apertus-8B-Instruct",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "Kimi-K2-Thinking",
    "meetkai-functionary-medium-v3.2",
    "unsloth-Apriel-1.5",
    "upstage-Solar-Open-100B",
    "LFM2.5-8B-A1B",
    "Qwen3-Coder",
    "HuggingFaceTB-SmolLM3-3B",
    "Qwen-Qwen3-0.6B",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-V3.1",
    "gemma-3",
    "meta-llama-Llama-3.2-3B-Instruct",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "openai-gpt-oss-120b",
)


@pytest.fixture(scope="module")
def engine(demo_gguf: Path) -> Iterator[Engine]:
    with Engine(demo_gguf, ServeSettings(ctx=2048, slots=1, threads=1)) as running:
        yield running


@pytest.fixture(scope="module")
def grammars(engine: Engine) -> GrammarCompiler:
    return GrammarCompiler(engine.model)


def answered(
    engine: Engine, grammars: GrammarCompiler, template: ChatTemplate, **fields: Any
) -> tuple[Turn, list[Part]]:
    budget = 4 if OPEN_THOUGHTS in template.source else None
    request = ChatRequest.model_validate(
        {"messages": QUESTION, "max_tokens": 160, "temperature": 0, "tools": TOOLS,
         "reasoning_budget": budget, **fields}
    )  # fmt: skip
    turn = prepare_turn(engine.model, grammars, template, request, default_max_tokens=160)
    (done,) = engine.generate([turn.prompt], turn.sampling)
    reader = turn.reader()
    return turn, [*reader.feed(done.text), *reader.finish()]


def with_tokens(name: str, source: Path) -> ChatTemplate:
    one = template(name, source)
    text = one.source
    for mark, token in AS_TOKENS[name].items():
        text = text.replace(mark, token)
    return ChatTemplate(text, bos_token=one.bos_token, eos_token=one.eos_token)


@pytest.mark.parametrize("name", OF_EACH_FORM)
def test_a_required_call_is_read(
    name: str, llama_cpp_source: Path, engine: Engine, grammars: GrammarCompiler
) -> None:
    chosen = {"type": "function", "function": {"name": "get_weather"}}
    fields = {"tool_choice": chosen, "parallel_tool_calls": False}
    _, parts = answered(engine, grammars, template(name, llama_cpp_source), **fields)
    (call,) = calls_of(parts)
    assert call.name == "get_weather"
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    assert joined(parts, Content) == ""


def test_a_required_call_tells_what_its_form_leaves_open(
    llama_cpp_source: Path, engine: Engine, grammars: GrammarCompiler
) -> None:
    parameters = {
        "type": "object",
        "properties": {
            "o": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]},
            "p": {"type": "string", "pattern": "^[0-9]{3}$"},
            "q": {"type": "string", "format": "uri", "maxLength": 9},
        },
        "required": ["o", "p"],
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    one = with_tokens("google-gemma-4-31B-it", llama_cpp_source)
    turn, parts = answered(engine, grammars, one, tools=tools, tool_choice="required")
    assert turn.unenforced == ("tools[0].function.parameters: q.format",)
    arguments = json.loads(calls_of(parts)[0].arguments)
    assert arguments["o"]["x"] in (True, False)
    assert re.fullmatch("[0-9]{3}", arguments["p"])


@pytest.mark.parametrize("name", sorted(AS_TOKENS))
def test_marks_that_are_control_tokens_are_read_and_never_shown(
    name: str, llama_cpp_source: Path, engine: Engine, grammars: GrammarCompiler
) -> None:
    """A bias makes the model open a call, of which the grammar makes the rest."""
    opening = next(iter(AS_TOKENS[name].values()))
    (token,) = engine.model.tokenize(opening)
    one = with_tokens(name, llama_cpp_source)
    for choice in ("auto", "required"):
        turn, parts = answered(
            engine, grammars, one, tool_choice=choice, parallel_tool_calls=False,
            logit_bias={str(token): 100},
        )  # fmt: skip
        assert token in turn.sampling.shown
        (call,) = calls_of(parts)
        assert call.name in ("get_weather", "add")
        assert isinstance(json.loads(call.arguments), dict)
        assert joined(parts, Content) == ""


def test_control_tokens_are_no_text_where_no_tools_are_offered(
    llama_cpp_source: Path, engine: Engine, grammars: GrammarCompiler
) -> None:
    (token,) = engine.model.tokenize("<repo_name>")
    one = with_tokens("mistralai-Mistral-Nemo-Instruct-2407", llama_cpp_source)
    fields = {"tools": None, "max_tokens": 5, "logit_bias": {str(token): 100}}
    turn, parts = answered(engine, grammars, one, **fields)
    assert not turn.sampling.shown
    assert parts == []


def test_text_is_an_answer_where_calls_have_no_mark(
    llama_cpp_source: Path, engine: Engine, grammars: GrammarCompiler
) -> None:
    one = template("meta-llama-Llama-3.2-3B-Instruct", llama_cpp_source)
    turn, parts = answered(engine, grammars, one, max_tokens=12)
    assert turn.sampling.grammar_after is None
    assert calls_of(parts) == []
    assert joined(parts, Content)
    begun = [*QUESTION, {"role": "assistant", "content": "It is"}]
    turn, _ = answered(engine, grammars, one, messages=begun, max_tokens=12)
    assert turn.sampling.grammar is None


def test_texts_that_are_addressed_to_all(
    llama_cpp_source: Path, engine: Engine, grammars: GrammarCompiler
) -> None:
    """Functionary writes `all` before a text: with tools or without, it is no text."""
    one = template("meetkai-functionary-medium-v3.2", llama_cpp_source)

    def written(turn: Turn) -> str:
        return b"".join(map(engine.model.token_bytes, turn.prompt)).decode()

    for fields in ({}, {"tools": None}):
        turn, parts = answered(engine, grammars, one, max_tokens=12, **fields)
        assert written(turn).endswith(">>>")
        assert not joined(parts, Content).startswith("all\n")
        assert not calls_of(parts) or not fields
    begun = [*QUESTION, {"role": "assistant", "content": "It is"}]
    turn, parts = answered(engine, grammars, one, messages=begun, max_tokens=5)
    assert written(turn).endswith(">>>all\nIt is")
    assert joined(parts, Content)
