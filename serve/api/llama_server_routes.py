"""Paths of llama-server's own that its clients use: the rendered prompt, what is served, and the
adapters."""

from __future__ import annotations

import platform
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter
from typing_extensions import TypedDict

import tuneserve
from tuneserve.serve.api.json_route import json_router
from tuneserve.serve.api.lora_scales import ListedAdapter
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.api.service import Service
from tuneserve.serve.engine import SamplingParams
from tuneserve.serve.engine.adapters import ServedAdapter

LORA_ADAPTERS = "/lora-adapters"

_SHOWN = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")


class RenderedPrompt(TypedDict):
    """Answer of POST /apply-template."""

    prompt: str


class Modalities(TypedDict):
    """What a model reads beside text: nothing here."""

    vision: Literal[False]
    audio: Literal[False]
    video: Literal[False]


class GenerationSettings(TypedDict):
    """What a request gets that does not say: the context of a slot, and parameters."""

    n_ctx: int
    params: dict[str, Any]


class Properties(TypedDict):
    """Answer of GET /props, as far as llama-server's fields are true of this server."""

    default_generation_settings: GenerationSettings
    total_slots: int
    model_alias: str
    model_path: str
    modalities: Modalities
    chat_template: str
    system_prompt: str
    bos_token: str
    eos_token: str
    build_info: str
    is_sleeping: Literal[False]


def llama_server_router(service: Service) -> APIRouter:
    """POST /apply-template, GET /props, GET /lora-adapters."""
    router = json_router()

    @router.post("/apply-template")
    async def apply_template(body: ChatRequest) -> RenderedPrompt:
        """The prompt that the chat template makes of a conversation and its tools."""
        name = service.resolve_model(body.model)
        work = partial(service.conversation_text, body, name)
        return RenderedPrompt(prompt=await service.rendering(body.size, work))

    @router.get(LORA_ADAPTERS)
    async def lora_adapters() -> list[ListedAdapter]:
        """The adapters that requests may ask for."""
        return [_listed(service, one) for one in service.engine.adapters.served]

    @router.get("/props")
    async def props() -> Properties:
        """What is served, and how."""
        model, defaults = service.engine.model, SamplingParams()
        return {
            "default_generation_settings": {
                "n_ctx": service.engine.limit,
                "params": {
                    **{name: getattr(defaults, name) for name in _SHOWN},
                    "max_tokens": service.settings.max_tokens,
                },
            },
            "total_slots": service.settings.slots,
            "model_alias": service.name,
            "model_path": model.path.name,
            "modalities": {"vision": False, "audio": False, "video": False},
            "chat_template": service.template.source if service.template else "",
            "system_prompt": service.system_prompt(service.name),
            "bos_token": model.token_text(model.bos),
            "eos_token": model.token_text(model.eos),
            "build_info": f"tuneserve {tuneserve.__version__} ({platform.system()})",
            "is_sleeping": False,
        }

    return router


def _listed(service: Service, one: ServedAdapter) -> ListedAdapter:
    listed = ListedAdapter(
        id=one.number,
        name=one.name,
        path=one.file,
        scale=float(one.name == service.default),
        task_name="",
        prompt_prefix="",
    )
    if one.invocation:
        text = b"".join(map(service.engine.model.token_bytes, one.invocation))
        listed["alora_invocation_string"] = text.decode("utf-8", "replace")
        listed["alora_invocation_tokens"] = [*one.invocation]
    return listed
