"""Requests of Anthropic's Messages API, as far as they are supported.

Source: Anthropic's API reference, "Messages" and "Count Message tokens". Unknown fields are
refused, as everywhere; those that change nothing here are accepted, and `ignored` names them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from typing_extensions import TypedDict

from tuneserve.serve.api.no_effect import always
from tuneserve.serve.api.request_model import (
    MOST_STOPS,
    MaxTokens,
    ModelName,
    RequestModel,
    Temperature,
)
from tuneserve.serve.api.translated import kind_of, of_kinds


class Cacheable(RequestModel):
    """What can carry a breakpoint of the prompt cache. Here prefixes are kept in any case."""

    cache_control: dict[str, Any] | None = None


class TextBlock(Cacheable):
    """A piece of text."""

    type: Literal["text"]
    text: str
    citations: list[Any] | None = None


class ThinkingBlock(Cacheable):
    """Thoughts of an earlier turn."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Cacheable):
    """Thoughts that only their own server can read: left out."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(Cacheable):
    """A tool call of an earlier turn."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: dict[str, Any] | None = None


def _as_blocks(content: Any) -> Any:
    """A plain text is a block of it."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Texts = Annotated[
    list[Annotated[TextBlock, of_kinds("text", what="blocks")]],
    Field(fail_fast=True),
    BeforeValidator(_as_blocks),
]


class ToolResultBlock(Cacheable):
    """What a tool gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts | None = None
    is_error: bool = False


_BLOCKS = {
    "text": "TextBlock", "thinking": "ThinkingBlock", "redacted_thinking": "RedactedThinkingBlock",
    "tool_use": "ToolUseBlock", "tool_result": "ToolResultBlock",
}  # fmt: skip


def _block_tag(value: Any) -> str | None:
    return _BLOCKS.get(kind_of(value) or "")


Block = Annotated[
    Annotated[TextBlock, Tag("TextBlock")]
    | Annotated[ThinkingBlock, Tag("ThinkingBlock")]
    | Annotated[RedactedThinkingBlock, Tag("RedactedThinkingBlock")]
    | Annotated[ToolUseBlock, Tag("ToolUseBlock")]
    | Annotated[ToolResultBlock, Tag("ToolResultBlock")],
    Discriminator(_block_tag),
    of_kinds(*_BLOCKS, what="blocks"),
]

_KINDS_OF_ROLE = {
    "assistant": {"text", "thinking", "redacted_thinking", "tool_use"},
    "user": {"text", "tool_result"},
    "system": {"text"},
}


class Message(RequestModel):
    """One turn. A last turn of the assistant's is continued."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[list[Block], Field(fail_fast=True), BeforeValidator(_as_blocks)]

    @model_validator(mode="after")
    def _blocks_suit_the_role(self) -> Message:
        for block in self.content:
            if block.type not in _KINDS_OF_ROLE[self.role]:
                raise ValueError(f"a message of role {self.role} has no {block.type} blocks")
        return self


class Tool(Cacheable):
    """A function that the client runs."""

    without_effect = dict.fromkeys(
        ("allowed_callers", "defer_loading", "eager_input_streaming", "input_examples"), always
    )
    type: Literal["custom"] = "custom"
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


def _client_tool(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") not in (None, "custom"):
        kind = str(value["type"])[:64]
        raise ValueError(f"tools of type {kind!r} are not available here, only the client's own")
    return value


class ToolChoice(RequestModel):
    """Whether a tool must be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False

    @model_validator(mode="after")
    def _a_tool_has_a_name(self) -> ToolChoice:
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("a choice of type tool, and no other, has a name")
        return self


class Thinking(RequestModel):
    """enabled: at most `budget_tokens` of thoughts; disabled: none; adaptive: as the model does."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=0)] | None = None
    display: Literal["summarized", "omitted"] | None = None
    """omitted: thoughts are not sent."""

    @model_validator(mode="after")
    def _only_enabled_has_a_budget(self) -> Thinking:
        if (self.type == "enabled") != (self.budget_tokens is not None):
            raise ValueError("thinking of type enabled, and no other, has budget_tokens")
        return self


class JsonFormat(RequestModel):
    """The answer is JSON that satisfies a schema."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(RequestModel):
    """How much effort an answer takes, and its form."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class CountRequest(RequestModel):
    """Body of POST /v1/messages/count_tokens."""

    without_effect = dict.fromkeys(
        ("context_management", "diagnostics", "inference_geo", "metadata", "service_tier", "speed"),
        always,
    )
    model: ModelName
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    system: Texts | None = None
    """The system prompt."""
    tools: Annotated[
        list[Annotated[Tool, BeforeValidator(_client_tool)]] | None, Field(max_length=128)
    ] = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    """Older name of output_config.format."""
    cache_control: dict[str, Any] | None = None
    thread: dict[str, Any] | None = None
    """Refused, in a way that lets clients go on without: no conversation is held here."""

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        given = (self.output_config.format if self.output_config else None) or self.output_format
        return given.schema_ if given else None

    @property
    def ignored(self) -> list[str]:
        kinds = {block.type for message in self.messages for block in message.content}
        return super().ignored + [kind for kind in ("redacted_thinking",) if kind in kinds]


class MessagesRequest(CountRequest):
    """Body of POST /v1/messages."""

    max_tokens: MaxTokens
    """Longest answer in tokens."""
    stop_sequences: Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    """Strings that end the answer and are not part of it."""
    stream: bool | None = None
    """Send the answer as server-sent events."""
    temperature: Temperature | None = None
    top_p: float | None = None
    top_k: int | None = None


class TokenCount(TypedDict):
    """Answer of POST /v1/messages/count_tokens."""

    input_tokens: int


class OutputDetails(TypedDict):
    """How many of an answer's tokens were thoughts."""

    thinking_tokens: int


class MessageUsage(TypedDict):
    """Tokens of a message: of the prompt, those that the prefix cache had stand apart."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: NotRequired[OutputDetails]


class AnsweredMessage(TypedDict):
    """Answer of POST /v1/messages."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: ModelName
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage
