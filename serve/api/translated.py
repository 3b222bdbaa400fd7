"""Requests of other APIs, answered as the chat requests that they are translated into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator, ValidationError

from tuneserve.chat.prompt import encode_text
from tuneserve.chat.template import TemplateError
from tuneserve.llama import TooManyTokensError
from tuneserve.serve.api.errors import ApiError, as_api_error
from tuneserve.serve.api.generation_routes import notices, refuse_if_strict, respond
from tuneserve.serve.api.middleware import note
from tuneserve.serve.api.prepare import Turn
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.api.request_model import MOST_TOKENS
from tuneserve.serve.api.service import Service
from tuneserve.serve.api.writers import Writer
from tuneserve.serve.chat.grammar_errors import GrammarError

Names = Mapping[str, str]
"""Fields of a chat request, or beginnings of their paths, to what the other API calls them."""


def kind_of(value: Any) -> str | None:
    """The type that an object of a request says it is of."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else None


def of_kinds(*kinds: str, what: str) -> BeforeValidator:
    """A validator that lets objects of these types pass; others are refused by their type, as
    `what`."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and kind_of(value) not in kinds:
            raise ValueError(
                f"{what} of type {str(value.get('type'))[:64]!r} are not supported here, only "
                f"{', '.join(kinds)}"
            )
        return value

    return BeforeValidator(check)


def chat_request(fields: Mapping[str, Any], names: Names) -> ChatRequest:
    """The chat request of these fields; those that are None are not given. Raises
    RequestValidationError in the words of the other API."""
    given = {key: value for key, value in fields.items() if value is not None}
    try:
        return ChatRequest.model_validate(given)
    except ValidationError as error:
        details = [
            {**detail, "loc": tuple(renamed(_path(detail["loc"]), names).split("."))}
            for detail in error.errors(include_url=False, include_context=False)
        ]
        raise RequestValidationError(details) from error


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))


def renamed(field: str, names: Names) -> str:
    """The other API's name of a field."""
    for ours, theirs in names.items():
        if field == ours or field.startswith((f"{ours}.", f"{ours}[")):
            field = theirs + field[len(ours) :]
            break
    return field.replace(".function.", ".").replace(".parameters", f".{names['parameters']}")


@contextmanager
def told_as(names: Names) -> Iterator[None]:
    """Failures in the block name the other API's fields."""
    try:
        yield
    except (ApiError, GrammarError, TemplateError) as error:
        told = as_api_error(error)
        told_error = told.body["error"]
        if isinstance(told_error["param"], str):
            told_error["param"] = renamed(told_error["param"], names)
        raise told from error


async def answer(
    service: Service,
    request: Request,
    chat: ChatRequest,
    names: Names,
    writer: Callable[[str, Turn], Writer],
    *,
    ignored: Sequence[str],
) -> Response:
    """Answer a chat request in the form of the writer that `writer` makes for a served model's
    name and a turn; `ignored` fields are told to have changed nothing."""
    with told_as(names):
        refuse_if_strict(service, ignored)
        name = service.resolve_model(chat.model)
        turn = await service.prepare(chat, name)
        if service.settings.log_prompts:
            note(request.scope, messages=[message.text for message in chat.messages])
        unenforced = [renamed(place, names) for place in turn.unenforced]
        without_effect = [*ignored, *(renamed(field, names) for field in turn.ignored)]
        told = notices(service, request, without_effect, unenforced=unenforced)
        answers = service.answer(name, [turn.prompt], turn.sampling, chat, param="messages")
    return await respond(service, request, chat, answers, writer(name, turn), headers=told)


async def count_tokens(service: Service, chat: ChatRequest, names: Names) -> int:
    """How many tokens the prompt of a chat request has. Raises ApiError."""

    def tokens() -> list[int]:
        text = service.conversation_text(chat, name)
        return encode_text(service.engine.model, text, most=MOST_TOKENS)

    with told_as(names):
        name = service.resolve_model(chat.model)
        service.check_size(chat.size, param="messages")
        try:
            return len(await service.rendering(chat.size, tokens))
        except TooManyTokensError:
            message = f"The conversation has more than {MOST_TOKENS} tokens."
            raise ApiError(400, message, code="invalid_value", param="messages") from None
