"""Errors as OpenAI's API words them, made in this one place.

Every failure a client can see becomes `{"error": {"message", "type", "param", "code"}}`: ours,
FastAPI's validation, unknown paths, and defects (which are logged with their traceback).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tuneserve.chat.renderers import RenderersBusyError
from tuneserve.chat.template import TemplateError
from tuneserve.errors import TuneserveError
from tuneserve.serve.api.mailbox import UnreadError
from tuneserve.serve.chat.grammar_errors import GrammarError
from tuneserve.serve.engine import (
    EngineError,
    GrammarFailedError,
    NotCausalError,
    PromptTooLongError,
    QueueFullError,
    TextTooLongError,
    UnavailableError,
    UnknownAdapterError,
)

logger = logging.getLogger("tuneserve.serve")

PROBLEMS_IN_A_MESSAGE = 5
LONGEST_SHOWN = 200
"""Characters of a message that repeats what a client sent."""
NOT_TEXT = {
    "image_url": "images",
    "image": "images",
    "input_image": "images",
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "videos",
    "file": "files",
    "input_file": "files",
    "document": "documents",
}
"""Types of content that other APIs take, and what they are."""
_IN_A_UNION = re.compile(r"[a-z]+\[.*\]|[A-Z]\w*|str|int|float|bool|none|dict|list")
"""Part of a location in pydantic's errors that names one of several types, not a field."""

UNKNOWN_PATH = "unknown_url"
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

    def response(self) -> Response:
        return Response(
            to_json(self.body),
            self.status_code,
            headers=self.headers,
            media_type="application/json",
        )


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
        case UnavailableError() | RenderersBusyError():
            return ApiError(503, error.message, code="unavailable", headers={"Retry-After": "5"})
        case UnreadError():
            return ApiError(408, _sentence(error), code="unread")
        case GrammarFailedError():
            return ApiError(400, _sentence(error), code="grammar_failed")
        case NotCausalError():
            return ApiError(400, _sentence(error), code="no_generation", param="model")
        case UnknownAdapterError():
            # Unloaded since the request's model was looked up.
            return ApiError(404, _sentence(error), code="model_not_found", param="model")
        case EngineError():
            return ApiError(503, error.message, code="engine_failed")
        case GrammarError():
            return ApiError(400, _sentence(error), code="invalid_schema", param=error.param)
        case TemplateError():
            return ApiError(400, error.message, code="invalid_messages", param="messages")
        case RequestValidationError():
            return _validation_error(error.errors())
        case UnicodeEncodeError():
            message = "The request has half a character (a surrogate without its pair)."
            return ApiError(400, message, code="invalid_value")
        case HTTPException(status_code=404):
            return ApiError(404, "There is no such path here.", code=UNKNOWN_PATH)
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


def to_json(value: Mapping[str, Any] | str) -> bytes:
    """JSON of whatever text: half a character (a lone surrogate), which UTF-8 lacks, is written
    as its code."""
    try:
        return pydantic_core.to_json(value, inf_nan_mode="null")
    except pydantic_core.PydanticSerializationError:
        return pydantic_core.to_json(_encodable(value), inf_nan_mode="null")


class AnyTextResponse(JSONResponse):
    """An answer that may repeat half a character of its request."""

    def render(self, content: Any) -> bytes:
        return to_json(content)


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(inner) for inner in value]
    return value


def _sentence(error: TuneserveError) -> str:
    return f"{error.message[0].upper()}{error.message[1:]}."


def client_left() -> ApiError:
    """For the log alone: the client that would read it has left."""
    return ApiError(CLIENT_LEFT, "The client left before the answer was there.")


def _validation_error(details: Sequence[Mapping[str, Any]]) -> ApiError:
    """400 naming the first wrong field; the message lists more of them."""
    if details and details[0]["type"] == "json_invalid":
        return ApiError(400, "The request body is not valid JSON.", code="invalid_json")
    if details and details[0]["loc"] == ("body",) and details[0]["type"].endswith("_type"):
        message = "The request body must be a JSON object, with Content-Type: application/json."
        return ApiError(400, message, code="invalid_json")
    refused = next(filter(None, map(_not_text, details)), None)
    if refused is not None:
        return refused
    problems = dict(map(_describe, details))
    shown = "; ".join([*problems.values()][:PROBLEMS_IN_A_MESSAGE])
    code = "unsupported_parameter" if details[0]["type"] == "extra_forbidden" else "invalid_value"
    return ApiError(400, shown, code=code, param=next(iter(problems)) or None)


def _not_text(detail: Mapping[str, Any]) -> ApiError | None:
    """400 for content that is no text, such as an image."""
    given = detail.get("input")
    if isinstance(given, Mapping):
        given = given.get("type")
    if "content" not in detail["loc"] or not isinstance(given, str) or given not in NOT_TEXT:
        return None
    return ApiError(
        400,
        f"Content of type '{given}' is not supported: this server reads no {NOT_TEXT[given]}.",
        code="unsupported_content",
        param=_field(detail["loc"]).removesuffix(".type"),
    )


def _field(location: Sequence[int | str]) -> str:
    """The field as the client wrote it: without the types of a union that pydantic names."""
    names = [
        str(part)
        for part in location
        if part != "body" and not (isinstance(part, str) and _IN_A_UNION.fullmatch(part))
    ]
    return _shortened(".".join(names))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _describe(detail: Mapping[str, Any]) -> tuple[str, str]:
    """(the field, what is wrong with it)"""
    field = _field(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return field, f"'{field}' is not supported"
    message = _shortened(str(detail["msg"]).removeprefix("Value error, "))
    return field, f"'{field}': {message}" if field else message


def install(app: FastAPI, *, off: Mapping[str, str]) -> None:
    """Make every exception of the app's an OpenAI-shaped answer. `off`: what to say of paths that
    an option would serve, and of those below them."""

    async def answer(request: Request, error: Exception) -> Response:
        told = as_api_error(error)
        if told.body["error"]["code"] == UNKNOWN_PATH:
            path = request.url.path
            said = [how for place, how in off.items() if f"{path}/".startswith(f"{place}/")]
            told = ApiError(404, said[0], code="disabled") if said else told
        return told.response()

    # Defects are not among them: what is wrong then is told where the request is logged.
    known = (
        ApiError, RequestValidationError, HTTPException, GrammarError, TemplateError,
        QueueFullError, EngineError, RenderersBusyError,
    )  # fmt: skip
    for kind in known:
        app.add_exception_handler(kind, answer)
