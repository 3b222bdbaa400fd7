"""The page's server: what runs there are, for everybody on this machine; starting, stopping and
whatever else begins a process for those who have the token."""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuneserve.charts import page_style
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.finetune.training.progress_file import ProgressReaders
from tuneserve.recipe import shipped_recipes
from tuneserve.run import RunDirectory, runs_directory
from tuneserve.serve.api import chat_page
from tuneserve.serve.api.browser_rules import BrowserRules
from tuneserve.serve.api.errors import ApiError, to_json
from tuneserve.serve.api.middleware import FAVICON_PATH, Guard, KeyRing
from tuneserve.ui import forms, views
from tuneserve.ui.chats import Chats
from tuneserve.ui.jobs import Jobs
from tuneserve.ui.logs import inside, read_tail
from tuneserve.ui.preview import Previews, data_settings
from tuneserve.ui.stopping import Stopper

TOKEN_HEADER = "X-Tuneserve-Token"  # noqa: S105 - a name
_TOKEN_KEY = TOKEN_HEADER.lower().encode()
MAX_BODY = 1 << 20
_SAMPLING = ("temperature", "max_tokens")
_FOLDER = Path(__file__).parent / "page"
POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page loads nothing but its own modules and styles, and talks to this server alone."""
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""A report is a file of a run, which may come from elsewhere: it gets an origin of its own and
reaches nothing."""


