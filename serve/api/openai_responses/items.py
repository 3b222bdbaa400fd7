"""Items of a response's input: messages, thoughts, calls and their results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    field_validator,
)

from tuneserve.serve.api.messages import given_arguments
from tuneserve.serve.api.request_model import RequestModel
from tuneserve.serve.api.translated import kind_of, of_kinds

Status = Literal["in_progress", "completed", "incomplete"]


class TextPart(RequestModel):
    """A piece of a message's text; the fields beside it are of answers that come back."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None
    prompt_cache_breakpoint: Any = None


class RefusalPart(RequestModel):
    """What an assistant of another server refused to say."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


_PARTS = {"refusal": "RefusalPart"} | dict.fromkeys(
    ("input_text", "output_text", "text"), "TextPart"
)


def _part_tag(value: Any) -> str | None:
    return _PARTS.get(kind_of(value) or "")


Part = Annotated[
    Annotated[TextPart, Tag("TextPart")] | Annotated[RefusalPart, Tag("RefusalPart")],
    Discriminator(_part_tag),
    of_kinds(*_PARTS, what="parts"),
]


def _as_parts(content: Any) -> Any:
    """A plain text is a part of it."""
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


class Message(RequestModel):
    """A turn of somebody's."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[list[Part], Field(fail_fast=True), BeforeValidator(_as_parts)]
    id: str | None = None
    status: Status | None = None
    phase: str | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content)


class FunctionCall(RequestModel):
    """A call of an earlier answer; one that was cut is completed as far as it goes."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None
    parsed_arguments: Any = None
    namespace: str | None = None

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_json_object(cls, arguments: Any) -> Any:
        return given_arguments(arguments)


def called_name(namespace: str | None, name: str) -> str:
    """What the model calls a function, whose name says its namespace too."""
    return f"{namespace}__{name}" if namespace else name


class FunctionCallOutput(RequestModel):
    """What a function gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: Annotated[list[Part], Field(fail_fast=True), BeforeValidator(_as_parts)]
    id: str | None = None
    status: Status | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.output)


class Thought(RequestModel):
    """A piece of thoughts, or of their summary."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(RequestModel):
    """Thoughts of an earlier answer. What another server has encrypted says nothing here."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: Annotated[list[Thought], Field(fail_fast=True)] = Field(default_factory=list)
    content: Annotated[list[Thought], Field(fail_fast=True)] | None = None
    encrypted_content: str | None = None
    status: Status | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content or self.summary)


class ItemReference(RequestModel):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"]
    id: str


_ITEMS = {
    "message": "Message", "function_call": "FunctionCall", "reasoning": "ReasoningItem",
    "function_call_output": "FunctionCallOutput", "item_reference": "ItemReference",
}  # fmt: skip


def _item_tag(value: Any) -> str | None:
    return _ITEMS.get(kind_of(value) or "")


def _typed(value: Any) -> Any:
    """A message may come without its type, and a reference with nothing but an id."""
    if isinstance(value, dict) and value.get("type") is None:
        kind = "item_reference" if set(value) - {"type"} == {"id"} else "message"
        return {**value, "type": kind}
    return value


InputItem = Annotated[
    Annotated[Message, Tag("Message")]
    | Annotated[FunctionCall, Tag("FunctionCall")]
    | Annotated[FunctionCallOutput, Tag("FunctionCallOutput")]
    | Annotated[ReasoningItem, Tag("ReasoningItem")]
    | Annotated[ItemReference, Tag("ItemReference")],
    Discriminator(_item_tag),
    of_kinds(*_ITEMS, what="items"),
    BeforeValidator(_typed),
]

_ADAPTER: TypeAdapter[InputItem] = TypeAdapter(InputItem)


def as_items(given: Any) -> Any:
    """A plain text is a message of the user's."""
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def read_items(items: Iterable[InputItem | dict[str, Any]]) -> list[InputItem]:
    """Items of which some are in their stored form."""
    return [_ADAPTER.validate_python(item) for item in items]
