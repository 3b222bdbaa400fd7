"""The HTTP application: paths, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse
from starlette.routing import Match

import tuneserve
from tuneserve.serve.api import errors
from tuneserve.serve.api.admin_routes import ADMIN_PATHS, admin_router
from tuneserve.serve.api.anthropic.errors import (
    OVERLOADED,
    AnthropicErrors,
    speaks_anthropic,
)
from tuneserve.serve.api.anthropic.errors import ErrorBody as AnthropicError
from tuneserve.serve.api.anthropic.models import model_info, model_page
from tuneserve.serve.api.anthropic.routes import anthropic_router
from tuneserve.serve.api.arrival import Arrival
from tuneserve.serve.api.batches.files import FileStore
from tuneserve.serve.api.batches.routes import BATCHES, FILES, LARGEST_UPLOAD, batch_router
from tuneserve.serve.api.batches.runner import BatchRunner
from tuneserve.serve.api.batches.store import BatchStore
from tuneserve.serve.api.browser_rules import BrowserRules, new_token
from tuneserve.serve.api.chat_page import FAVICON, HEADERS, chat_page
from tuneserve.serve.api.description_page import POLICY, description_page
from tuneserve.serve.api.errors import AnyTextResponse, ApiError, to_json
from tuneserve.serve.api.generation_routes import generation_router
from tuneserve.serve.api.llama_server_routes import llama_server_router
from tuneserve.serve.api.middleware import FAVICON_PATH, AccessLog, Guard, KeyRing
from tuneserve.serve.api.openai_responses.routes import responses_router
from tuneserve.serve.api.replies import ErrorBody, Health, ModelCard, ModelList
from tuneserve.serve.api.service import Service
from tuneserve.serve.api.strict_json import JsonLimits
from tuneserve.serve.api.token_routes import text_router
from tuneserve.serve.api.unread import DropUnread

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request is wrong; `param` names the field."},
    401: {"model": ErrorBody, "description": "An API key is needed."},
    403: {"model": ErrorBody, "description": "Sent to another host, or by a foreign web page."},
    404: {"model": ErrorBody, "description": "No such model or path."},
    408: {"model": ErrorBody, "description": "The request's body took too long to arrive."},
    413: {"model": ErrorBody, "description": "The request body is too large."},
    415: {"model": ErrorBody, "description": "The body is of another type, or compressed."},
    429: {"model": ErrorBody, "description": "Too many requests are waiting."},
    503: {"model": ErrorBody, "description": "The server is shutting down, too busy, or broken."},
}
ANTHROPIC_ERRORS: dict[int | str, dict[str, Any]] = {
    OVERLOADED if status == 503 else status: {**told, "model": AnthropicError}
    for status, told in ERRORS.items()
}
BATCH_ERRORS: dict[int | str, dict[str, Any]] = {
    **ERRORS,
    409: {"model": ErrorBody, "description": "A batch that has not ended reads the file."},
    507: {"model": ErrorBody, "description": "The disk is full."},
}
READY = "/ready"
BATCHES_OFF = dict.fromkeys(
    (FILES, BATCHES), "Files and batches are off; start the server with --batch-dir."
)
"""What is said of paths that are not served, and of those below them."""


def create_app(service: Service) -> FastAPI:
    """The application around a loaded model. It does not close the service.

    Raises UsageError if the key file can't be used.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.bridge.attach(asyncio.get_running_loop())
        async with batches.running() if batches is not None else nullcontext():
            yield

    settings = service.settings
    replica = service.replica
    # Where keys are asked for, the page's calls have one.
    token = None if settings.api_key_file else replica.page_token if replica else new_token()
    app = FastAPI(
        title="tuneserve",
        version=tuneserve.__version__,
        description="OpenAI-compatible API of a model served by tuneserve.",
        default_response_class=AnyTextResponse,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.json_limits = JsonLimits(
        settings.max_json_depth, settings.max_json_containers, settings.max_json_values
    )
    app.state.apart = service.apart

    errors.install(app, off={} if settings.batch_dir else BATCHES_OFF)
    _describe_without_422(app)
    _serve_description(app)
    app.include_router(_status_router(service, token))
    app.include_router(generation_router(service), responses=ERRORS)
    app.include_router(text_router(service), responses=ERRORS)
    app.include_router(responses_router(service), responses=ERRORS)
    app.include_router(anthropic_router(service), responses=ANTHROPIC_ERRORS)
    app.include_router(llama_server_router(service), responses=ERRORS)
    admin = KeyRing(settings.admin_key_file)
    if admin.needed and service.adapter_directory is not None:
        app.include_router(admin_router(service, service.adapter_directory), responses=ERRORS)
    batches = _add_batches(app, service)
    # The last one added is the outermost.
    app.add_middleware(
        Arrival,
        seconds=settings.receive_seconds,
        most=max(settings.max_bodies << 20, settings.max_body),
        is_served=lambda scope: any(
            route.matches(scope)[0] is Match.FULL for route in app.router.routes
        ),
        uploads={FILES} if batches is not None else (),
    )
    app.add_middleware(
        Guard,
        keys=KeyRing(settings.api_key_file),
        max_body=settings.max_body,
        special=dict.fromkeys(ADMIN_PATHS, admin) if admin.needed else {},
        larger={FILES: LARGEST_UPLOAD} if batches is not None else {},
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            # The openai client for browsers sends a dozen of its own.
            allow_headers=["*"],
            expose_headers=[
                "X-Request-Id",
                "Retry-After",
                "X-Tuneserve-Ignored",
                "X-Tuneserve-Unenforced",
                "X-Tuneserve-Inactive",
            ],
        )
    app.add_middleware(
        BrowserRules,
        host=replica.host if replica else settings.host,
        behind_proxy=replica is not None,
        allowed=settings.allowed_hosts,
        origins=settings.cors_origins,
        token=token,
    )
    app.add_middleware(AnthropicErrors)
    app.add_middleware(
        AccessLog,
        style=settings.log,
        metrics=service.metrics,
        # The proxy asks every second.
        untold={READY} if replica else (),
    )
    app.add_middleware(DropUnread, seconds=settings.receive_seconds)
    return app


def _add_batches(app: FastAPI, service: Service) -> BatchRunner | None:
    """The batch API, where there is a directory for it. Raises UsageError if that can't be used."""
    settings = service.settings
    if settings.batch_dir is None:
        return None
    files = FileStore(settings.batch_dir, most_bytes=int(settings.batch_storage * (1 << 30)))
    store = BatchStore(files)
    service.metrics.watch(store)
    runner = BatchRunner(
        store,
        app,
        places=settings.slots,
        longest=settings.max_body,
        limits=app.state.json_limits,
    )

    def served() -> set[str]:
        return set(app.openapi()["paths"])

    router = batch_router(
        store,
        runner,
        keyed=settings.api_key_file is not None,
        served=served,
    )
    app.include_router(router, responses=BATCH_ERRORS)
    return runner


def _serve_description(app: FastAPI) -> None:
    """/openapi.json and /docs. Making the description takes a while: once, in another thread."""
    made: dict[str, bytes] = {}
    making = asyncio.Lock()

    def make() -> None:
        made["json"] = to_json(app.openapi())
        made["page"] = description_page(app.openapi()).encode()

    async def description(kind: str) -> bytes:
        async with making:
            if not made:
                await asyncio.to_thread(make)
        return made[kind]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(await description("json"), media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        page = await description("page")
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})


