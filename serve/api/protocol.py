"""Requests of the OpenAI API, as far as they are supported.

They forbid unknown fields: what the server can't do is refused with the field's name, never
ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from tuneserve.serve.api import no_effect
from tuneserve.serve.api.lora_scales import LoraScales
from tuneserve.serve.api.messages import ChatMessage
from tuneserve.serve.api.request_model import (
    LARGEST_BIAS,
    LONGEST_STOP,
    MOST_BIASES,
    MOST_CHOICES,
    MOST_LOGPROBS,
    MOST_STOPS,
    MOST_TOKENS,
    MOST_VARIABLES,
    Choices,
    Effort,
    GrammarText,
    MaxTokens,
    ModelName,
    Pattern,
    Penalty,
    RepeatPenalty,
    RequestModel,
    Temperature,
    TokenId,
    TokenIds,
)
from tuneserve.serve.api.strict_json import check_json_text
from tuneserve.serve.chat.structured import LONGEST_SCHEMAS
from tuneserve.serve.engine import SamplingParams

_TAKEN_AS_GIVEN = {
    "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty",
    "repeat_penalty",
}  # fmt: skip
"""Fields of a request that SamplingParams has under the same name; it has their defaults too."""


class StreamOptions(RequestModel):
    """Options of a streamed answer."""

    without_effect = no_effect.OF_STREAM_OPTIONS
    include_usage: bool = False
    """End the stream with a chunk of token counts."""
    continuous_usage_stats: bool = False
    """Put the token counts so far into every chunk."""


class StructuredOutputs(RequestModel):
    """What the answer must be, as vLLM's clients say it; one of these."""

    without_effect = no_effect.OF_STRUCTURED_OUTPUTS
    json_: dict[str, Any] | str | None = Field(None, alias="json")
    """A JSON Schema."""
    json_object: bool = False
    """Any JSON object."""
    regex: Pattern | None = None
    """A regular expression that the whole answer matches."""
    choice: Choices | None = None
    """Texts, one of which is the answer."""
    grammar: GrammarText | None = None
    """A grammar (GBNF, rule `root`)."""


class Bound(NamedTuple):
    """What the answer must be: a JSON Schema, a regular expression, one of some texts or a grammar,
    and the field that says so."""

    kind: Literal["schema", "regex", "choice", "grammar"]
    value: Any
    field: str


