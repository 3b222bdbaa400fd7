"""Requests and answers of the OpenAI API, as far as they are supported.

Requests forbid unknown fields: what the server can't do is refused with the field's name, never
ignored. Answers are plain dictionaries; their types say which fields are always there.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import TypedDict

from tuneserve.chat.template import normal_message
from tuneserve.serve.engine import SamplingParams

MOST_CHOICES = 16
MOST_STOPS = 16
MOST_LOGPROBS = 20
LONGEST_STOP = 256
MOST_TOKENS = 1_000_000
"""That a text may have where no context bounds it."""

Temperature = Annotated[float, Field(ge=0.0, le=2.0)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
MaxTokens = Annotated[int, Field(ge=1)]


class RequestModel(BaseModel):
    """Base of everything a client sends."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


_TAKEN_AS_GIVEN = {
    "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty",
    "repeat_penalty",
}  # fmt: skip
"""Fields of a request that SamplingParams has under the same name; it has their defaults too."""


class StreamOptions(RequestModel):
    """Options of a streamed answer."""

    include_usage: bool = False
    """End the stream with a chunk of token counts."""


class GenerationRequest(RequestModel):
    """What chat and text completions have in common."""

    model: str | None = None
    """Name of a served model; see /v1/models."""
    temperature: Temperature | None = None
    """0 takes the most probable token. Default 1."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Choose among the most probable tokens that add up to this. Default 1."""
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Choose among this many most probable tokens; 0 = all. Default 0."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Leave out tokens less probable than this times the best. Default 0."""
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    """Same seed, same answer (up to rounding that depends on the batch)."""
    max_tokens: MaxTokens | None = None
    """Longest answer in tokens."""
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
    repeat_penalty: Annotated[float, Field(gt=0.0, le=10.0)] | None = None
    """llama.cpp's penalty, a divisor; 1 = off. Default 1."""
    logit_bias: dict[str, Annotated[float, Field(ge=-100.0, le=100.0)]] | None = None
    """Token id (as a string) to what is added to its logit."""
    grammar: Annotated[str, Field(min_length=1, max_length=100_000)] | None = None
    """A grammar (GBNF, rule `root`) that the answer must follow."""
    user: str | None = None
    """Accepted; has no effect on the answer."""

    @field_validator("stop")
    @classmethod
    def _stop_lengths(cls, stop: str | list[str] | None) -> str | list[str] | None:
        for one in [stop] if isinstance(stop, str) else stop or ():
            if not 0 < len(one) <= LONGEST_STOP:
                raise ValueError(f"a stop string has from 1 to {LONGEST_STOP} characters")
        return stop

    @field_validator("logit_bias")
    @classmethod
    def _token_ids(cls, bias: dict[str, float] | None) -> dict[str, float] | None:
        for key in bias or {}:
            if not (key.isascii() and key.isdigit() and int(key) < 2**31):
                raise ValueError(f"'{key}' is not a token id")
        return bias

    @model_validator(mode="after")
    def _options_need_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        return self

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _sampling(self, *, max_tokens: int, logprobs: int | None) -> SamplingParams:
        return SamplingParams(
            **self.model_dump(include=_TAKEN_AS_GIVEN, exclude_none=True),
            max_tokens=max_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            logprobs=logprobs,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
        )


class TextPart(RequestModel):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class CalledFunction(RequestModel):
    """A function the assistant called, with its arguments as JSON text."""

    name: str
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _is_json_object(cls, arguments: str) -> str:
        try:
            value = json.loads(arguments)
        except ValueError:
            raise ValueError("must be JSON text") from None
        if not isinstance(value, dict):
            raise ValueError("must be a JSON object")
        return arguments


class CallMade(RequestModel):
    """A tool call of an earlier turn."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(RequestModel):
    """One turn of the conversation. A last turn of the assistant's is continued."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[CallMade] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    """Thoughts of an earlier turn, for templates that want them."""
    refusal: None = None

    @model_validator(mode="after")
    def _fields_suit_the_role(self) -> ChatMessage:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content is required")
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("only the assistant has tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a message of role tool, and no other, has a tool_call_id")
        return self

    @property
    def size(self) -> int:
        """Characters of what it brings into the prompt, about."""
        calls = sum(len(call.function.arguments) for call in self.tool_calls or ())
        return len(self.text) + len(self.reasoning_content or "") + calls

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    def as_template_sees_it(self) -> dict[str, Any]:
        """The message as training gave it to the template, its content as plain text."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        for key in ("name", "tool_call_id", "reasoning_content"):
            if (value := getattr(self, key)) is not None:
                message[key] = value
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        return normal_message(message)


class PlainFormat(RequestModel):
    """Free text, the default, or any JSON object."""

    type: Literal["text", "json_object"]


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


ResponseFormat = Annotated[PlainFormat | JsonSchemaFormat, Field(discriminator="type")]


class Function(RequestModel):
    """A function the model may call; `parameters` is a JSON Schema and always enforced."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(RequestModel):
    """A tool; only functions exist."""

    type: Literal["function"]
    function: Function


class FunctionName(RequestModel):
    """The name of one of the functions."""

    name: str


