"""Paths of Anthropic's API."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from tuneserve.serve.api.anthropic.protocol import (
    AnsweredMessage,
    CountRequest,
    MessagesRequest,
    TokenCount,
)
from tuneserve.serve.api.anthropic.translate import NAMES, as_chat, ignored_of
from tuneserve.serve.api.anthropic.writer import MessageWriter
from tuneserve.serve.api.generation_routes import STREAMED
from tuneserve.serve.api.json_route import json_router
from tuneserve.serve.api.prepare import Turn
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.api.service import Service
from tuneserve.serve.api.translated import answer, count_tokens


def anthropic_router(service: Service) -> APIRouter:
    """POST /v1/messages and /v1/messages/count_tokens."""
    router = json_router()

    @router.post("/v1/messages", response_model=AnsweredMessage, responses=STREAMED)
    async def messages(body: MessagesRequest, request: Request) -> Response:
        """The next turn of a conversation, in the form of Anthropic's API."""

        def read() -> tuple[ChatRequest, list[str]]:
            chat = as_chat(body, thinks=service.thinks)
            return chat, ignored_of(body, thinks=service.thinks)

        chat, ignored = await service.translating(request, read)
        shown = body.thinking is None or body.thinking.display != "omitted"

        def writer(name: str, turn: Turn) -> MessageWriter:
            return MessageWriter(name, service.engine.model, turn, show_thoughts=shown)

        return await answer(service, request, chat, NAMES, writer, ignored=ignored)

    @router.post("/v1/messages/count_tokens")
    async def count(body: CountRequest, request: Request) -> TokenCount:
        """How many tokens the prompt of such a message has."""
        read = partial(as_chat, body, thinks=service.thinks)
        chat = await service.translating(request, read)
        return TokenCount(input_tokens=await count_tokens(service, chat, NAMES))

    return router
