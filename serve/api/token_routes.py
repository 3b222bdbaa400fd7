"""Paths about texts rather than answers: token ids, counts, embeddings."""

from __future__ import annotations

import asyncio
import base64
from array import array
from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request, Response

from tuneserve.chat.prompt import encode_text
from tuneserve.llama import TooManyTokensError
from tuneserve.serve.api.errors import ApiError, client_left, to_json, too_long
from tuneserve.serve.api.json_route import json_router
from tuneserve.serve.api.protocol import (
    ChatRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
    listed,
)
from tuneserve.serve.api.replies import (
    DetokenizedText,
    Embedding,
    EmbeddingList,
    EmbeddingUsage,
    TokenList,
)
from tuneserve.serve.api.request_model import MOST_TOKENS
from tuneserve.serve.api.service import Service
from tuneserve.serve.api.streaming import cancelled_when_gone
from tuneserve.serve.engine import TextTooLongError


def text_router(service: Service) -> APIRouter:
    router = json_router()

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> TokenList:
        """The token ids of a text or a conversation, and how many they are."""
        service.resolve_model(body.model)
        size = sum(message.size for message in body.messages or ()) + len(body.content or "")
        param = "messages" if body.content is None else "content"
        service.check_size(size, param=param)
        work = service.rendering if body.messages is not None else service.tokenizing
        try:
            tokens = await work(size, partial(_tokens, service, body))
        except TooManyTokensError:
            raise ApiError(
                400,
                f"The text has more than {MOST_TOKENS} tokens.",
                code="invalid_value",
                param=param,
            ) from None
        return TokenList(tokens=tokens, count=len(tokens), max_model_len=service.engine.limit)

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> DetokenizedText:
        """The text of token ids."""
        service.resolve_model(body.model)
        return DetokenizedText(content=await asyncio.to_thread(_text, service, body.tokens))

    @router.post("/embeddings", include_in_schema=False)
    @router.post("/v1/embeddings", response_model=EmbeddingList)
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Vectors of texts: the mean of the model's last hidden states, of length 1."""
        name = service.resolve_model(service.name if body.model is None else body.model)
        if not service.settings.embeddings:
            raise ApiError(
                400, "Embeddings are off; start the server with --embeddings.", code="disabled"
            )
        if name in service.adapters:
            raise ApiError(
                400,
                f"Embeddings are of the base model '{service.name}'; adapters don't change them.",
                code="invalid_value",
                param="model",
            )
        limit = service.engine.longest_text
        try:
            prompts = await service.text_prompts(listed(body.input), param="input", most=limit)
        except TooManyTokensError as error:
            longest = TextTooLongError(error.least, limit, least=True)
            raise too_long(longest, param="input") from error
        vectors = await _embedded(service, request, prompts)
        count = sum(len(prompt) for prompt in prompts)
        data = [
            Embedding(object="embedding", index=index, embedding=_encoded(body, vector))
            for index, vector in enumerate(vectors)
        ]
        usage = EmbeddingUsage(prompt_tokens=count, total_tokens=count)
        answer = EmbeddingList(object="list", data=data, model=name, usage=usage)
        return Response(to_json(answer), media_type="application/json")

    return router


async def _embedded(
    service: Service, request: Request, prompts: list[list[int]]
) -> list[list[float]]:
    """The vectors of the texts, unless the client leaves meanwhile. Raises ApiError."""
    try:
        job = service.engine.embed(prompts)
    except TextTooLongError as error:
        raise too_long(error, param="input") from error
    vectors = asyncio.wrap_future(job)
    async with cancelled_when_gone(request.receive, job.cancel):
        await asyncio.wait([vectors])
    if vectors.cancelled():
        raise client_left()
    return vectors.result()


def _text(service: Service, tokens: list[int]) -> str:
    model = service.engine.model
    known = service.text_prompt(tokens, param="tokens")
    return b"".join(model.token_bytes(token) for token in known).decode("utf-8", "replace")


def _tokens(service: Service, body: TokenizeRequest) -> list[int]:
    model = service.engine.model
    if body.content is not None:
        if body.add_special:
            return encode_text(model, body.content, most=MOST_TOKENS)
        return model.tokenize(body.content, most=MOST_TOKENS)
    assert body.messages is not None
    name = service.resolve_model(body.model)
    text = service.conversation_text(ChatRequest(messages=body.messages), name)
    return encode_text(model, text, most=MOST_TOKENS)


def _encoded(body: EmbeddingRequest, vector: Sequence[float]) -> list[float] | str:
    if body.encoding_format == "float":
        return list(vector)
    # The array is in the machine's byte order; all that llama.cpp runs on here is little-endian.
    return base64.b64encode(array("f", vector).tobytes()).decode()
