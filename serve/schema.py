"""Requests and answers of the OpenAI API, as far as they are supported.

Requests forbid unknown fields: what the server can't do is refused with the field's name, never
ignored. Answers are written with `exclude_unset`, so a field appears if it was set.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from serve.engine import Sampling

MOST_CHOICES = 16
MOST_STOPS = 16
MOST_LOGPROBS = 20

Temperature = Annotated[float, Field(ge=0.0, le=2.0)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]


class RequestModel(BaseModel):
    """Base of everything a client sends."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class StreamOptions(RequestModel):
    """Options of a streamed answer."""

    include_usage: bool = Field(False, description="End the stream with a chunk of token counts.")


class GenerationRequest(RequestModel):
    """What chat and text completions have in common."""

    model: str | None = Field(None, description="Name of a served model; see /v1/models.")
    temperature: Temperature | None = Field(
        None, description="0 takes the most probable token. Default 1."
    )
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None, description="Choose among the most probable tokens that add up to this. Default 1."
    )
    top_k: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Choose among this many most probable tokens; 0 = all. Default 0."
    )
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = Field(
        None, description="Leave out tokens less probable than this times the best. Default 0."
    )
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = Field(
        None, description="Same seed, same answer (up to rounding that depends on the batch)."
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Longest answer in tokens."
    )
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = Field(
        None, description="Strings that end the answer and are not part of it."
    )
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = Field(
        None, description="Number of answers. Default 1."
    )
    stream: bool | None = Field(None, description="Send the answer as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Only with stream.")
    presence_penalty: Penalty | None = Field(
        None, description="Subtracted once from the logit of tokens the answer has. Default 0."
    )
    frequency_penalty: Penalty | None = Field(
        None, description="Subtracted for each time the answer has the token. Default 0."
    )
    repeat_penalty: Annotated[float, Field(gt=0.0, le=10.0)] | None = Field(
        None, description="llama.cpp's penalty, a divisor; 1 = off. Default 1."
    )
    logit_bias: dict[str, Annotated[float, Field(ge=-100.0, le=100.0)]] | None = Field(
        None, description="Token id (as a string) to what is added to its logit."
    )
    user: str | None = Field(None, description="Accepted; has no effect on the answer.")

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if stop == "" or (isinstance(stop, list) and "" in stop):
            raise ValueError("a stop string can't be empty")
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

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def _sampling(self, *, max_tokens: int, logprobs: int | None) -> Sampling:
        return Sampling(
            temperature=_or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0),
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            seed=self.seed,
            max_tokens=max_tokens,
            stop=self.stops,
            logprobs=logprobs,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repeat_penalty=_or(self.repeat_penalty, 1.0),
        )


class TextPart(RequestModel):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class ChatMessage(RequestModel):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)

    def as_template_sees_it(self) -> dict[str, Any]:
        """Chat templates know 'system', not OpenAI's newer name for it, and plain text."""
        role = "system" if self.role == "developer" else self.role
        message = {"role": role, "content": self.text}
        return message if self.name is None else {**message, "name": self.name}


class ChatRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Longest answer in tokens; the newer name of max_tokens."
    )
    logprobs: bool | None = Field(None, description="Report each token's log probability.")
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="Alternatives reported for each token; needs logprobs."
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self

    def sampling(self, *, default_max_tokens: int) -> Sampling:
        return self._sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens or default_max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)]
    ) = Field(description="Text, token ids, or a list of either.")
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="Report log probabilities, with this many alternatives."
    )

    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [list(self.prompt)]
        return list(self.prompt)

    def sampling(self, *, default_max_tokens: int) -> Sampling:
        return self._sampling(
            max_tokens=self.max_tokens or default_max_tokens, logprobs=self.logprobs
        )


class PromptTokensDetails(BaseModel):
    """How many of the prompt's tokens the prefix cache had."""

    cached_tokens: int


class Usage(BaseModel):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(BaseModel):
    """A token that could have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    """A chosen token with its alternatives, best first."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log probabilities of an answer's tokens."""

    content: list[ChatTokenLogprob]


class TextLogprobs(BaseModel):
    """Log probabilities in the older form of text completions."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AnswerMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(BaseModel):
    """Answer of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(BaseModel):
    """What a chunk adds to the assistant's turn."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    """A chunk of one of the answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunk(BaseModel):
    """One event of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class TextChoice(BaseModel):
    """One of the answers, or a chunk of it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None


class TextCompletion(BaseModel):
    """Answer of POST /v1/completions, whole or as one event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["tuneserve"]


class ModelList(BaseModel):
    """Answer of GET /v1/models."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(BaseModel):
    """Answer of GET /health."""

    status: Literal["ok"]


class ErrorDetail(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
