"""Requests of OpenAI's Responses API, as far as they are supported.

Source: OpenAI's API reference, "Responses". Unknown fields are refused, as everywhere; those that
change nothing here are accepted, and `ignored` names them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from tuneserve.serve.api.no_effect import OF_STREAM_OPTIONS, always, only
from tuneserve.serve.api.openai_responses.items import InputItem, as_items
from tuneserve.serve.api.request_model import (
    MOST_LOGPROBS,
    Effort,
    MaxTokens,
    ModelName,
    RequestModel,
    Temperature,
)
from tuneserve.serve.api.translated import kind_of, of_kinds

_OF_TOOLS = {"defer_loading": always}
_OF_TEXT = {"verbosity": only("medium")}
_OF_REASONING = {"context": always}


class FunctionTool(RequestModel):
    """A function the model may call; `parameters` is a JSON Schema."""

    without_effect = _OF_TOOLS
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """True: refuse a schema that can't be enforced as a whole. Absent, as with most clients, it is
    enforced as far as it can be, and the client is told of the rest."""


class NamespaceTool(RequestModel):
    """Functions under a name of their own, as the tools of an MCP server are; its description is
    for nobody here."""

    type: Literal["namespace"]
    name: str
    description: str | None = None
    tools: Annotated[
        list[Annotated[FunctionTool, of_kinds("function", what="tools")]],
        Field(max_length=128, fail_fast=True),
    ]


_TOOLS = {"function": "FunctionTool", "namespace": "NamespaceTool"}


def _tool_tag(value: Any) -> str | None:
    return _TOOLS.get(kind_of(value) or "")


Tool = Annotated[
    Annotated[FunctionTool, Tag("FunctionTool")] | Annotated[NamespaceTool, Tag("NamespaceTool")],
    Discriminator(_tool_tag),
    of_kinds(*_TOOLS, what="tools"),
]


class FunctionChoice(RequestModel):
    """The one function that must be called, or one of those allowed."""

    type: Literal["function"]
    name: str


class AllowedTools(RequestModel):
    """The tools that may be called in this turn."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[
        list[Annotated[FunctionChoice, of_kinds("function", what="tools")]],
        Field(min_length=1, max_length=128),
    ]


_CHOICES = {"function": "FunctionChoice", "allowed_tools": "AllowedTools"}


def _choice_tag(value: Any) -> str | None:
    return "Words" if isinstance(value, str) else _CHOICES.get(kind_of(value) or "")


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("Words")]
    | Annotated[FunctionChoice, Tag("FunctionChoice")]
    | Annotated[AllowedTools, Tag("AllowedTools")],
    Discriminator(_choice_tag),
    of_kinds(*_CHOICES, what="choices"),
]


class TextFormat(RequestModel):
    """Free text, any JSON object, or JSON that satisfies a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _only_a_schema_has_one(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("a format of type json_schema, and no other, has a schema")
        return self


class TextConfig(RequestModel):
    """The form of the answer's text."""

    without_effect = _OF_TEXT
    format: TextFormat | None = None


class Reasoning(RequestModel):
    """How the model thinks; with `summary`, thoughts are sent as their own summary."""

    without_effect = _OF_REASONING
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    """Older name of summary."""

    @property
    def summarized(self) -> bool:
        return bool(self.summary or self.generate_summary)


class StreamOptions(RequestModel):
    """Options of a streamed answer; the usage is always told at its end."""

    without_effect = OF_STREAM_OPTIONS


class CountRequest(RequestModel):
    """Body of POST /v1/responses/input_tokens: what decides a prompt."""

    model: ModelName | None = None
    """Name of a served model; see /v1/models."""
    input: Annotated[
        list[InputItem], Field(min_length=1, fail_fast=True), BeforeValidator(as_items)
    ]
    """A text, or items: messages, calls and their results, thoughts."""
    instructions: str | None = None
    """The system prompt of this turn alone."""
    previous_response_id: str | None = None
    """A stored response that this one goes on from."""
    tools: Annotated[list[Tool] | None, Field(max_length=128)] = None
    """Functions the model may call."""
    tool_choice: ToolChoice | None = None
    """Whether a function must be called, and which. Default auto."""
    parallel_tool_calls: bool | None = None
    """May one answer call several functions? Default true."""
    text: TextConfig | None = None
    """Bound the answer to JSON, or to JSON of a schema."""
    reasoning: Reasoning | None = None
    """How the model thinks, if it does."""
    truncation: Literal["auto", "disabled"] | None = None
    """Accepted: nothing is left out of an input; one that is too long is refused."""

    @property
    def functions(self) -> list[tuple[str | None, FunctionTool]]:
        """All functions, each with its namespace if it has one."""
        found: list[tuple[str | None, FunctionTool]] = []
        for tool in self.tools or ():
            if isinstance(tool, NamespaceTool):
                found += [(tool.name, function) for function in tool.tools]
            else:
                found.append((None, tool))
        return found


class ResponsesRequest(CountRequest):
    """Body of POST /v1/responses."""

    ECHOED: ClassVar[tuple[str, ...]] = (
        "max_tool_calls", "prompt_cache_key", "safety_identifier", "user",
    )  # fmt: skip
    """Without effect, but the response repeats them."""

    without_effect = dict.fromkeys(
        ("client_metadata", "prompt_cache_options", "prompt_cache_retention", "service_tier"),
        always,
    )
    max_output_tokens: MaxTokens | None = None
    """Longest answer in tokens, thoughts included."""
    temperature: Temperature | None = None
    top_p: float | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    """Alternatives reported for each token."""
    include: Annotated[list[str], Field(max_length=32)] | None = None
    """`message.output_text.logprobs` reports log probabilities."""
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None,
        Field(max_length=16),
    ] = None
    """Kept with the response."""
    store: bool | None = None
    """Keep the response, so that a later one can go on from it. Default true."""
    stream: bool | None = None
    """Send the answer as server-sent events."""
    stream_options: StreamOptions | None = None
    background: bool | None = None
    max_tool_calls: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @field_validator("background")
    @classmethod
    def _in_the_foreground(cls, background: bool | None) -> bool | None:
        if background:
            raise ValueError("responses in the background are not supported; use stream")
        return background

    @property
    def logprobs(self) -> bool:
        return "message.output_text.logprobs" in (self.include or ()) or bool(self.top_logprobs)

    @property
    def stores(self) -> bool:
        return self.store is not False

    @property
    def ignored(self) -> list[str]:
        found = super().ignored + [name for name in self.ECHOED if getattr(self, name) is not None]
        found += [f"include.{one}" for one in self.include or () if "logprobs" not in one]
        if any(isinstance(tool, NamespaceTool) and tool.description for tool in self.tools or ()):
            found.append("tools.description")
        return found + (["truncation"] if self.truncation == "auto" else [])
