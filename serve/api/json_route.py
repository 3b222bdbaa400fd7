"""Routes whose bodies are JSON, read with the server's limits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.strict_json import JsonLimits, read_json


class JsonRequest(Request):
    """A request whose body is the standard's JSON and keeps the app's limits of it, which are
    `app.state.json_limits`."""

    async def json(self) -> Any:
        """Raises ApiError (400)."""
        body = await self.body()
        limits: JsonLimits = self.app.state.json_limits
        try:
            limits.check(body)
            return read_json(body)
        except ValueError as error:
            raise ApiError(
                400, f"The request body is not valid JSON. {error}", code="invalid_json"
            ) from error


class JsonRoute(APIRoute):
    """A route that reads a `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handler


def json_router() -> APIRouter:
    """A router of such routes."""
    return APIRouter(route_class=JsonRoute)
