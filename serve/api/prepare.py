"""From a chat request to what the engine needs: prompt, bounds on the answer, how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuneserve.chat.call_formats import HERMES, CallForm
from tuneserve.chat.prompt import encode_text, special_tokens_of, template_arguments
from tuneserve.chat.special_tokens import SpecialTokens
from tuneserve.chat.template import ChatTemplate
from tuneserve.chat.template_traits import template_traits
from tuneserve.chat.thinking import CLOSE_THOUGHTS, OPEN_THOUGHTS, thoughts_left
from tuneserve.llama import LlamaModel, TooManyTokensError
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.chat.answer_parser import PartReader
from tuneserve.serve.chat.channels import ChannelReader
from tuneserve.serve.chat.structured import GrammarCompiler
from tuneserve.serve.engine import PromptTooLongError, SamplingParams


@dataclass(frozen=True, slots=True)
class Turn:
    """The next turn of a conversation, ready to be generated. `calls`: were tools offered?"""

    prompt: list[int]
    sampling: SamplingParams
    calls: bool
    form: CallForm = HERMES

    def reader(self) -> PartReader | ChannelReader:
        if self.form.in_channels:
            return ChannelReader(calls=self.calls)
        return PartReader(self.sampling.thoughts, calls=self.form if self.calls else None)


def can_think(template: ChatTemplate) -> bool:
    """Does the template know thoughts, so that the model can have some?"""
    return OPEN_THOUGHTS in template.source or CLOSE_THOUGHTS in template.source


def prepare_turn(
    model: LlamaModel,
    grammars: GrammarCompiler,
    template: ChatTemplate,
    request: ChatRequest,
    *,
    default_max_tokens: int,
    most_tokens: int | None = None,
) -> Turn:
    """Raises ApiError, TemplateError or GrammarError for a conversation that can't be rendered or a
    schema or grammar that can't be enforced, PromptTooLongError for one that plainly has more than
    `most_tokens`, and UnavailableError."""
    thinks = can_think(template)
    if request.reasoning_budget is not None and not thinks:
        raise ApiError(
            400,
            "This model does not think: its chat template has no <think>.",
            code="unsupported_parameter",
            param="reasoning_budget",
        )
    text, opening = render_request(template, request, special_tokens_of(model))
    try:
        prompt = encode_text(model, text + opening, most=most_tokens)
    except TooManyTokensError as error:
        raise PromptTooLongError(error.least, error.most, least=True) from error
    form = template_traits(template).form
    # An answer that the client has begun can't go on with a call that only its beginning tells.
    can_call = bool(form.triggers) or request.must_call or not opening
    calls = bool(request.callable_tools) and can_call
    sampling = request.sampling(default_max_tokens=default_max_tokens)
    return Turn(
        prompt=prompt,
        sampling=replace(
            _bounded(grammars, sampling, request, form if calls else None),
            thoughts=thoughts_left(text, opening, thinks=thinks),
            thinking_budget=request.reasoning_budget,
            shown=_control_tokens(model, form) if calls or form.in_channels else frozenset(),
        ),
        form=form,
        calls=calls,
    )


def _control_tokens(model: LlamaModel, form: CallForm) -> frozenset[int]:
    """The form's marks that are control tokens, which are no text of an answer otherwise."""
    ids = map(model.tokenize, form.marks)
    return frozenset(one[0] for one in ids if len(one) == 1 and model.is_special(one[0]))


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
    grammars: GrammarCompiler,
    sampling: SamplingParams,
    request: ChatRequest,
    form: CallForm | None,
) -> SamplingParams:
    """`sampling` with the grammar that the request gives, or its response_format or tools need."""
    if request.grammar is not None:
        return replace(sampling, grammar=grammars.compile_gbnf(request.grammar))
    schema = request.answer_schema
    callable_tools = request.callable_tools if form else []
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
        form=form or HERMES,
    )
    after = form.triggers[0] if lazy and form and form.triggers else None
    return replace(sampling, grammar=grammar, grammar_after=after)
