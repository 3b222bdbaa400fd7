"""The HTTP application: paths, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response

import tuneserve
from serve import errors
from serve.answers import ChatWriter, TextWriter, Writer
from serve.bridge import Answers
from serve.errors import ApiError
from serve.guard import Guard, read_keys
from serve.schema import (
    ChatCompletion,
    ChatRequest,
    CompletionRequest,
    ErrorBody,
    GenerationRequest,
    Health,
    ModelCard,
    ModelList,
    TextCompletion,
)
from serve.service import Service
from serve.streams import EventStream, cancelled_when_gone

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request is wrong; `param` names the field."},
    401: {"model": ErrorBody, "description": "An API key is needed."},
    404: {"model": ErrorBody, "description": "No such model or path."},
    413: {"model": ErrorBody, "description": "The request body is too large."},
    429: {"model": ErrorBody, "description": "Too many requests are waiting."},
    503: {"model": ErrorBody, "description": "The server is shutting down or has failed."},
}
STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream` its chunks as server-sent events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def create_app(service: Service) -> FastAPI:
    """The application around a loaded model. It does not close the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.bridge.attach(asyncio.get_running_loop())
        yield

    app = FastAPI(
        title="tuneserve",
        version=tuneserve.__version__,
        description="OpenAI-compatible API of a model served by tuneserve.",
        lifespan=lifespan,
    )
    errors.install(app)
    app.add_middleware(
        Guard,
        keys=read_keys(service.settings.api_key_file),
        max_body=service.settings.max_body,
    )
    _add_status_paths(app, service)
    _add_generation_paths(app, service)
    return app


def _add_status_paths(app: FastAPI, service: Service) -> None:
    @app.get("/health", responses={503: ERRORS[503]})
    async def health() -> Health:
        """Is the server working?"""
        if service.engine.failure is not None:
            raise service.engine.failure
        return Health(status="ok")

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def models() -> ModelList:
        """The models served here."""
        return ModelList(object="list", data=[_card(service)])

    @app.get("/v1/models/{name}", responses={401: ERRORS[401], 404: ERRORS[404]})
    async def model(name: str) -> ModelCard:
        """One of the models served here."""
        service.resolve_model(name)
        return _card(service)


def _card(service: Service) -> ModelCard:
    return ModelCard(id=service.name, object="model", created=service.created, owned_by="tuneserve")


def _add_generation_paths(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/chat/completions", response_model=ChatCompletion, responses={**ERRORS, **STREAMED}
    )
    async def chat(body: ChatRequest, request: Request) -> Response:
        """The next turn of a conversation."""
        name = service.resolve_model(body.model)
        _check_biased_tokens(body, service)
        turn = service.chat_turn(body)
        writer = ChatWriter(name, service.engine.model, turn, choices=body.choices)
        answers = service.answer(
            [turn.prompt], turn.sampling, choices=body.choices, stream=bool(body.stream)
        )
        return await _respond(request, body, answers, writer, choices=body.choices)

    @app.post("/v1/completions", response_model=TextCompletion, responses={**ERRORS, **STREAMED})
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """The continuation of a text, without a chat template."""
        name = service.resolve_model(body.model)
        prompts = [service.text_prompt(prompt) for prompt in body.prompts()]
        _check_biased_tokens(body, service)
        sampling = body.sampling(default_max_tokens=service.settings.max_tokens)
        answers = service.answer(prompts, sampling, choices=body.choices, stream=bool(body.stream))
        writer = TextWriter(name, service.engine.model, choices=body.choices)
        total = len(prompts) * body.choices
        return await _respond(request, body, answers, writer, choices=total)


def _check_biased_tokens(body: GenerationRequest, service: Service) -> None:
    vocabulary = service.engine.model.n_vocab
    unknown = [token for token in body.logit_bias or {} if int(token) >= vocabulary]
    if unknown:
        raise ApiError(
            400,
            f"Token id {unknown[0]} is not in the vocabulary of {vocabulary}.",
            code="invalid_value",
            param="logit_bias",
        )


async def _respond(
    request: Request,
    body: GenerationRequest,
    answers: Answers,
    writer: Writer,
    *,
    choices: int,
) -> Response:
    if body.stream:
        return EventStream(answers, writer, choices=choices, include_usage=body.wants_usage)
    async with cancelled_when_gone(request.receive, answers):
        completions = await answers.completions()
    return Response(writer.whole(completions), media_type="application/json")
