"""Run the server: the port first, then the model, then requests until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.serve.api.app import create_app
from tuneserve.serve.api.connections import guarded_protocol
from tuneserve.serve.api.open_connections import ConnectionLimits
from tuneserve.serve.api.replica import Replica
from tuneserve.serve.api.service import Service
from tuneserve.serve.engine import Engine
from tuneserve.serve.offload import with_gpu_layers
from tuneserve.serve.start_checks import (
    BACKLOG,
    check_reach,
    check_start,
    connection_limits,
)
from tuneserve.serve.watchdog import Watchdog
from tuneserve.settings import ServeSettings
from tuneserve.signals import asked_to_stop


def serve(
    model_path: Path,
    name: str,
    settings: ServeSettings,
    *,
    adapters: Mapping[str, Path] | None = None,
    lora: Path | None = None,
    replica: Replica | None = None,
    on_ready: Callable[[Service], None] | None = None,
) -> None:
    """Serve a GGUF under `name`, and its LoRA `adapters` under theirs, until SIGTERM, Ctrl-C or
    the end of its terminal. `lora` is an adapter that belongs to the model itself. What a `replica`
    is given was checked before, and it takes connections only once the model is loaded. `on_ready`
    is called then.

    Raises UsageError before the model is loaded if a file, a setting or the address is wrong;
    TuneserveError if llama.cpp can't load the model, and at the end if requests were cut off.
    """
    if replica is None:
        check_start(model_path, settings, adapters=adapters, lora=lora)
    # Of a replica that loads, the proxy is to know that it is away: it sends elsewhere then.
    listener = bind(settings.host, settings.port, listen=replica is None)
    with contextlib.closing(listener):
        host, port = listener.getsockname()[:2]
        if replica is None and settings.api_key_file is None:
            check_reach(host, settings)
        connections = connection_limits(settings)
        settings = with_gpu_layers(model_path, settings, tell=True)
        if settings.draft is not None and not settings.drafts:
            say("note: the draft model is not loaded, since speculate is off")
        say(f"loading {model_path}")
        service = Service(model_path, name, settings, adapters=adapters, lora=lora, replica=replica)
        if settings.mlock and not locked_bytes():
            say(
                "warning: the model could not be locked in RAM; raise the limit of locked memory "
                "(ulimit -l)"
            )
        if service.engine.model.mtp_layers:
            say("note: the model has heads for multi-token prediction (MTP), which are not used")
        cells = service.engine.stats().cells
        if cells != settings.ctx:
            say(f"note: the context has {cells} tokens, not {settings.ctx}: llama.cpp rounds it up")
        for line in told_system_prompts(service):
            say(line)
        try:
            url = url_of(host, port, tls=bool(settings.tls_cert))
            say(f"listening on {url} ({', '.join(service.names)}; Ctrl-C to stop)")
            if replica is None:
                chats = service.template is not None
                say(example(url, name, chats=chats, keyed=bool(settings.api_key_file)), lines=True)
            ready = partial(on_ready, service) if on_ready else None
            answered_all = _run_until_signal(service, listener, connections, ready)
        finally:
            service.close()
    if service.engine.failure is not None:
        raise TuneserveError(f"the engine failed: {service.engine.failure.message}")
    if not answered_all:
        raise TuneserveError(CUT_OFF)
    say("stopped")


def told_system_prompts(service: Service) -> Iterator[str]:
    """A line for each served model that has a system prompt."""
    for name in service.names if service.template is not None else ():
        if system := service.system_prompt(name):
            shown = " ".join(system.split())
            shown = f"{shown[:SHOWN_SYSTEM]}…" if len(shown) > SHOWN_SYSTEM else shown
            yield (
                f"system prompt of '{name}' where a request has none: {shown} (--system TEXT "
                "replaces it, --system '' switches it off)"
            )


def locked_bytes() -> int:
    """Memory of this process that may not be swapped out. llama.cpp goes on if locking fails."""
    found = re.search(r"VmLck:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def bind(host: str, port: int, *, listen: bool = True) -> socket.socket:
    """A socket that listens, or only has the address. Raises UsageError if that can't be had."""
    where = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(f"not an address to listen on: {error.strerror}", where=where) from error
    listener = socket.socket(family, kind, protocol)
    try:
        # A port whose last connections are still winding down is free; one listened on is not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        if listen:
            listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                "this port is in use", where=where, hint="Choose another: --port N (0: any free)."
            ) from None
        raise UsageError(f"can't listen: {error.strerror}", where=where) from error
    return listener


