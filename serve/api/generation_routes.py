"""Paths that generate: chat and text completions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from tuneserve.llama import TooManyTokensError
from tuneserve.serve.api.echo import EchoWriter
from tuneserve.serve.api.errors import ApiError, client_left, too_long
from tuneserve.serve.api.json_route import json_router
from tuneserve.serve.api.middleware import note, note_completions
from tuneserve.serve.api.prepare import compile_bound
from tuneserve.serve.api.protocol import ChatRequest, CompletionRequest, GenerationRequest, listed
from tuneserve.serve.api.replies import ChatCompletion, TextCompletion
from tuneserve.serve.api.service import Service
from tuneserve.serve.api.streaming import Answers, EventStream, cancelled_when_gone
from tuneserve.serve.api.writers import ChatWriter, TextWriter, Writer
from tuneserve.serve.engine import Completion, PromptTooLongError

LONGEST_HEADER = 2000
"""Characters; a client's reader of headers has a limit."""

STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream` its chunks as server-sent events.",
        "content": {"text/event-stream": {}},
    }
}


def generation_router(service: Service) -> APIRouter:
    """POST /v1/chat/completions and /v1/completions, with their names without /v1."""
    router = json_router()

    @router.post("/chat/completions", include_in_schema=False)
    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMED)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """The next turn of a conversation."""
        name = service.resolve_model(body.model, body.lora)
        without_effect = await service.translating(request, lambda: body.ignored)
        check_fields(service, body, without_effect)
        turn = await service.prepare(body, name)
        if service.settings.log_prompts:
            note(request.scope, messages=[message.text for message in body.messages])
        ignored = [*without_effect, *turn.ignored]
        told = notices(service, request, ignored, unenforced=turn.unenforced)
        writer = ChatWriter(
            name, service.engine.model, turn, choices=body.choices, logprobs=bool(body.logprobs)
        )
        answers = service.answer(name, [turn.prompt], turn.sampling, body, param="messages")
        return await respond(service, request, body, answers, writer, headers=told)

    @router.post("/completions", include_in_schema=False)
    @router.post("/v1/completions", response_model=TextCompletion, responses=STREAMED)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """The continuation of a text, without a chat template."""
        name = service.resolve_model(body.model, body.lora)
        without_effect = await service.translating(request, lambda: body.ignored)
        check_fields(service, body, without_effect)
        texts = listed(body.prompt)
        service.check_count(len(texts), body, param="prompt")
        try:
            prompts = await service.text_prompts(texts, param="prompt", most=service.engine.limit)
        except TooManyTokensError as error:
            raise too_long(
                PromptTooLongError(error.least, service.engine.limit, least=True), param="prompt"
            ) from error
        if service.settings.log_prompts:
            note(request.scope, prompts=texts)
        sampling = body.sampling(default_max_tokens=service.settings.max_tokens)
        if (bound := body.bound) is not None:
            grammar = await service.compiling(partial(compile_bound, service.grammars, bound))
            sampling = replace(sampling, grammar=grammar)
        answers = service.answer(name, prompts, sampling, body, param="prompt")
        model = service.engine.model
        asked = body.logprobs is not None
        if body.echo:
            writer: Writer = EchoWriter(
                name, model, choices=body.choices, prompts=prompts,
                logprobs=asked,
            )  # fmt: skip
        else:
            writer = TextWriter(name, model, choices=body.choices, logprobs=asked)
        told = notices(service, request, without_effect)
        return await respond(service, request, body, answers, writer, headers=told)

    return router


async def respond(
    service: Service,
    request: Request,
    body: GenerationRequest,
    answers: Answers,
    writer: Writer,
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send the answers, whole or as events, in the form of `writer`, with `headers`."""
    on_end = partial(_ended, service, request)
    headers = {**(headers or {}), **_inactive(request, answers)}
    if body.stream:
        stream = EventStream(
            answers,
            writer,
            include_usage=body.wants_usage,
            usage_in_chunks=body.wants_usage_in_chunks,
            ping_seconds=service.settings.ping_seconds,
            on_end=on_end,
        )
        stream.headers.update(headers)
        return stream
    async with cancelled_when_gone(request.receive, answers.cancel) as gone:
        completions = await answers.completions()
    on_end(completions)
    if gone.done():
        raise client_left()
    return Response(writer.whole(completions), media_type="application/json", headers=headers)


def check_fields(service: Service, body: GenerationRequest, ignored: Sequence[str]) -> None:
    """Raises ApiError for ids that the model lacks and, if the server is strict, for the fields
    that are `ignored`."""
    service.check_tokens(map(int, body.logit_bias or ()), param="logit_bias")
    service.check_tokens(body.stop_token_ids or (), param="stop_token_ids")
    refuse_if_strict(service, ignored)


def refuse_if_strict(service: Service, ignored: Sequence[str]) -> None:
    """Raises ApiError for fields that have no effect if the server is strict."""
    if service.settings.strict and ignored:
        raise ApiError(
            400,
            f"{', '.join(ignored)}: no effect here, and this server is strict.",
            code="unsupported_parameter",
            param=ignored[0],
        )


def notices(
    service: Service,
    request: Request,
    ignored: Sequence[str],
    *,
    unenforced: Sequence[str] = (),
) -> dict[str, str]:
    """Headers, and facts of the log, of what the request says without effect and of what its tools'
    schemas ask for and the grammar can't enforce. Raises ApiError for both if the server is
    strict."""
    refuse_if_strict(service, ignored)
    if unenforced and service.settings.strict:
        place = unenforced[0].partition(":")[0]
        raise ApiError(
            400,
            f"It can't be enforced, and this server is strict: {'; '.join(unenforced)}.",
            code="invalid_schema",
            param=place,
        )
    headers = {}
    for header, told in (
        ("Ignored", ", ".join(ignored)),
        ("Unenforced", "; ".join(unenforced)),
    ):
        if told:
            note(request.scope, **{header.lower(): told})
            shown = re.sub("[^ -~]", "?", told[:LONGEST_HEADER])
            headers[f"X-Tuneserve-{header}"] = shown
    return headers


def _inactive(request: Request, answers: Answers) -> dict[str, str]:
    """A header, and a fact of the log, if answers are the base's since their prompts don't invoke
    the adapter that was asked for."""
    count = answers.inactive
    if not count:
        return {}
    told = str(answers.adapter)
    if count < len(answers):
        told += f" ({count} of {len(answers)} answers)"
    note(request.scope, inactive=told)
    return {"X-Tuneserve-Inactive": re.sub("[^ -~]", "?", told)}


def _ended(service: Service, request: Request, completions: Sequence[Completion]) -> None:
    for completion in completions:
        service.metrics.answered(completion)
    note_completions(request.scope, completions)
    if service.settings.log_prompts:
        note(request.scope, answers=[completion.text for completion in completions])
