"""llama-server's list of adapters and their scales, `[{"id": 0, "scale": 1.0}]`, as far as this
server computes it: one adapter, whole, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.engine.adapters import ServedAdapter

MOST_SCALES = 256


class LoraScale(BaseModel):
    """How much of an adapter takes part; those that are not listed do not."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
    """As GET /lora-adapters tells it."""
    scale: Annotated[float, Field(strict=True, allow_inf_nan=False)]
    """1: the adapter; 0: not."""


LoraScales = Annotated[list[LoraScale], Field(max_length=MOST_SCALES)]


class ListedAdapter(TypedDict):
    """One of GET /lora-adapters. `scale` is 1 of the adapter that answers requests which name no
    model; `name` is what requests give as `model`."""

    id: int
    name: str
    path: str
    scale: float
    task_name: str
    prompt_prefix: str
    alora_invocation_string: NotRequired[str]
    alora_invocation_tokens: NotRequired[list[int]]


def chosen_adapter(
    scales: Sequence[LoraScale], served: Sequence[ServedAdapter], *, param: str
) -> str | None:
    """The name of the adapter that scales choose; None: the base. Raises ApiError, naming `param`,
    for an unknown id and for what can't be computed."""
    names = {one.number: one.name for one in served}
    for one in scales:
        if one.id not in names:
            raise ApiError(
                400,
                f"There is no adapter with the id {one.id}; see GET /lora-adapters.",
                code="adapter_not_found",
                param=param,
            )
    on = {one.id for one in scales if one.scale}
    if (
        len({one.id for one in scales}) < len(scales)
        or len(on) > 1
        or any(one.scale not in (0, 1) for one in scales)
    ):
        raise ApiError(
            400,
            "One adapter has the scale 1 here, or none, and all others 0: parts of adapters and "
            "sums of several are not computed.",
            code="unsupported_value",
            param=param,
        )
    return names[on.pop()] if on else None
