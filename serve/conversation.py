"""From a chat request to what the engine needs: prompt, bounds on the answer, how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from serve.engine import Sampling, ThinkingBudget
from serve.errors import ApiError
from serve.grammar import ANY_OBJECT, check_grammar, schema_grammar
from serve.parts import END_THINK, THINK, PartReader
from serve.schema import ChatRequest, JsonObjectFormat, JsonSchemaFormat
from serve.tools import OPEN, calls_grammar, described, knows_tools
from tuneserve.llama import LlamaModel
from tuneserve.prompt import encode_text
from tuneserve.template import ChatTemplate


@dataclass(frozen=True, slots=True)
class Turn:
    """The next turn of a conversation, ready to be generated."""

    prompt: list[int]
    sampling: Sampling
    thinks: bool
    thinking: bool
    calls: bool

    def reader(self) -> PartReader:
        return PartReader(thinks=self.thinks, thinking=self.thinking, calls=self.calls)


def prepare_turn(
    model: LlamaModel, template: ChatTemplate, request: ChatRequest, *, default_max_tokens: int
) -> Turn:
    """Raises ApiError or TemplateError for a conversation or a bound that can't be had."""
    text = render(template, request)
    thinks = THINK in template.source or END_THINK in template.source
    thinking = thinks and text.rstrip().endswith(THINK)
    sampling = request.sampling(default_max_tokens=default_max_tokens)
    sampling = _bounded(model, sampling, request, thinks=thinks)
    if request.reasoning_budget is not None:
        sampling = replace(sampling, thinking=_budget(model, request.reasoning_budget, thinks))
    return Turn(
        prompt=encode_text(model, text),
        sampling=sampling,
        thinks=thinks,
        thinking=thinking,
        calls=bool(request.callable_tools),
    )


def render(template: ChatTemplate, request: ChatRequest) -> str:
    """The conversation as text; a last turn of the assistant's is left open, to be continued."""
    messages: Sequence[Mapping[str, Any]] = [
        message.as_template_sees_it() for message in request.messages
    ]
    tools = request.callable_tools
    if not knows_tools(template.source):
        messages = described(messages, tools)
        tools = []
    opening = ""
    if messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
        opening = str(messages[-1]["content"])
        messages = messages[:-1]
    text = template.render(
        messages,
        add_generation_prompt=True,
        tools=tools or None,
        **(request.chat_template_kwargs or {}),
    )
    return text + opening


def _bounded(
    model: LlamaModel, sampling: Sampling, request: ChatRequest, *, thinks: bool
) -> Sampling:
    """`sampling` with the grammar that response_format or tools ask for."""
    if request.grammar is not None:
        check_grammar(model, request.grammar, param="grammar")
        return replace(sampling, grammar_after=END_THINK if thinks else None)
    grammar, after = _grammar(request, thinks=thinks)
    if grammar is None:
        return sampling
    check_grammar(model, grammar, param="tools" if request.tools else "response_format")
    return replace(sampling, grammar=grammar, grammar_after=after)


def _grammar(request: ChatRequest, *, thinks: bool) -> tuple[str | None, str | None]:
    """(grammar, mark after which it begins); thoughts are never bounded."""
    after = END_THINK if thinks else None
    several = request.parallel_tool_calls is not False
    tools = request.callable_tools
    if request.must_call:
        return calls_grammar(tools, several=several, opened=False), after
    match request.response_format:
        case JsonObjectFormat():
            return schema_grammar(ANY_OBJECT, param="response_format"), after
        case JsonSchemaFormat(json_schema=named):
            return schema_grammar(named.schema_, param="response_format"), after
    if tools:
        return calls_grammar(tools, several=several, opened=True), OPEN
    return None, None


def _budget(model: LlamaModel, tokens: int, thinks: bool) -> ThinkingBudget:
    if not thinks:
        raise ApiError(
            400,
            "This model does not think: its chat template has no <think>.",
            code="unsupported_parameter",
            param="reasoning_budget",
        )
    closing = model.tokenize(f"\n{END_THINK}\n\n", parse_special=True)
    return ThinkingBudget(tokens, END_THINK, tuple(closing))
