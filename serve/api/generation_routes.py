"""Paths that generate: chat and text completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from tuneserve.llama import TooManyTokensError
from tuneserve.serve.api.errors import client_left, too_long
from tuneserve.serve.api.middleware import note, note_completions
from tuneserve.serve.api.protocol import (
    ChatCompletion,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    TextCompletion,
    listed,
)
from tuneserve.serve.api.service import Service
from tuneserve.serve.api.streaming import Answers, EventStream, cancelled_when_gone
from tuneserve.serve.api.writers import ChatWriter, TextWriter, Writer
from tuneserve.serve.engine import Completion, PromptTooLongError

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream` its chunks as server-sent events.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def generation_router(service: Service) -> APIRouter:
    """POST /v1/chat/completions and /v1/completions, with their names without /v1."""
    router = APIRouter()

    @router.post("/chat/completions", include_in_schema=False)
    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMED)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """The next turn of a conversation."""
        name = service.resolve_model(body.model)
        service.check_tokens(map(int, body.logit_bias or ()), param="logit_bias")
        turn = await service.prepare(body)
        if service.settings.log_prompts:
            note(request.scope, messages=[message.text for message in body.messages])
        writer = ChatWriter(name, service.engine.model, turn, choices=body.choices)
        answers = service.answer(name, [turn.prompt], turn.sampling, body, param="messages")
        return await respond(service, request, body, answers, writer)

    @router.post("/completions", include_in_schema=False)
    @router.post("/v1/completions", response_model=TextCompletion, responses=STREAMED)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """The continuation of a text, without a chat template."""
        name = service.resolve_model(body.model)
        service.check_tokens(map(int, body.logit_bias or ()), param="logit_bias")
        texts = listed(body.prompt)
        try:
            prompts = await service.text_prompts(texts, param="prompt", most=service.engine.limit)
        except TooManyTokensError as error:
            raise too_long(
                PromptTooLongError(error.least, service.engine.limit, least=True), param="prompt"
            ) from error
        if service.settings.log_prompts:
            note(request.scope, prompts=texts)
        sampling = body.sampling(default_max_tokens=service.settings.max_tokens)
        if body.grammar is not None:
            grammar = await service.compiling(partial(service.grammars.compile_gbnf, body.grammar))
            sampling = replace(sampling, grammar=grammar)
        answers = service.answer(name, prompts, sampling, body, param="prompt")
        writer = TextWriter(name, service.engine.model, choices=body.choices)
        return await respond(service, request, body, answers, writer)

    return router


async def respond(
    service: Service,
    request: Request,
    body: GenerationRequest,
    answers: Answers,
    writer: Writer,
) -> Response:
    """Send the answers, whole or as events, in the form of `writer`."""
    on_end = partial(_ended, service, request)
    if body.stream:
        return EventStream(
            answers,
            writer,
            include_usage=body.wants_usage,
            ping_seconds=service.settings.ping_seconds,
            on_end=on_end,
        )
    async with cancelled_when_gone(request.receive, answers.cancel) as gone:
        completions = await answers.completions()
    on_end(completions)
    if gone.done():
        raise client_left()
    return Response(writer.whole(completions), media_type="application/json")


def _ended(service: Service, request: Request, completions: Sequence[Completion]) -> None:
    for completion in completions:
        service.metrics.answered(completion)
    note_completions(request.scope, completions)
    if service.settings.log_prompts:
        note(request.scope, answers=[completion.text for completion in completions])
