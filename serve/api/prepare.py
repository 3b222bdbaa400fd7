"""From a chat request to what the engine needs: prompt, bounds on the answer, how to read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tuneserve.chat.call_formats import HERMES, CallForm
from tuneserve.chat.prompt import encode_text, special_tokens_of, template_arguments
from tuneserve.chat.special_tokens import SpecialTokens
from tuneserve.chat.template import ChatTemplate
from tuneserve.chat.template_traits import template_traits
from tuneserve.chat.thinking import CLOSE_THOUGHTS, OPEN_THOUGHTS, thoughts_left
from tuneserve.llama import LlamaModel, TooManyTokensError
from tuneserve.serve.api.effort import Effort, effort_of
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.protocol import Bound, ChatRequest
from tuneserve.serve.chat.answer_parser import PartReader
from tuneserve.serve.chat.channels import ChannelReader
from tuneserve.serve.chat.loosened import compile_calls
from tuneserve.serve.chat.recipients import RecipientReader
from tuneserve.serve.chat.structured import GrammarCompiler
from tuneserve.serve.engine import PromptTooLongError, SamplingParams

if TYPE_CHECKING:
    from llguidance import LLMatcher


AnswerReader = PartReader | ChannelReader | RecipientReader


@dataclass(frozen=True, slots=True)
class Turn:
    """The next turn of a conversation, ready to be generated. `calls`: were tools offered?
    `functions`: the schemas of their arguments by name; `only_calls`: must one be called?
    `unenforced`: what of their schemas the arguments may not satisfy, by place in the request.
    `ignored`: fields that change nothing for this model. `continues`: the answer goes on with a
    text that the request has begun."""

    prompt: list[int]
    sampling: SamplingParams
    calls: bool
    form: CallForm = HERMES
    functions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    only_calls: bool = False
    unenforced: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    continues: bool = False

    def reader(self) -> AnswerReader:
        if self.form.text_name:
            return RecipientReader(self.form, calls=self.calls, begun=self.continues)
        if self.form.in_channels:
            return ChannelReader(calls=self.calls)
        return PartReader(
            self.sampling.thoughts,
            calls=self.form if self.calls else None,
            functions=self.functions,
            only_calls=self.only_calls,
        )


def check_turns(roles: Iterable[str], most_tokens: int) -> None:
    """Raises PromptTooLongError for a conversation of more turns than tokens, before work is done
    on them. Those of the assistant's may be one in a prompt, or have no text."""
    turns = sum(role in ("user", "tool") for role in roles)
    if turns > most_tokens:
        raise PromptTooLongError(turns, most_tokens, least=True)


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
    if most_tokens is not None:
        check_turns((message.role for message in request.messages), most_tokens)
    thinks = can_think(template)
    effort = effort_of(request.reasoning_effort, template.source)
    budget = effort.budget if request.reasoning_budget is None else request.reasoning_budget
    text, opening = render_request(template, request, special_tokens_of(model))
    form = template_traits(template).form
    addressed = form.text_name + form.middle if form.text_name and opening else ""
    try:
        prompt = encode_text(model, text + addressed + opening, most=most_tokens)
    except TooManyTokensError as error:
        raise PromptTooLongError(error.least, error.most, least=True) from error
    # An answer that the client has begun can't go on with a call that only its beginning tells.
    can_call = bool(form.triggers) or request.must_call or not opening
    calls = bool(request.callable_tools) and can_call
    sampling = request.sampling(default_max_tokens=default_max_tokens)
    bounded, unenforced = _bounded(grammars, sampling, request, form if calls else None)
    return Turn(
        prompt=prompt,
        sampling=replace(
            bounded,
            thoughts=thoughts_left(text, opening, thinks=thinks),
            thinking_budget=budget if thinks else None,
            shown=_control_tokens(model, form) if calls or form.in_channels else frozenset(),
        ),
        form=form,
        calls=calls,
        continues=bool(opening),
        unenforced=unenforced,
        ignored=() if thinks else _without_thoughts(request, effort),
        functions={
            tool["function"]["name"]: tool["function"].get("parameters") or {}
            for tool in request.callable_tools
        },
        only_calls=calls and request.must_call,
    )