def _describe_without_422(app: FastAPI) -> None:
    """FastAPI describes its own status and body of wrong requests, which `errors` makes a 400."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        description = describe()
        for operations in description["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for schema in ("HTTPValidationError", "ValidationError"):
            description["components"]["schemas"].pop(schema, None)
        return description

    app.openapi = described  # type: ignore[method-assign]


def _status_router(service: Service, token: str | None) -> APIRouter:
    """`token`: what the page has to send with its calls."""
    router = APIRouter()
    page = chat_page(token or "")

    @router.get("/", response_class=HTMLResponse)
    async def index() -> HTMLResponse:
        """A page to try the models, side by side if there are several."""
        return HTMLResponse(page, headers=HEADERS)

    @router.get(FAVICON_PATH, include_in_schema=False)
    async def favicon() -> Response:
        return Response(FAVICON, media_type="image/svg+xml")

    @router.get("/health", responses={503: ERRORS[503]})
    async def health() -> Health:
        """Is the server working?"""
        if service.engine.failure is not None:
            raise service.engine.failure
        return Health(status="ok")

    @router.get(READY, responses={503: ERRORS[503]})
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
    return AnyTextResponse(value)


def _card(service: Service, name: str) -> ModelCard:
    base = None if name == service.name else service.name
    return ModelCard(
        id=name,
        object="model",
        created=service.created,
        owned_by="tuneserve",
        root=base,
        parent=base,
        system_prompt=service.system_prompt(name),
    )
