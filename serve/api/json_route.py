"""Routes whose bodies are JSON, read with the server's limits."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope

from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.strict_json import JsonLimits, json_texts_within, read_json

LONG_BODY = 32 << 10
"""Bytes. To read and check as many lists and objects as these may hold takes some hundredths of a
second."""
Validate = Callable[[Any], tuple[Any, list[Any]]]
"""From JSON to what a route takes, and what is wrong with it."""


class JsonRequest(Request):
    """A request whose body is the standard's JSON and keeps the app's limits of it, which are
    `app.state.json_limits`. A long one is read and checked where `app.state.apart` does it, so that
    other requests need not wait for that; `invalid` is what is wrong with it."""

    def __init__(self, scope: Scope, receive: Receive, validate: Validate | None) -> None:
        super().__init__(scope, receive)
        self._validate = validate
        self.invalid: RequestValidationError | None = None

    async def json(self) -> Any:
        """What the route takes. Raises ApiError (400), HTTPException where it is `invalid`."""
        body = await self.body()
        if len(body) <= LONG_BODY:
            return self._read_and_validate(body)
        return await self.app.state.apart(len(body), partial(self._read_and_validate, body))

    def _read(self, body: bytes) -> Any:
        limits: JsonLimits = self.app.state.json_limits
        try:
            limits.check(body)
            return read_json(body)
        except ValueError as error:
            raise ApiError(
                400, f"The request body is not valid JSON. {error}", code="invalid_json"
            ) from error

    def _read_and_validate(self, body: bytes) -> Any:
        content = self._read(body)
        if self._validate is None or content is None:
            return content
        with json_texts_within(self.app.state.json_limits):
            value, problems = self._validate(content)
        if problems:
            self.invalid = RequestValidationError(problems, body=content)
            # FastAPI makes something else of all others that are raised while it reads a body.
            raise HTTPException(422)
        return value


class JsonRoute(APIRoute):
    """A route that reads a `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        field = self.body_field
        validate = None if field is None else partial(field.validate, loc=("body",))

        async def handler(request: Request) -> Response:
            read = JsonRequest(request.scope, request.receive, validate)
            try:
                return await handle(read)
            except HTTPException:
                if read.invalid is None:
                    raise
                raise read.invalid from None

        return handler


def json_router() -> APIRouter:
    """A router of such routes."""
    return APIRouter(route_class=JsonRoute)
