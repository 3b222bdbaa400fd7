"""Paths of Anthropic's API."""

from __future__ import annotations

import asyncio
from functools import partial

from fastapi import APIRouter, Request, Response

from tuneserve.chat.prompt import encode_text
from tuneserve.serve.api.anthropic.protocol import (
    AnsweredMessage,
    CountRequest,
    MessagesRequest,
    TokenCount,
)
from tuneserve.serve.api.anthropic.translate import NAMES, as_chat
from tuneserve.serve.api.anthropic.writer import MessageWriter
from tuneserve.serve.api.generation_routes import STREAMED
from tuneserve.serve.api.prepare import Turn
from tuneserve.serve.api.service import Service
from tuneserve.serve.api.translated import answer, told_as


def anthropic_router(service: Service) -> APIRouter:
    """POST /v1/messages and /v1/messages/count_tokens."""
    router = APIRouter()

    @router.post("/v1/messages", response_model=AnsweredMessage, responses=STREAMED)
    async def messages(body: MessagesRequest, request: Request) -> Response:
        """The next turn of a conversation, in the form of Anthropic's API."""
        chat = as_chat(body, thinks=service.thinks)
        shown = body.thinking is None or body.thinking.display != "omitted"

        def writer(name: str, turn: Turn) -> MessageWriter:
            return MessageWriter(name, service.engine.model, turn, show_thoughts=shown)

        return await answer(service, request, chat, NAMES, writer, ignored=body.ignored)

    @router.post("/v1/messages/count_tokens")
    async def count_tokens(body: CountRequest) -> TokenCount:
        """How many tokens the prompt of such a message has."""
        chat = as_chat(body, thinks=service.thinks)
        service.resolve_model(chat.model)
        with told_as(NAMES):
            text = await asyncio.to_thread(service.conversation_text, chat)
        tokens = await asyncio.to_thread(partial(encode_text, service.engine.model, text))
        return TokenCount(input_tokens=len(tokens))

    return router
