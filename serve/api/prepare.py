"""From a chat request to what the engine needs: prompt, bounds on the answer, how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuneserve.chat.prompt import encode_text, special_tokens_of, template_arguments
from tuneserve.chat.special_tokens import SpecialTokens
from tuneserve.chat.template import ChatTemplate
from tuneserve.chat.thinking import CLOSE_THOUGHTS, OPEN_THOUGHTS, thoughts_left
from tuneserve.chat.tools import OPEN_CALL
from tuneserve.llama import LlamaModel
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.chat.answer_parser import PartReader
from tuneserve.serve.chat.structured import GrammarCompiler
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
    model: LlamaModel,
    grammars: GrammarCompiler,
    template: ChatTemplate,
    request: ChatRequest,
    *,
    default_max_tokens: int,
) -> Turn:
    """Raises ApiError, TemplateError or GrammarError for a conversation that can't be rendered or a
    schema or grammar that can't be enforced, and UnavailableError."""
    thinks = OPEN_THOUGHTS in template.source or CLOSE_THOUGHTS in template.source
    if request.reasoning_budget is not None and not thinks:
        raise ApiError(
            400,
            "This model does not think: its chat template has no <think>.",
            code="unsupported_parameter",
            param="reasoning_budget",
        )
    text, opening = render_request(template, request, special_tokens_of(model))
    sampling = request.sampling(default_max_tokens=default_max_tokens)
    return Turn(
        prompt=encode_text(model, text + opening),
        sampling=replace(
            _bounded(grammars, sampling, request),
            thoughts=thoughts_left(text, opening, thinks=thinks),
            thinking_budget=request.reasoning_budget,
        ),
        calls=bool(request.callable_tools),
    )


def render_request(
    template: ChatTemplate, request: ChatRequest, special: SpecialTokens
) -> tuple[str, str]:
    """The conversation as text, and the beginning of its answer: a last turn of the assistant's is
    left open, to be continued. Special tokens that the request spells out are protected."""
    messages: Sequence[Mapping[str, Any]] = [
        special.protect(message.as_template_sees_it()) for message in request.messages
    ]
    opening = ""
    if messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
        opening = str(messages[-1]["content"])
        messages = messages[:-1]
    arguments = template_arguments(
        template,
        messages,
        tools=special.protect(request.callable_tools),
        variables=special.protect(request.chat_template_kwargs),
    )
    return template.render(add_generation_prompt=True, **arguments), opening


def _bounded(
    grammars: GrammarCompiler, sampling: SamplingParams, request: ChatRequest
) -> SamplingParams:
    """`sampling` with the grammar that the request gives, or its response_format or tools need."""
    if request.grammar is not None:
        return replace(sampling, grammar=grammars.compile_gbnf(request.grammar))
    schema = request.answer_schema
    callable_tools = request.callable_tools
    if schema is None and not callable_tools:
        return sampling
    # Text may come in front of calls where neither a call nor a format is required.
    lazy = schema is None and not request.must_call
    places = {tool.function.name: place for place, tool in enumerate(request.tools or ())}
    grammar = grammars.compile_answer(
        schema,
        {places[tool["function"]["name"]]: tool["function"] for tool in callable_tools},
        several=request.parallel_tool_calls is not False,
        opened=lazy,
    )
    return replace(sampling, grammar=grammar, grammar_after=OPEN_CALL if lazy else None)