SHOWN_SYSTEM = 80
"""Characters of a system prompt that are told at the start."""
LAST_WORDS_SECONDS = 0.4
"""Time that requests get to be told of a forced stop."""
FORCED_SECONDS = 0.8
"""From a forced stop to the end of the process, whatever its threads do."""
STALLED_SECONDS = 60.0
"""Without a turn of the event loop: then the process ends."""
CLOSING_SECONDS = 10.0
"""The same beyond `drain_seconds`, when the server stops."""
EXIT_FORCED = 1
CUT_OFF = "stopped before all requests were answered"


class SignalledServer(uvicorn.Server):
    """Ends when it is asked to, and leaves it to its caller how the process then goes on."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals, and put the former handlers back. uvicorn's own raises the signal
        again at the end, which would end the process before the model is freed."""
        with asked_to_stop(self.handle_exit):
            yield


class Server(SignalledServer):
    """Ends after the running answers at the first signal; and when the engine has failed, since
    nothing can be answered then. At the second signal, or if the answers take longer than
    `drain_seconds`, those that wait or run are told so, and the process ends, even if a thread
    (which reads a long text or a grammar) can't be ended."""

    def __init__(
        self,
        config: uvicorn.Config,
        engine: Engine,
        *,
        drain_seconds: float,
        ready: Callable[[], None] | None = None,
    ) -> None:
        """`ready` is called when requests are taken."""
        super().__init__(config)
        self._ready = ready
        self._engine = engine
        self._drain_seconds = drain_seconds
        self._hurry = threading.Event()
        self._watchdog = Watchdog(engine, seconds=STALLED_SECONDS)
        self.forced = False
        """Were requests ended before they were answered?"""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._ready is not None:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        self._watchdog.look()
        return await super().on_tick(counter) or self._engine.failure is not None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._end_soon()
            self._hurry.set()
            return
        self._engine.refuse_new()
        say("stopping: no new requests; running answers get to end (again: stop at once)")
        self.should_exit = True

    def _end_soon(self) -> None:
        """End the process after FORCED_SECONDS. The kernel frees the model's memory."""
        timer = threading.Timer(FORCED_SECONDS, _end_process)
        timer.daemon = True
        timer.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._watchdog.allow(self._drain_seconds + CLOSING_SECONDS)
        draining = asyncio.create_task(super().shutdown(sockets))
        deadline = time.monotonic() + self._drain_seconds
        while not draining.done() and not self._hurry.is_set() and time.monotonic() < deadline:
            await asyncio.wait({draining}, timeout=0.05)
        if not draining.done():
            self.forced = True
            if not self._hurry.is_set():
                say(f"the answers that ran took longer than {self._drain_seconds} s")
                self._end_soon()
            self._engine.stop()
            await asyncio.wait({draining}, timeout=LAST_WORDS_SECONDS)
        if not draining.done():
            for task in self.server_state.tasks:
                task.cancel()
            self.force_exit = True
        await draining
        if self.force_exit:
            await self.lifespan.shutdown()
        await self._stop_engine(deadline)
        self._watchdog.close()

    async def _stop_engine(self, deadline: float) -> None:
        """Its last step may be one that nobody waits for any more, or that hangs."""
        self._engine.stop()
        while self._engine.is_running and not self._hurry.is_set() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._engine.is_running:
            self._end_soon()


def _end_process() -> None:
    say(f"error: {CUT_OFF}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_FORCED)


def _run_until_signal(
    service: Service,
    listener: socket.socket,
    limits: ConnectionLimits,
    ready: Callable[[], None] | None,
) -> bool:
    """Returns whether all requests that were taken were answered."""
    config = uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=service.settings.keep_alive_seconds,
        http=guarded_protocol(limits, service.metrics.refused),
        ws="none",
        backlog=min(BACKLOG, limits.max_connections),
        ssl_certfile=service.settings.tls_cert,
        ssl_keyfile=service.settings.tls_key,
    )
    server = Server(
        config, service.engine, drain_seconds=service.settings.drain_seconds, ready=ready
    )
    server.run(sockets=[listener])
    return not server.forced


def example(url: str, name: str, *, chats: bool, keyed: bool) -> str:
    """A request that a person can try."""
    key = ' -H "Authorization: Bearer $KEY"' if keyed else ""
    path, field = "chat/completions", '"messages": [{"role": "user", "content": "What is 1+1?"}]'
    if not chats:
        path, field = "completions", '"prompt": "1 + 1 ="'
    return (
        f"Try:\n  curl {url}/v1/{path}{key} -H 'Content-Type: application/json' \\\n"
        f'    -d \'{{"model": "{name}", {field}}}\''
    )


def url_of(host: str, port: int, *, tls: bool) -> str:
    """Where a person of this machine finds a server that listens there."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    return f"{'https' if tls else 'http'}://{f'[{shown}]' if ':' in shown else shown}:{port}"