class TokenNeeded:
    """ASGI middleware: 403 for what is not only read, without the token; and the headers that every
    answer has."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**chat_page.HEADERS, "Referrer-Policy": "no-referrer"}.items():
                    if name != "Content-Security-Policy":
                        headers[name] = value
                headers.setdefault("Content-Security-Policy", POLICY)
            await send(message)

        if scope["method"] not in ("GET", "HEAD") and not self._has_token(scope):
            refusal = ApiError(
                HTTPStatus.FORBIDDEN,
                "This needs the token that the terminal shows where `tuneserve ui` was started.",
                code="token_needed",
            )
            await refusal.response()(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _has_token(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == _TOKEN_KEY]
        return len(given) == 1 and hmac.compare_digest(given[0], self._token)


def create_app(token: str, allowed_hosts: Sequence[str] = ()) -> Starlette:
    """The application. Whoever has `token` may start and stop; `allowed_hosts` are further hosts
    under which it is reached."""
    page = _Page()
    return Starlette(
        routes=page.routes(),
        lifespan=page.running,
        middleware=[
            Middleware(
                BrowserRules, host="127.0.0.1", allowed=allowed_hosts, origins=(), token=None,
                origins_option="",
            ),
            Middleware(TokenNeeded, token=token),
            Middleware(Guard, keys=KeyRing(None), max_body=MAX_BODY),
        ],
        exception_handlers={
            TuneserveError: _told, ApiError: _told, HTTPException: _told, OSError: _told
        },
    )  # fmt: skip


async def _told(_: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        return error.response()
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail)).response()
    if isinstance(error, TuneserveError):
        status = HTTPStatus.BAD_REQUEST if isinstance(error, UsageError) else HTTPStatus.CONFLICT
        return ApiError(status, error.render(), code="refused").response()
    return ApiError(HTTPStatus.CONFLICT, str(error), code="refused").response()


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")


class _Page:
    """The routes, and what they keep between them."""

    def __init__(self) -> None:
        self._jobs = Jobs()
        self._stopper = Stopper()
        self._previews = Previews()
        self._chats = Chats()
        self._progress = ProgressReaders()

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route(FAVICON_PATH, self.favicon),
            Route("/static/{name}", self.static),
            Route("/api/state", self.state),
            Route("/api/token", self.token, methods=["POST"]),
            Route("/api/forms/{stage}", self.form),
            Route("/api/recipe/{stage}", self.recipe, methods=["POST"]),
            Route("/api/preview", self.preview, methods=["POST"]),
            Route("/api/runs/{run}", self.run),
            Route("/api/runs/{run}/logs/{stage}", self.log),
            Route("/api/runs/{run}/start", self.start, methods=["POST"]),
            Route("/api/runs/{run}/stop", self.stop, methods=["POST"]),
            Route("/api/runs/{run}/preview", self.preview_of_run, methods=["POST"]),
            Route("/api/runs/{run}/serve", self.serve, methods=["POST"]),
            Route("/api/runs/{run}/serve/stop", self.stop_serving, methods=["POST"]),
            Route("/api/runs/{run}/chat", self.chat, methods=["POST"]),
            Route("/runs/{run}/report.html", self.report),
        ]

    async def page(self, _: Request) -> Response:
        return FileResponse(_FOLDER / "page.html", media_type="text/html")

    async def favicon(self, _: Request) -> Response:
        return Response(chat_page.FAVICON, media_type="image/svg+xml")

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        kind = {".js": "text/javascript", ".css": "text/css"}.get(Path(name).suffix)
        if name == "charts.css":
            return Response(str(page_style()), media_type="text/css")
        if name in chat_page.SHARED:
            return Response(chat_page.shared_module(name), media_type="text/javascript")
        if kind is None or name not in {path.name for path in _FOLDER.iterdir()}:
            raise HTTPException(404, "There is no such file.")
        return FileResponse(_FOLDER / name, media_type=kind)

    async def state(self, _: Request) -> Response:
        """Every run in short, and what was started here."""
        rows = await run_in_threadpool(views.run_rows)
        jobs = [job.as_json() for job in self._jobs.all()]
        return _json({"folder": str(runs_directory().absolute()), "runs": rows, "jobs": jobs})

    async def token(self, _: Request) -> Response:
        """Answered to those who have the token."""
        return _json({"ok": True})

    async def run(self, request: Request) -> Response:
        run = _run_of(request)
        jobs = [job.as_json() for job in self._jobs.all() if job.run.name == run.name]
        if not run.record_path.is_file() and jobs:  # one that is just being begun
            return _json({"name": run.name, "path": str(run.root), "begun": False, "jobs": jobs})
        view = await run_in_threadpool(views.run_view, run, self._progress.read)
        servers = self._chats.of(run)
        return _json({**view, "begun": True, "jobs": jobs, "servers": servers})

    async def log(self, request: Request) -> Response:
        path = inside(_run_of(request), "logs", f"{request.path_params['stage']}.log")
        tail = read_tail(path)
        return _json({"text": tail.text, "left_out": tail.left_out})

    async def report(self, request: Request) -> Response:
        path = inside(_run_of(request), "bench", "report.html")
        headers = {"Content-Security-Policy": REPORT_POLICY}
        return FileResponse(path, media_type="text/html", headers=headers)

    async def form(self, request: Request) -> Response:
        stage = request.path_params["stage"]
        name = request.query_params.get("run")
        run = RunDirectory.named(name) if name else None
        found = {
            **forms.described(stage),
            "values": forms.start_values(stage, run),
            "recipes": list(shipped_recipes()),
        }
        return _json(found)

    async def recipe(self, request: Request) -> Response:
        """The form's values as a recipe has them. It may be any file, so the token is needed."""
        given = await _body(request)
        name = str(given.get("recipe", ""))
        path = shipped_recipes().get(name, Path(name))
        stage = request.path_params["stage"]
        return _json({"values": await run_in_threadpool(forms.values_of_recipe, stage, path)})

    async def preview(self, request: Request) -> Response:
        given = await _body(request)
        recipe = forms.checked("train", given.get("settings", {}))
        return _json(await self._previews.make(recipe, _examples(given)))

    async def preview_of_run(self, request: Request) -> Response:
        run = _run_of(request).require()
        recipe = data_settings(run)
        return _json(await self._previews.make(recipe, _examples(await _body(request))))

    async def start(self, request: Request) -> Response:
        """Start a stage of a run with what was filled in."""
        given = await _body(request)
        run, stage = _run_of(request), str(given.get("stage", ""))
        forms.checked(stage, given.get("settings", {}))
        flags = given.get("flags", [])
        known = forms.FORMS[stage].flags
        if not isinstance(flags, list) or not all(flag in known for flag in flags):
            raise UsageError(f"flags are a list of: {', '.join(known)}", where=stage)
        self._jobs.require_idle(run)
        recipe = forms.write_recipe(stage, run, given.get("settings", {}))
        words = [stage, "--config", str(recipe), "--run", run.name]
        job = self._jobs.start(stage, run, [*words, *(f"--{flag}" for flag in flags)])
        return _json(job.as_json())

    async def stop(self, request: Request) -> Response:
        run = _run_of(request)
        return _json({"said": self._stopper.stop(run, self._jobs.running(run))})

    async def serve(self, request: Request) -> Response:
        """Serve both of the run's models."""
        run = _run_of(request)
        self._chats.start(run)
        return _json({"servers": self._chats.of(run)})

    async def stop_serving(self, request: Request) -> Response:
        run = _run_of(request)
        self._chats.stop(run)
        return _json({"servers": self._chats.of(run)})

    async def chat(self, request: Request) -> Response:
        """What a model answers, as its server does, in server-sent events."""
        run, given = _run_of(request), await _body(request)
        status, kind, parts = await self._chats.ask(
            run,
            str(given.get("model", "")),
            given.get("messages"),
            {"temperature": 0, **{name: given[name] for name in _SAMPLING if name in given}},
        )
        return StreamingResponse(parts, status, media_type=kind)

    @contextlib.asynccontextmanager
    async def running(self, _: Starlette) -> AsyncIterator[None]:
        """What is served here ends with this server."""
        yield
        self._chats.close()


def _run_of(request: Request) -> RunDirectory:
    """Raises UsageError for what is no run's name."""
    return RunDirectory.named(request.path_params["run"])


async def _body(request: Request) -> dict[str, Any]:
    """The request's JSON object. Raises UsageError."""
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError("the request's body is no JSON object")
    return found


def _examples(given: dict[str, Any]) -> int:
    found = given.get("examples", 6)
    if type(found) is not int or not 0 <= found <= 50:
        raise UsageError("from 0 to 50", where="examples")
    return found
