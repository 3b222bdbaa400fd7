"""Errors as OpenAI's API words them, made in this one place.

Every failure a client can see becomes `{"error": {"message", "type", "param", "code"}}`: ours,
FastAPI's validation, unknown paths, and defects (which are logged with their traceback).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tuneserve.chat.template import TemplateError
from tuneserve.errors import TuneserveError
from tuneserve.serve.chat.structured import GrammarError
from tuneserve.serve.engine import (
    EngineError,
    GrammarFailedError,
    PromptTooLongError,
    QueueFullError,
    TextTooLongError,
    UnavailableError,
)

logger = logging.getLogger("tuneserve.serve")

PROBLEMS_IN_A_MESSAGE = 5
LONGEST_KEY = 64

CLIENT_LEFT = 499
"""nginx's status for a client that was gone before the answer began."""


class ApiError(HTTPException):
    """A failure with an HTTP status and OpenAI's fields.

    An HTTPException, since FastAPI makes a plain 400 of anything else raised while it reads a
    request's body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        **figures: int,
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        told = {"message": message, "type": _type_of(status), "param": param, "code": code}
        self.body = {"error": {**told, **figures}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status_code, headers=self.headers)


def _type_of(status: int) -> str:
    usual = "server_error" if status >= 500 else "invalid_request_error"
    return {401: "authentication_error", 429: "rate_limit_error"}.get(status, usual)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an exception."""
    match error:
        case ApiError():
            return error
        case QueueFullError():
            return ApiError(429, error.message, code="queue_full", headers={"Retry-After": "1"})
        case UnavailableError():
            return ApiError(503, error.message, code="unavailable", headers={"Retry-After": "5"})
        case GrammarFailedError():
            return ApiError(400, _sentence(error), code="grammar_failed")
        case EngineError():
            return ApiError(503, error.message, code="engine_failed")
        case GrammarError():
            return ApiError(400, _sentence(error), code="invalid_schema", param=error.param)
        case TemplateError():
            return ApiError(400, error.message, code="invalid_messages", param="messages")
        case RequestValidationError():
            return _validation_error(error.errors())
        case HTTPException(status_code=404):
            return ApiError(404, "There is no such path here.", code="unknown_url")
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), headers=error.headers)
        case _:
            logger.error("defect while answering", exc_info=error)
            return ApiError(500, "The server failed on this request; its log has the reason.")


def too_long(error: PromptTooLongError | TextTooLongError, *, param: str) -> ApiError:
    """What a client is told of a text that is too long; `param` is the field that has it."""
    return ApiError(
        400,
        _sentence(error),
        code="context_length_exceeded",
        param=param,
        n_prompt_tokens=error.tokens,
        n_ctx=error.limit,
    )


def _sentence(error: TuneserveError) -> str:
    return f"{error.message[0].upper()}{error.message[1:]}."


def client_left() -> ApiError:
    """For the log alone: the client that would read it has left."""
    return ApiError(CLIENT_LEFT, "The client left before the answer was there.")


def _validation_error(details: Sequence[Mapping[str, Any]]) -> ApiError:
    """400 naming the first wrong field; the message lists more of them."""
    if details and details[0]["type"] == "json_invalid":
        return ApiError(400, "The request body is not valid JSON.", code="invalid_json")
    problems = [_describe(detail) for detail in details]
    shown = "; ".join(message for _, message in problems[:PROBLEMS_IN_A_MESSAGE])
    code = "unsupported_parameter" if details[0]["type"] == "extra_forbidden" else "invalid_value"
    return ApiError(400, shown, code=code, param=problems[0][0] or None)


def _describe(detail: Mapping[str, Any]) -> tuple[str, str]:
    location = [_cut(str(part)) for part in detail["loc"] if part != "body"]
    field = ".".join(location)
    if detail["type"] == "extra_forbidden":
        return field, f"'{field}' is not supported"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return field, f"'{field}': {message}" if field else message


def _cut(key: str) -> str:
    """A key as a message shows it: a client can send any."""
    return key if len(key) <= LONGEST_KEY else f"{key[:LONGEST_KEY]}…"


def install(app: FastAPI) -> None:
    """Make every exception of the app's an OpenAI-shaped answer."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    # Defects are not among them: what is wrong then is told where the request is logged.
    known = (
        ApiError, RequestValidationError, HTTPException, GrammarError, TemplateError,
        QueueFullError, EngineError,
    )  # fmt: skip
    for kind in known:
        app.add_exception_handler(kind, answer)
