"""Answers of the OpenAI API: plain dictionaries, whose types say which fields are always there."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict


class TokenList(TypedDict):
    """Answer of POST /tokenize: the ids, their number, and the longest a prompt may be."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizedText(TypedDict):
    """Answer of POST /detokenize."""

    content: str


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
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
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
    """A served model; an adapter's `root` and `parent` are the base. `system_prompt`: what stands
    before conversations without a system message, '' for nothing."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["tuneserve"]
    root: str | None
    parent: str | None
    system_prompt: str


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
