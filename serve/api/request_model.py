"""What requests of all APIs are made of: their base class, bounds and kinds of fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from tuneserve.serve.api import no_effect

MOST_CHOICES = 16
MOST_STOPS = 16
MOST_LOGPROBS = 20
LONGEST_STOP = 256
MOST_TOKENS = 1_000_000
"""That a text may have where no context bounds it."""
MOST_FIELDS = 250
MOST_BIASES = 300_000
"""As many as the largest vocabularies have tokens."""
LARGEST_BIAS = 100
MOST_VARIABLES = 100

Temperature = Annotated[float, Field(ge=0.0, le=2.0)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)]
RepeatPenalty = Annotated[float, Field(ge=0.01, le=10.0)]
"""Much smaller ones would make logits infinite."""
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
ModelName = Annotated[str, Field(max_length=512)]
MaxTokens = Annotated[int, Field(ge=-1)]
GrammarText = Annotated[str, Field(min_length=1, max_length=100_000)]
Pattern = Annotated[str, Field(min_length=1, max_length=100_000)]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=10_000)]],
    Field(min_length=1, max_length=1000, fail_fast=True),
]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class RequestModel(BaseModel):
    """Base of everything a client sends. A null says that a field is not given."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )
    without_effect: ClassVar[Mapping[str, no_effect.Neutral]] = {}
    """Fields beside the model's own, with the values that are taken and ignored."""
    _ignored: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _leave_out_what_says_nothing(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self]
    ) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        if len(data) > MOST_FIELDS:
            raise ValueError(f"there are more than {MOST_FIELDS} fields")
        given = {name: value for name, value in data.items() if value is not None}
        ignored = tuple(
            name
            for name, value in given.items()
            if name in cls.without_effect and cls.without_effect[name](value, given)
        )
        made = handler({name: value for name, value in given.items() if name not in ignored})
        made._ignored = ignored
        return made

    @property
    def ignored(self) -> list[str]:
        """Names of the given fields that have no effect, its parts' with theirs in front."""
        return [*dict.fromkeys(_ignored_in(self, ""))]


def _ignored_in(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, RequestModel):
        yield from (path + name for name in value._ignored)
        for name in type(value).model_fields:
            yield from _ignored_in(getattr(value, name), f"{path}{name}.")
    # Token ids may be millions.
    elif isinstance(value, list) and value and not isinstance(value[0], int):
        for one in value:
            yield from _ignored_in(one, path)
