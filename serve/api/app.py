"""The HTTP application: paths, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse

import tuneserve
from tuneserve.serve.api import errors
from tuneserve.serve.api.anthropic.errors import AnthropicErrors, speaks_anthropic
from tuneserve.serve.api.anthropic.models import model_info, model_page
from tuneserve.serve.api.anthropic.routes import anthropic_router
from tuneserve.serve.api.arrival import Arrival
from tuneserve.serve.api.errors import ApiError, to_json
from tuneserve.serve.api.generation_routes import generation_router
from tuneserve.serve.api.llama_server_routes import llama_server_router
from tuneserve.serve.api.middleware import AccessLog, Guard, KeyRing
from tuneserve.serve.api.openai_responses.routes import responses_router
from tuneserve.serve.api.protocol import (
    ErrorBody,
    Health,
    ModelCard,
    ModelList,
)
from tuneserve.serve.api.service import Service
from tuneserve.serve.api.token_routes import text_router

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request is wrong; `param` names the field."},
    401: {"model": ErrorBody, "description": "An API key is needed."},
    404: {"model": ErrorBody, "description": "No such model or path."},
    408: {"model": ErrorBody, "description": "The request's body took too long to arrive."},
    413: {"model": ErrorBody, "description": "The request body is too large."},
    415: {"model": ErrorBody, "description": "A web page must say that it sends JSON."},
    429: {"model": ErrorBody, "description": "Too many requests are waiting."},
    503: {"model": ErrorBody, "description": "The server is shutting down, too busy, or broken."},
}
PAGE_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'none'"
)
"""The page loads nothing from elsewhere and talks to this server alone."""


def create_app(service: Service) -> FastAPI:
    """The application around a loaded model. It does not close the service.

    Raises UsageError if the key file can't be used.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.bridge.attach(asyncio.get_running_loop())
        yield

    settings = service.settings
    app = FastAPI(
        title="tuneserve",
        version=tuneserve.__version__,
        description="OpenAI-compatible API of a model served by tuneserve.",
        lifespan=lifespan,
    )
    errors.install(app)
    app.include_router(_status_router(service))
    app.include_router(generation_router(service), responses=ERRORS)
    app.include_router(text_router(service), responses=ERRORS)
    app.include_router(responses_router(service), responses=ERRORS)
    app.include_router(anthropic_router(service))
    app.include_router(llama_server_router(service), responses=ERRORS)
    # The last one added is the outermost.
    app.add_middleware(Arrival, seconds=settings.receive_seconds)
    app.add_middleware(Guard, keys=KeyRing(settings.api_key_file), max_body=settings.max_body)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["DELETE", "GET", "HEAD", "POST"],
            # The openai client for browsers sends a dozen of its own.
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(AnthropicErrors)
    app.add_middleware(AccessLog, style=settings.log, metrics=service.metrics)
    return app


def _status_router(service: Service) -> APIRouter:
    router = APIRouter()
    page = (Path(__file__).parent / "page.html").read_bytes()

    @router.get("/", response_class=HTMLResponse)
    async def index() -> HTMLResponse:
        """A page to try the models, side by side if there are several."""
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY})

    @router.get("/health", responses={503: ERRORS[503]})
    async def health() -> Health:
        """Is the server working?"""
        if service.engine.failure is not None:
            raise service.engine.failure
        return Health(status="ok")

    @router.get("/ready", responses={503: ERRORS[503]})
    async def ready() -> Health:
        """Does the server take requests?"""
        if not service.engine.is_open:
            raise ApiError(503, "No requests are taken.", code="unavailable")
        return Health(status="ok")

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: ERRORS[401]},
    )
    async def metrics() -> Response:
        """Counters and gauges for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get("/models", include_in_schema=False)
    @router.get("/v1/models", response_model=ModelList, responses={401: ERRORS[401]})
    async def models(request: Request) -> Response:
        """The models served here: the base and its adapters."""
        if speaks_anthropic(request.scope):
            return _json(model_page(service))
        data = [_card(service, name) for name in service.names]
        return _json(ModelList(object="list", data=data))

    @router.get(
        "/v1/models/{name:path}",
        response_model=ModelCard,
        responses={401: ERRORS[401], 404: ERRORS[404]},
    )
    async def model(name: str, request: Request) -> Response:
        """One of the models served here."""
        known = service.resolve_model(name)
        if speaks_anthropic(request.scope):
            return _json(model_info(service, known))
        return _json(_card(service, known))

    return router


def _json(value: Mapping[str, Any]) -> Response:
    return Response(to_json(value), media_type="application/json")


def _card(service: Service, name: str) -> ModelCard:
    root = None if name == service.name else service.name
    return ModelCard(
        id=name, object="model", created=service.created, owned_by="tuneserve", root=root
    )