class GenerationRequest(RequestModel):
    """What chat and text completions have in common."""

    without_effect = no_effect.OF_REQUESTS
    model: ModelName | None = None
    """Name of a served model; see /v1/models."""
    lora: LoraScales | None = None
    """The adapter, as llama-server's clients say it: its id, with the scale 1."""
    temperature: Temperature | None = None
    """0 takes the most probable token. Default 1."""
    top_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Choose among the most probable tokens that add up to this; 0 = the best one. Default 1."""
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    """Choose among this many most probable tokens; 0 or -1 = all. Default 0."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Leave out tokens less probable than this times the best. Default 0."""
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    """Same seed, same answer (up to rounding that depends on the batch)."""
    max_tokens: MaxTokens | None = None
    """Longest answer in tokens; 0 computes the prompt alone, -1 is the end of the context."""
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    """Strings that end the answer and are not part of it."""
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    """Number of answers. Default 1."""
    stream: bool | None = None
    """Send the answer as server-sent events."""
    stream_options: StreamOptions | None = None
    """Only with stream."""
    presence_penalty: Penalty | None = None
    """Subtracted once from the logit of tokens the answer has. Default 0."""
    frequency_penalty: Penalty | None = None
    """Subtracted for each time the answer has the token. Default 0."""
    repeat_penalty: RepeatPenalty | None = None
    """llama.cpp's penalty, a divisor; 1 = off. Default 1."""
    repetition_penalty: RepeatPenalty | None = None
    """Other servers' name of repeat_penalty."""
    ignore_eos: bool | None = None
    """Go on to max_tokens: end tokens are not chosen."""
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MOST_STOPS)] | None = None
    """Tokens that end the answer, as end tokens do."""
    logit_bias: dict[str, Annotated[float, Field(ge=-LARGEST_BIAS, le=LARGEST_BIAS)]] | None = None
    """Token id (as a string) to what is added to its logit."""
    grammar: GrammarText | None = None
    """A grammar (GBNF, rule `root`) that the answer must follow."""
    structured_outputs: StructuredOutputs | None = None
    """What the answer must be, as vLLM's clients say it."""
    guided_json: dict[str, Any] | str | None = None
    """A JSON Schema that the answer must satisfy."""
    json_schema: dict[str, Any] | str | None = None
    """The same under llama-server's and SGLang's name."""
    guided_regex: Pattern | None = None
    """A regular expression that the whole answer must match."""
    regex: Pattern | None = None
    """The same under SGLang's name."""
    guided_choice: Choices | None = None
    """Texts, one of which must be the answer."""
    guided_grammar: GrammarText | None = None
    """The same as grammar."""
    ebnf: GrammarText | None = None
    """The same as grammar."""

    @field_validator("stop")
    @classmethod
    def _stop_lengths(cls, stop: str | list[str] | None) -> str | list[str] | None:
        for one in [stop] if isinstance(stop, str) else stop or ():
            if not 0 < len(one) <= LONGEST_STOP:
                raise ValueError(f"a stop string has from 1 to {LONGEST_STOP} characters")
        return stop

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _given_biases(cls, bias: Any) -> Any:
        if not isinstance(bias, dict):
            return bias
        if len(bias) > MOST_BIASES:
            raise ValueError(f"there are more than {MOST_BIASES} biases")
        for token, value in bias.items():
            if isinstance(token, str) and not token.isascii():
                raise ValueError(f"{ascii(token)[:64]} is not a token id")
            # The first is enough: each of many would be an error of its own.
            if not isinstance(value, int | float | None):
                raise ValueError(f"the bias of {ascii(token)[:64]} is not a number")
            if value is not None and not -LARGEST_BIAS <= value <= LARGEST_BIAS:
                raise ValueError(
                    f"the bias of {ascii(token)[:64]} is not between {-LARGEST_BIAS} and "
                    f"{LARGEST_BIAS}"
                )
        return {token: value for token, value in bias.items() if value is not None}

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for key in bias or {}:
            if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) < 2**31):
                raise ValueError(f"'{key[:64]}' is not a token id")
        return bias

    @model_validator(mode="after")
    def _generation_fields_agree(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        if self.repeat_penalty is not None and self.repetition_penalty is not None:
            raise ValueError("give repeat_penalty or repetition_penalty, not both")
        if len(self._bounds) > 1:
            raise ValueError(
                f"{' and '.join(bound.field for bound in self._bounds)} exclude each other"
            )
        return self

    @property
    def bound(self) -> Bound | None:
        """What the answer must be, if anything."""
        return next(iter(self._bounds), None)

    @cached_property
    def _bounds(self) -> list[Bound]:
        """All that the fields say about what the answer must be."""
        return [*self._own_bounds()]

    def _own_bounds(self) -> Iterator[Bound]:
        schemas = {"guided_json": self.guided_json, "json_schema": self.json_schema}
        regexes = {"guided_regex": self.guided_regex, "regex": self.regex}
        choices = {"guided_choice": self.guided_choice}
        grammars = {
            "grammar": self.grammar,
            "guided_grammar": self.guided_grammar,
            "ebnf": self.ebnf,
        }
        if (nested := self.structured_outputs) is not None:
            schemas["structured_outputs.json"] = nested.json_
            if nested.json_object:
                schemas["structured_outputs.json_object"] = {"type": "object"}
            regexes["structured_outputs.regex"] = nested.regex
            choices["structured_outputs.choice"] = nested.choice
            grammars["structured_outputs.grammar"] = nested.grammar
        for field, schema in schemas.items():
            if schema is not None:
                yield Bound("schema", _schema_given(schema, field), field)
        for field, pattern in regexes.items():
            if pattern is not None:
                yield Bound("regex", pattern, field)
        for field, texts in choices.items():
            if texts is not None:
                yield Bound("choice", texts, field)
        for field, grammar in grammars.items():
            if grammar is not None:
                yield Bound("grammar", grammar, field)

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def wants_usage_in_chunks(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    def _sampling(
        self,
        *,
        max_tokens: int | None,
        default_max_tokens: int,
        logprobs: int | None,
        prompt_logprobs: int | None = None,
    ) -> SamplingParams:
        taken = self.model_dump(include=_TAKEN_AS_GIVEN, exclude_none=True)
        if self.repetition_penalty is not None:
            taken["repeat_penalty"] = self.repetition_penalty
        most = default_max_tokens if max_tokens is None else max_tokens
        return SamplingParams(
            **taken,
            max_tokens=None if most < 0 else most,
            stop_tokens=frozenset(self.stop_token_ids or ()),
            ignore_end=bool(self.ignore_eos),
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
        )


def _schema_given(schema: dict[str, Any] | str, field: str) -> dict[str, Any]:
    """A JSON Schema that may be given as text. Raises ValueError."""
    if isinstance(schema, str):
        if len(schema) > LONGEST_SCHEMAS:  # before it is read
            raise ValueError(f"{field} has more than {LONGEST_SCHEMAS} characters")
        try:
            check_json_text(schema)
        except ValueError as error:
            raise ValueError(f"{field}: {error}") from None
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise ValueError(f"{field} must be a JSON Schema") from None
    if not isinstance(schema, dict):
        raise ValueError(f"{field} must be a JSON Schema, an object")
    return schema


class PlainFormat(RequestModel):
    """Free text, the default, or any JSON object, or one that satisfies a schema."""

    type: Literal["text", "json_object"]
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """Only with json_object."""


class NamedSchema(RequestModel):
    """A JSON Schema; it is always enforced, whatever `strict` says."""

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class JsonSchemaFormat(RequestModel):
    """JSON that satisfies a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    @model_validator(mode="before")
    @classmethod
    def _schema_in_place(cls, given: Any) -> Any:
        """llama-server takes the schema without the object around it."""
        if isinstance(given, dict) and "json_schema" not in given and "schema" in given:
            inside = {key: value for key, value in given.items() if key != "type"}
            return {"type": given.get("type"), "json_schema": inside}
        return given


ResponseFormat = Annotated[PlainFormat | JsonSchemaFormat, Field(discriminator="type")]


class Function(RequestModel):
    """A function the model may call; `parameters` is a JSON Schema."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(RequestModel):
    """A tool; only functions exist."""

    without_effect = no_effect.OF_PARTS
    type: Literal["function"]
    function: Function


class FunctionName(RequestModel):
    """The name of one of the functions."""

    name: str


class NamedTool(RequestModel):
    """The one function that must be called."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(RequestModel):
    """Some of the request's tools: the others are not called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=128)]


class AllowedToolsChoice(RequestModel):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class ChatRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: MaxTokens | None = None
    """Longest answer in tokens; the newer name of max_tokens."""
    logprobs: bool | None = None
    """Report each token's log probability."""
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    """Alternatives reported for each token; needs logprobs."""
    response_format: ResponseFormat | None = None
    """Bound the answer to JSON, or to JSON of a schema, by a grammar."""
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    """Functions the model may call."""
    tool_choice: (
        Literal["none", "auto", "required", "any"]
        | Annotated[NamedTool | AllowedToolsChoice, Field(discriminator="type")]
        | None
    ) = None
    """Whether a function must be called, and which. Default auto."""
    parallel_tool_calls: bool | None = None
    """May one answer call several functions? Default true."""
    reasoning_budget: Annotated[int, Field(ge=0)] | None = None
    """Most tokens of thoughts, for models that think. Default: no limit."""
    reasoning_effort: Effort | None = None
    """How long to think, for models that do: a budget, or the chat template's variable."""
    add_generation_prompt: bool | None = None
    """Does the prompt open a turn of the assistant's? Default true."""
    continue_final_message: bool | None = None
    """Is a last turn of the assistant's continued? Default true; false closes it."""
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None
    """Variables for the chat template, such as enable_thinking."""

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _a_few_variables(cls, variables: Any) -> Any:
        if isinstance(variables, dict) and len(variables) > MOST_VARIABLES:
            raise ValueError(f"there are more than {MOST_VARIABLES} variables")
        return variables

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise ValueError("tool_choice needs tools")
        if self.must_call and self.bound is not None:
            raise ValueError(f"a required tool call and {self.bound.field} exclude each other")
        if self.reasoning_budget is not None and self.reasoning_effort is not None:
            raise ValueError("give reasoning_budget or reasoning_effort, not both")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message needs a last message of the assistant's")
        self._check_names()
        return self

    def _check_names(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        for name in self._chosen_names or ():
            if name not in names:
                raise ValueError(f"tool_choice names no tool: '{name[:64]}'")
        reserved = {"self", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}
        if taken := reserved & set(self.chat_template_kwargs or ()):
            raise ValueError(f"chat_template_kwargs can't set {', '.join(sorted(taken))}")

    @property
    def size(self) -> int:
        """Characters of the conversation, about."""
        return sum(message.size for message in self.messages)

    @property
    def must_call(self) -> bool:
        if isinstance(self.tool_choice, AllowedToolsChoice):
            return self.tool_choice.allowed_tools.mode == "required"
        return self.tool_choice in ("required", "any") or isinstance(self.tool_choice, NamedTool)

    @property
    def continues(self) -> bool:
        """Does the answer go on with a last turn of the assistant's?"""
        last = self.messages[-1]
        return (
            last.role == "assistant"
            and not last.tool_calls
            and self.continue_final_message is not False
        )

    @property
    def _chosen_names(self) -> list[str] | None:
        """The functions that tool_choice allows; None: all."""
        match self.tool_choice:
            case NamedTool(function=function):
                return [function.name]
            case AllowedToolsChoice(allowed_tools=allowed):
                return [tool.function.name for tool in allowed.tools]
        return None

    def _own_bounds(self) -> Iterator[Bound]:
        yield from super()._own_bounds()
        match self.response_format:
            case JsonSchemaFormat(json_schema=named):
                yield Bound("schema", named.schema_, "response_format")
            case PlainFormat(type="json_object", schema_=schema):
                yield Bound("schema", schema or {"type": "object"}, "response_format")

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON Schema that the answer must satisfy, if there is one."""
        return self.bound.value if self.bound and self.bound.kind == "schema" else None

    @property
    def is_bounded(self) -> bool:
        """Does a grammar have to be compiled for the answer?"""
        return self.bound is not None or bool(self.callable_tools)

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        """The tools that this answer may call, as templates and grammars take them."""
        chosen = self.tools or []
        if self.tool_choice == "none":
            return []
        names = self._chosen_names
        if names is not None:
            chosen = [tool for tool in chosen if tool.function.name in names]
        return [tool.model_dump(exclude_none=True) for tool in chosen]

    def sampling(self, *, default_max_tokens: int) -> SamplingParams:
        given = (
            self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        )
        return self._sampling(
            max_tokens=given,
            default_max_tokens=default_max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]
    )
    """Text, token ids, or a list of either."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    """Report log probabilities, with this many alternatives."""
    echo: bool | None = None
    """Put the prompt before the answer; with logprobs, its tokens' log probabilities too."""

    @field_validator("logprobs", mode="before")
    @classmethod
    def _switched_off(cls, logprobs: Any) -> Any:
        if logprobs is True:
            raise ValueError("must be a number of alternatives, 0 for the tokens alone")
        return None if logprobs is False else logprobs

    @model_validator(mode="after")
    def _echo_is_whole(self) -> Self:
        if self.echo and self.stream and self.logprobs is not None:
            raise ValueError("echo with logprobs is answered whole, without stream")
        return self

    def sampling(self, *, default_max_tokens: int) -> SamplingParams:
        return self._sampling(
            max_tokens=self.max_tokens,
            default_max_tokens=default_max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=self.logprobs if self.echo else None,
        )


class TokenizeRequest(RequestModel):
    """Body of POST /tokenize: a text, or a conversation as the chat template renders it."""

    model: ModelName | None = None
    content: str | None = None
    """A text; special tokens in it are parsed."""
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = None
    """A conversation, rendered by the chat template."""
    add_special: bool = False
    """Put BOS before the text if the model wants it (messages have it)."""

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeRequest:
        if (self.content is None) == (self.messages is None):
            raise ValueError("give content or messages")
        return self


class DetokenizeRequest(RequestModel):
    """Body of POST /detokenize."""

    model: ModelName | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MOST_TOKENS, fail_fast=True)]


class EmbeddingRequest(RequestModel):
    """Body of POST /v1/embeddings."""

    without_effect = no_effect.OF_REQUESTS
    model: ModelName | None = None
    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=512, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=512, fail_fast=True)]
    )
    encoding_format: Literal["float", "base64"] = "float"


def listed(given: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """Each text of those given, be it as token ids."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [list(given)]
    return list(given)