class NamedTool(RequestModel):
    """The one function that must be called."""

    type: Literal["function"]
    function: FunctionName


class ChatRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
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
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    """Whether a function must be called, and which. Default auto."""
    parallel_tool_calls: bool | None = None
    """May one answer call several functions? Default true."""
    reasoning_budget: Annotated[int, Field(ge=0)] | None = None
    """Most tokens of thoughts, for models that think. Default: no limit."""
    chat_template_kwargs: dict[str, bool | int | float | str] | None = None
    """Variables for the chat template, such as enable_thinking."""

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise ValueError("tool_choice needs tools")
        formatted = self.answer_schema is not None
        if self.must_call and formatted:
            raise ValueError("a required tool call and a response_format exclude each other")
        if self.grammar and (self.must_call or formatted):
            raise ValueError("grammar excludes response_format and a required tool call")
        self._check_names()
        return self

    def _check_names(self) -> None:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names no tool: '{self.tool_choice.function.name}'")
        reserved = {"self", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}
        if taken := reserved & set(self.chat_template_kwargs or ()):
            raise ValueError(f"chat_template_kwargs can't set {', '.join(sorted(taken))}")

    @property
    def size(self) -> int:
        """Characters of the conversation, about."""
        return sum(message.size for message in self.messages)

    @property
    def must_call(self) -> bool:
        return self.tool_choice == "required" or isinstance(self.tool_choice, NamedTool)

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The JSON Schema that response_format asks for, if it asks for JSON."""
        match self.response_format:
            case JsonSchemaFormat(json_schema=named):
                return named.schema_
            case PlainFormat(type="json_object"):
                return {"type": "object"}
        return None

    @property
    def is_bounded(self) -> bool:
        """Does a grammar have to be compiled for the answer?"""
        return bool(self.grammar or self.callable_tools) or self.answer_schema is not None

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        """The tools that this answer may call, as templates and grammars take them."""
        chosen = self.tools or []
        if self.tool_choice == "none":
            return []
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            chosen = [tool for tool in chosen if tool.function.name == name]
        return [tool.model_dump(exclude_none=True) for tool in chosen]

    def sampling(self, *, default_max_tokens: int) -> SamplingParams:
        return self._sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens or default_max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1)]
    )
    """Text, token ids, or a list of either."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    """Report log probabilities, with this many alternatives."""

    def sampling(self, *, default_max_tokens: int) -> SamplingParams:
        return self._sampling(
            max_tokens=self.max_tokens or default_max_tokens, logprobs=self.logprobs
        )


class TokenizeRequest(RequestModel):
    """Body of POST /tokenize: a text, or a conversation as the chat template renders it."""

    model: str | None = None
    content: str | None = None
    """A text; special tokens in it are parsed."""
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    """A conversation, rendered by the chat template."""
    add_special: bool = False
    """Put BOS before the text if the model wants it (messages have it)."""

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeRequest:
        if (self.content is None) == (self.messages is None):
            raise ValueError("give content or messages")
        return self


class TokenList(TypedDict):
    """Answer of POST /tokenize: the ids, their number, and the longest a prompt may be."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeRequest(RequestModel):
    """Body of POST /detokenize."""

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MOST_TOKENS)]


class DetokenizedText(TypedDict):
    """Answer of POST /detokenize."""

    content: str


class EmbeddingRequest(RequestModel):
    """Body of POST /v1/embeddings."""

    model: str | None = None
    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=512)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=512)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


def listed(given: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """Each text of those given, be it as token ids."""
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [list(given)]
    return list(given)


class Embedding(TypedDict):
    """The vector of one input, of length 1; base64 is of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Token counts of an embedding request."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """Answer of POST /v1/embeddings."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class PromptTokensDetails(TypedDict):
    """How many of the prompt's tokens the prefix cache had."""

    cached_tokens: int


class Usage(EmbeddingUsage):
    """Token counts of a request."""

    completion_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(TypedDict):
    """A token that could have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    """A chosen token with its alternatives, best first."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Log probabilities of an answer's tokens."""

    content: list[ChatTokenLogprob]


class TextLogprobs(TypedDict):
    """Log probabilities in the older form of text completions."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class FunctionCall(TypedDict):
    """A function and its arguments as JSON text."""

    name: str
    arguments: str


class AnswerCall(TypedDict):
    """A tool call the model makes."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class AnswerMessage(TypedDict):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[AnswerCall]]


class ChatChoice(TypedDict):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(TypedDict):
    """Answer of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(TypedDict):
    """One of the answers, or a chunk of it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None


class TextCompletion(TypedDict):
    """Answer of POST /v1/completions, whole or as one event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: NotRequired[Usage]


class ModelCard(TypedDict):
    """A served model; an adapter's `root` and `parent` are the base."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["tuneserve"]
    root: str | None
    parent: str | None


class ModelList(TypedDict):
    """Answer of GET /v1/models."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(TypedDict):
    """Answer of GET /health."""

    status: Literal["ok"]


class ErrorDetail(TypedDict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None
    n_prompt_tokens: NotRequired[int]
    n_ctx: NotRequired[int]


class ErrorBody(TypedDict):
    """Every answer that is not a success."""

    error: ErrorDetail
