"""Adapters loaded and unloaded over HTTP, with an admin key. Paths, fields and answers are vLLM's:
https://docs.vllm.ai/en/latest/features/lora.html; the path that chooses among them is
llama-server's."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.json_route import json_router
from tuneserve.serve.api.llama_server_routes import LORA_ADAPTERS
from tuneserve.serve.api.lora_scales import MOST_SCALES, LoraScale, chosen_adapter
from tuneserve.serve.api.service import Service
from tuneserve.serve.engine import EngineError, UnknownAdapterError
from tuneserve.serve.engine.adapter_directory import AdapterDirectory
from tuneserve.serve.engine.adapters import check_name

LOAD = "/v1/load_lora_adapter"
UNLOAD = "/v1/unload_lora_adapter"
ADMIN_PATHS = frozenset({("POST", LOAD), ("POST", UNLOAD), ("POST", LORA_ADAPTERS)})
"""Methods and paths that ask for an admin key instead of an API key."""

SUCCESS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}

Name = Annotated[str, Field(min_length=1, max_length=128)]


class LoadRequest(BaseModel):
    """Body of POST /v1/load_lora_adapter."""

    model_config = ConfigDict(extra="forbid")

    lora_name: Name
    """The name that requests give as `model`."""
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    """The GGUF, relative to the adapter directory; or an absolute path inside it."""
    load_inplace: bool = False
    """Replace an adapter of this name. Requests that have begun end with the former one."""


class UnloadRequest(BaseModel):
    """Body of POST /v1/unload_lora_adapter."""

    model_config = ConfigDict(extra="forbid")

    lora_name: Name
    lora_int_id: int | None = None
    """A number that vLLM gives adapters; the name alone counts here."""


def admin_router(service: Service, directory: AdapterDirectory) -> APIRouter:
    """POST /v1/load_lora_adapter, /v1/unload_lora_adapter, /lora-adapters."""
    router = json_router()
    # Response, since errors are JSON.
    post = partial(router.post, response_class=Response, responses=SUCCESS)

    @post(LOAD)
    async def load(body: LoadRequest) -> PlainTextResponse:
        """Serve a LoRA adapter of the adapter directory under a name."""
        await asyncio.to_thread(_load, service, directory, body)
        say(f"adapter '{body.lora_name}' is served (asked for)")
        return _success(f"'{body.lora_name}' added")

    @post(UNLOAD)
    async def unload(body: UnloadRequest) -> PlainTextResponse:
        """Serve an adapter no more. Requests that have begun with it go on to their end."""
        try:
            await asyncio.to_thread(service.engine.unload_adapter, body.lora_name)
        except UnknownAdapterError as error:
            raise ApiError(
                404,
                f"There is no adapter '{body.lora_name}' here.",
                code="adapter_not_found",
                param="lora_name",
            ) from error
        say(f"adapter '{body.lora_name}' is served no more (asked for)")
        return _success(f"'{body.lora_name}' removed")

    @router.post(LORA_ADAPTERS)
    async def choose(
        body: Annotated[list[LoraScale], Body(max_length=MOST_SCALES)],
    ) -> dict[str, bool]:
        """Let the adapter with the scale 1 answer the requests that name no model; none: the
        base."""
        chosen = chosen_adapter(body, service.engine.adapters.served, param="scale")
        service.set_default(chosen)
        say(f"requests that name no model get '{service.default}' (asked for)")
        return {"success": True}

    return router


def _success(what: str) -> PlainTextResponse:
    return PlainTextResponse(f"Success: LoRA adapter {what} successfully.")


def _load(service: Service, directory: AdapterDirectory, body: LoadRequest) -> None:
    """Raises ApiError, naming the field that is wrong, EngineError."""
    refused = partial(ApiError, 400, code="invalid_value")
    try:
        check_name(body.lora_name)
    except UsageError as error:
        raise refused(_told(error), param="lora_name") from error
    taken = service.engine.adapters.key_of(body.lora_name) is not None
    if body.lora_name == service.name or (taken and not body.load_inplace):
        raise ApiError(
            400,
            f"The name '{body.lora_name}' is taken; load_inplace replaces an adapter.",
            code="adapter_exists",
            param="lora_name",
        )
    try:
        path = directory.inside(Path(body.lora_path))
        service.engine.load_adapter(body.lora_name, path, replace=body.load_inplace)
    except EngineError:
        raise
    except TuneserveError as error:
        raise refused(_told(error), param="lora_path") from error


def _told(error: TuneserveError) -> str:
    """The reason, without the path on this machine."""
    reason = ": ".join([error.message, "; ".join(error.problems[:5])]).removesuffix(": ")
    return f"{reason[0].upper()}{reason[1:]}."
