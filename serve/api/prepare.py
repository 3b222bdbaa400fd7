"""From a chat request to what the engine needs: prompt, bounds on the answer, how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuneserve.chat.prompt import encode_text, template_arguments
from tuneserve.chat.template import ChatTemplate
from tuneserve.chat.thinking import CLOSE_THOUGHTS, OPEN_THOUGHTS, thoughts_left
from tuneserve.chat.tools import OPEN_CALL
from tuneserve.llama import LlamaModel
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.protocol import ChatRequest, JsonObjectFormat, JsonSchemaFormat
from tuneserve.serve.chat.answer_parser import PartReader
from tuneserve.serve.chat.gbnf import either
from tuneserve.serve.chat.grammar import ANY_OBJECT, check_grammar, schema_grammar
from tuneserve.serve.chat.tools import calls_grammar
from tuneserve.serve.engine import SamplingParams


@dataclass(frozen=True, slots=True)
class Turn:
    """The next turn of a conversation, ready to be generated."""

    prompt: list[int]
    sampling: SamplingParams
    calls: bool

    def reader(self) -> PartReader:
        return PartReader(self.sampling.thoughts, calls=self.calls)


def prepare_turn(
    model: LlamaModel, template: ChatTemplate, request: ChatRequest, *, default_max_tokens: int
) -> Turn:
    """Raises ApiError or TemplateError for a conversation or a bound that can't be had."""
    text, opening = render_request(template, request)
    thoughts = thoughts_left(text, opening, thinks=_thinks(template))
    sampling = request.sampling(default_max_tokens=default_max_tokens)
    sampling = replace(_bounded(model, sampling, request), thoughts=thoughts)
    if request.reasoning_budget is not None:
        _require_thoughts(template)
        sampling = replace(sampling, thinking_budget=request.reasoning_budget)
    return Turn(
        prompt=encode_text(model, text + opening),
        sampling=sampling,
        calls=bool(request.callable_tools),
    )


def render_request(template: ChatTemplate, request: ChatRequest) -> tuple[str, str]:
    """The conversation as text, and the beginning of its answer: a last turn of the assistant's is
    left open, to be continued."""
    messages: Sequence[Mapping[str, Any]] = [
        message.as_template_sees_it() for message in request.messages
    ]
    opening = ""
    if messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
        opening = str(messages[-1]["content"])
        messages = messages[:-1]
    arguments = template_arguments(
        template, messages, tools=request.callable_tools, variables=request.chat_template_kwargs
    )
    return template.render(add_generation_prompt=True, **arguments), opening


def _bounded(model: LlamaModel, sampling: SamplingParams, request: ChatRequest) -> SamplingParams:
    """`sampling` with the grammar that response_format or tools ask for."""
    if request.grammar is not None:
        check_grammar(model, request.grammar, param="grammar")
        return sampling
    grammar, after = _grammar(request)
    if grammar is None:
        return sampling
    check_grammar(model, grammar, param="tools" if request.tools else "response_format")
    return replace(sampling, grammar=grammar, grammar_after=after)


def _grammar(request: ChatRequest) -> tuple[str | None, str | None]:
    """(grammar, mark after which it begins)."""
    several = request.parallel_tool_calls is not False
    tools = request.callable_tools
    if request.must_call:
        return calls_grammar(tools, several=several, opened=False), None
    answer = _answer_grammar(request)
    if not tools:
        return answer, None
    if answer is None:
        return calls_grammar(tools, several=several, opened=True), OPEN_CALL
    return either(answer, calls_grammar(tools, several=several, opened=False)), None


def _answer_grammar(request: ChatRequest) -> str | None:
    match request.response_format:
        case JsonObjectFormat():
            return schema_grammar(ANY_OBJECT, param="response_format")
        case JsonSchemaFormat(json_schema=named):
            return schema_grammar(named.schema_, param="response_format")
    return None


def _thinks(template: ChatTemplate) -> bool:
    return OPEN_THOUGHTS in template.source or CLOSE_THOUGHTS in template.source


def _require_thoughts(template: ChatTemplate) -> None:
    if not _thinks(template):
        raise ApiError(
            400,
            "This model does not think: its chat template has no <think>.",
            code="unsupported_parameter",
            param="reasoning_budget",
        )