def _without_thoughts(request: ChatRequest, effort: Effort) -> tuple[str, ...]:
    """The fields that ask a model to think which can't; to think as little as it can is nothing
    that is left undone."""
    asked = {
        "reasoning_effort": request.reasoning_effort not in (None, "none", "minimal")
        and not effort.variables,
        "reasoning_budget": bool(request.reasoning_budget),
    }
    return tuple(name for name, is_lost in asked.items() if is_lost)


def _control_tokens(model: LlamaModel, form: CallForm) -> frozenset[int]:
    """The form's marks that are control tokens, which are no text of an answer otherwise."""
    ids = map(model.tokenize, form.marks)
    return frozenset(one[0] for one in ids if len(one) == 1 and model.is_special(one[0]))


def render_request(
    template: ChatTemplate, request: ChatRequest, special: SpecialTokens
) -> tuple[str, str]:
    """The conversation as text, and the beginning of its answer: a last turn of the assistant's is
    left open, to be continued, unless the request says otherwise. Special tokens that the request
    spells out are protected. Raises TemplateError; ApiError for what is nested too deep."""
    try:
        return _rendered(template, request, special)
    except RecursionError:
        raise ApiError(
            400,
            "Tools, arguments of calls or variables are nested too deep.",
            code="invalid_value",
            param="tools" if request.tools else "messages",
        ) from None


def _rendered(
    template: ChatTemplate, request: ChatRequest, special: SpecialTokens
) -> tuple[str, str]:
    messages: Sequence[Mapping[str, Any]] = [
        special.protect(message.as_template_sees_it()) for message in request.messages
    ]
    opening = ""
    if request.continues:
        opening = str(messages[-1]["content"])
        messages = messages[:-1]
    arguments = template_arguments(
        template,
        messages,
        tools=special.protect(request.callable_tools),
        variables={
            **effort_of(request.reasoning_effort, template.source).variables,
            **special.protect(request.chat_template_kwargs or {}),
        },
    )
    opens = request.continues or request.add_generation_prompt is not False
    return template.render(add_generation_prompt=opens, **arguments), opening


def compile_bound(grammars: GrammarCompiler, bound: Bound) -> LLMatcher:
    """The grammar of what an answer must be. Raises GrammarError, UnavailableError."""
    match bound.kind:
        case "schema":
            return grammars.compile_answer(
                bound.value, {}, several=False, opened=False, schema_param=bound.field
            )
        case "regex":
            return grammars.compile_regex(bound.value, bound.field)
        case "choice":
            return grammars.compile_choice(bound.value, bound.field)
    if bound.field != "grammar" and "::=" not in bound.value:
        return grammars.compile_lark(bound.value, bound.field)
    return grammars.compile_gbnf(bound.value, bound.field)


def _bounded(
    grammars: GrammarCompiler,
    sampling: SamplingParams,
    request: ChatRequest,
    form: CallForm | None,
) -> tuple[SamplingParams, tuple[str, ...]]:
    """`sampling` with the grammar that the request gives, or its response_format or tools need, and
    what of the tools' schemas it does not enforce."""
    bound = request.bound
    callable_tools = request.callable_tools if form else []
    if bound is not None and (bound.kind != "schema" or not callable_tools):
        return replace(sampling, grammar=compile_bound(grammars, bound)), ()
    if not callable_tools:
        return sampling, ()
    # Text may come in front of calls where neither a call nor a format is required.
    lazy = bound is None and not request.must_call
    places = {tool.function.name: place for place, tool in enumerate(request.tools or ())}
    functions = {places[tool["function"]["name"]]: tool["function"] for tool in callable_tools}
    options: dict[str, Any] = {
        "several": request.parallel_tool_calls is not False,
        "opened": lazy,
        "form": form or HERMES,
    }
    schema = None if bound is None else bound.value
    grammar, unenforced = compile_calls(
        grammars, schema, functions, must_call=request.must_call, **options
    )
    after = form.triggers[0] if lazy and form and form.triggers else None
    return replace(sampling, grammar=grammar, grammar_after=after), unenforced
