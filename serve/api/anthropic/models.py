"""The served models as Anthropic's API lists them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from typing_extensions import TypedDict

from tuneserve.serve.api.service import Service


class ModelInfo(TypedDict):
    """A served model."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int
    max_tokens: int


class ModelPage(TypedDict):
    """All served models, on one page."""

    data: list[ModelInfo]
    has_more: Literal[False]
    first_id: str
    last_id: str


def model_info(service: Service, name: str) -> ModelInfo:
    created = datetime.fromtimestamp(service.created, UTC)
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": service.engine.limit,
        "max_tokens": service.engine.limit,
    }


def model_page(service: Service) -> ModelPage:
    data = [model_info(service, name) for name in service.names]
    return {
        "data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]
    }  # fmt: skip
