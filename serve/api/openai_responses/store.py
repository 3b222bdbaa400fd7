"""Responses that later ones can go on from: in memory, those used last are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneserve.serve.api.errors import ApiError, to_json

MOST_RESPONSES = 10_000


@dataclass(frozen=True)
class StoredItems:
    """Items of an input. `size` in bytes, as JSON."""

    items: Sequence[Mapping[str, Any]]
    size: int

    @classmethod
    def of(cls, items: Sequence[Mapping[str, Any]]) -> StoredItems:
        return cls(items, sum(len(to_json(item)) for item in items))


@dataclass(frozen=True)
class StoredResponse:
    """A response with the conversation that led to it. `size` in bytes, as JSON."""

    owner: str
    response: Mapping[str, Any]
    input: Sequence[Mapping[str, Any]]
    size: int

    @property
    def items(self) -> list[dict[str, Any]]:
        """The conversation with the response's own items."""
        return [dict(item) for item in (*self.input, *self.response["output"])]


class ResponseStore:
    """Bounded by number and bytes. What one owner stores no other can see. Used in one thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()
        self._of_item: dict[str, str] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._stored)

    def put(self, owner: str, response: Mapping[str, Any], given: StoredItems) -> None:
        """Keep a response and the items of its input; one larger than all the room is not kept."""
        size = len(to_json(response)) + given.size
        if size > self._max_bytes:
            return
        stored = StoredResponse(owner, response, given.items, size)
        self._stored[response["id"]] = stored
        for item in response["output"]:
            self._of_item[item["id"]] = response["id"]
        self.size += size
        while self.size > self._max_bytes or len(self._stored) > MOST_RESPONSES:
            self._drop(next(iter(self._stored)))

    def get(self, owner: str, response_id: str, *, param: str) -> StoredResponse:
        """Raises ApiError, naming `param`, for what is not stored, or is another's."""
        stored = self._stored.get(response_id)
        if stored is None or stored.owner != owner:
            raise ApiError(
                404,
                f"There is no response '{response_id[:100]}' here: it was not stored, was deleted, "
                "made room for later ones, or the server has been started again. Send the "
                "conversation as input.",
                code="response_not_found",
                param=param,
            )
        self._stored.move_to_end(response_id)
        return stored

    def item(self, owner: str, item_id: str) -> dict[str, Any]:
        """An item of a stored response. Raises ApiError."""
        stored = self._stored.get(self._of_item.get(item_id, ""))
        if stored is None or stored.owner != owner:
            raise ApiError(
                404,
                f"There is no item '{item_id[:100]}' here: its response is not stored (any more). "
                "Send the item itself, or store=false.",
                code="item_not_found",
                param="input",
            )
        self._stored.move_to_end(stored.response["id"])
        return next(dict(item) for item in stored.response["output"] if item["id"] == item_id)

    def delete(self, owner: str, response_id: str) -> None:
        """Raises ApiError for what is not stored, or is another's."""
        self.get(owner, response_id, param="response_id")
        self._drop(response_id)

    def _drop(self, response_id: str) -> None:
        stored = self._stored.pop(response_id)
        self.size -= stored.size
        for item in stored.response["output"]:
            del self._of_item[item["id"]]
