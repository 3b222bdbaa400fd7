"""Paths of OpenAI's Responses API."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from tuneserve.serve.api.errors import ApiError, to_json, too_long
from tuneserve.serve.api.generation_routes import STREAMED
from tuneserve.serve.api.json_route import json_router
from tuneserve.serve.api.middleware import key_in
from tuneserve.serve.api.openai_responses.answers import (
    DeletedResponse,
    InputTokens,
    ItemList,
    ResponseObject,
)
from tuneserve.serve.api.openai_responses.items import InputItem, ItemReference, read_items
from tuneserve.serve.api.openai_responses.protocol import CountRequest, ResponsesRequest
from tuneserve.serve.api.openai_responses.store import ResponseStore, StoredItems
from tuneserve.serve.api.openai_responses.translate import NAMES, as_chat, role_of
from tuneserve.serve.api.openai_responses.writer import ResponseWriter
from tuneserve.serve.api.prepare import Turn, check_turns
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.api.replica import stored_id
from tuneserve.serve.api.service import Service
from tuneserve.serve.api.translated import answer, count_tokens
from tuneserve.serve.engine import PromptTooLongError

MIB = 2**20


def responses_router(service: Service) -> APIRouter:
    """POST /v1/responses, with its name without /v1, and what there is about stored ones."""
    router = json_router()
    new_id = partial(stored_id, replica=service.replica)
    store = ResponseStore(service.settings.response_store * MIB)

    def owner_of(request: Request) -> str:
        """Whose responses a request may see: those of its API key, if keys are asked for."""
        if service.settings.api_key_file is None:
            return ""
        return hashlib.sha256(key_in(dict(request.headers.raw))).hexdigest()

    def conversation(owner: str, body: CountRequest) -> list[InputItem | dict[str, Any]]:
        """The items that a request goes on from, as they are stored, and its own."""
        items: list[InputItem | dict[str, Any]] = []
        if body.previous_response_id is not None:
            previous = body.previous_response_id
            items += store.get(owner, previous, param="previous_response_id").items
        items += (
            store.item(owner, item.id) if isinstance(item, ItemReference) else item
            for item in body.input
        )  # fmt: skip
        return items

    def check_length(items: Sequence[InputItem]) -> None:
        """Raises ApiError for plainly more items than the context has room for."""
        try:
            check_turns(map(role_of, items), service.engine.limit)
        except PromptTooLongError as error:
            raise too_long(error, param="input") from error

    @router.post("/responses", include_in_schema=False)
    @router.post("/v1/responses", response_model=ResponseObject, responses=STREAMED)
    async def create(body: ResponsesRequest, request: Request) -> Response:
        """The next turn of a conversation, in the form of OpenAI's newer API."""
        owner = owner_of(request)
        parts = conversation(owner, body)

        def read() -> tuple[ChatRequest, list[str], StoredItems]:
            items = read_items(parts)
            check_length(items)
            stored = [_stored(item, new_id) for item in items] if body.stores else []
            return as_chat(body, items), body.ignored, StoredItems.of(stored)

        chat, ignored, stored = await service.translating(request, read)

        def keep(response: ResponseObject) -> None:
            if body.stores:
                store.put(owner, response, stored)

        def writer(name: str, turn: Turn) -> ResponseWriter:
            return ResponseWriter(name, service.engine.model, turn, body, keep, new_id)

        return await answer(service, request, chat, NAMES, writer, ignored=ignored)

    @router.post("/v1/responses/input_tokens")
    async def input_tokens(body: CountRequest, request: Request) -> InputTokens:
        """How many tokens the prompt of such a response has."""
        parts = conversation(owner_of(request), body)
        chat = await service.translating(request, lambda: as_chat(body, read_items(parts)))
        count = await count_tokens(service, chat, NAMES)
        return InputTokens(object="response.input_tokens", input_tokens=count)

    @router.get("/v1/responses/{response_id}", response_model=ResponseObject)
    async def retrieve(response_id: str, request: Request) -> Response:
        """A stored response."""
        if request.query_params.get("stream", "false").lower() != "false":
            raise ApiError(
                400, "A stored response is not streamed again.", code="invalid_value",
                param="stream",
            )  # fmt: skip
        stored = store.get(owner_of(request), response_id, param="response_id")
        return Response(to_json(stored.response), media_type="application/json")

    @router.delete("/v1/responses/{response_id}")
    async def delete(response_id: str, request: Request) -> DeletedResponse:
        """Forget a stored response."""
        store.delete(owner_of(request), response_id)
        return DeletedResponse(id=response_id, object="response", deleted=True)

    @router.post("/v1/responses/{response_id}/cancel", response_model=ResponseObject)
    async def cancel(response_id: str, request: Request) -> Response:
        """Refused: only responses in the background can be cancelled, and there are none."""
        store.get(owner_of(request), response_id, param="response_id")
        raise ApiError(
            400,
            "Only a response in the background can be cancelled; close the connection of another.",
            code="not_in_background",
            param="response_id",
        )

    @router.get("/v1/responses/{response_id}/input_items", response_model=ItemList)
    async def input_items(
        response_id: str,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> Response:
        """The items that a stored response answers, those of earlier turns included."""
        stored = store.get(owner_of(request), response_id, param="response_id")
        items = list(stored.input if order == "asc" else reversed(stored.input))
        if after is not None:
            places = [place for place, item in enumerate(items) if item["id"] == after]
            if not places:
                raise ApiError(404, "There is no such item.", code="item_not_found", param="after")
            items = items[places[0] + 1 :]
        shown = items[:limit]
        listed = ItemList(
            object="list",
            data=[dict(item) for item in shown],
            first_id=shown[0]["id"] if shown else None,
            last_id=shown[-1]["id"] if shown else None,
            has_more=len(items) > limit,
        )
        return Response(to_json(listed), media_type="application/json")

    return router


_PREFIXES = {"function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}


def _stored(item: InputItem, new_id: Callable[[str], str]) -> dict[str, Any]:
    """An item as it is kept: with an id, and done."""
    own: dict[str, Any] = item.model_dump(exclude_none=True)
    prefix = _PREFIXES.get(item.type, "msg")
    own.setdefault("id", new_id(prefix))
    own.setdefault("status", "completed")
    if own.get("role") == "assistant":
        for part in own["content"]:
            if part["type"] != "refusal":
                part["type"] = "output_text"
                part.setdefault("annotations", [])
    return own
