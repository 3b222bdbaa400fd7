"""Several servers of one model behind one port: started, watched, started again, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.hosts import address_name
from tuneserve.serve.api.browser_rules import new_token
from tuneserve.serve.api.replica import Replica
from tuneserve.serve.replicas.haproxy import Proxy, haproxy_program
from tuneserve.serve.replicas.process import ReplicaProcess
from tuneserve.serve.replicas.replica import Order
from tuneserve.serve.replicas.shares import (
    count_gpus,
    gpu_environment,
    threads_of_each,
    wanted_replicas,
)
from tuneserve.serve.server import CLOSING_SECONDS, CUT_OFF, bind, example, serve, url_of
from tuneserve.serve.start_checks import check_reach, check_start, connection_limits
from tuneserve.settings import ServeSettings
from tuneserve.signals import asked_to_stop

LOOK_SECONDS = 0.05
LAST_BYTES_SECONDS = 5.0
"""Time that the proxy gets for what replicas that have ended left with it."""
FORCED_BYTES_SECONDS = 0.3
_LAST_PORT = 65_535


def serve_replicas(
    model_path: Path,
    name: str,
    settings: ServeSettings,
    *,
    adapters: Mapping[str, Path] | None = None,
    lora: Path | None = None,
) -> None:
    """As `tuneserve.serve.server.serve`, by `settings.replicas` processes behind HAProxy.

    Raises UsageError before any model is loaded, if HAProxy is not there too; TuneserveError if the
    proxy ends, or a replica again and again.
    """
    gpus = 0 if settings.gpu_layers == 0 else count_gpus()
    count = wanted_replicas(settings, gpus)
    settings = settings.model_copy(update={"replicas": count})
    if count == 1:
        serve(model_path, name, settings, adapters=adapters, lora=lora)
        return
    program = haproxy_program()
    if settings.admin_key_file is not None:
        raise UsageError(
            "what is loaded with an admin key is in one of the replicas alone",
            where="admin_key_file",
            hint="Put adapters into --adapter-dir, which all of them watch.",
        )
    check_start(model_path, settings, adapters=adapters, lora=lora)
    with ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(bind(settings.host, settings.port)))
        host, port = listener.getsockname()[:2]
        if settings.api_key_file is None:
            check_reach(host, settings)
        # A proxy's connection is one to a replica too.
        limits = connection_limits(settings, files_each=2)
        settings = settings.model_copy(update={"max_connections": limits.max_connections})
        ports = replica_ports(settings)
        token = new_token()
        replicas = []
        for number, at in enumerate(ports, 1):
            own = replica_settings(settings, number, at, host)
            replica = Replica(number, host, token)
            order = Order(model_path, name, own, dict(adapters or {}), lora, replica)
            environment = gpu_environment(number, count, gpus, os.environ)
            replicas.append(ReplicaProcess(number, order.written(), environment))
            stack.callback(replicas[-1].end)
        with counted_signals() as received:
            supervisor = _Supervisor(replicas, received)
            supervisor.wait_until(lambda: all(replica.is_ready for replica in replicas))
            proxy = Proxy(program, settings, ports, listener)
            stack.callback(proxy.end)
            supervisor.proxy = proxy
            url = url_of(host, port, tls=bool(settings.tls_cert))
            local = url.rpartition(":")[0].rpartition("/")[2].strip("[]")
            supervisor.wait_until(lambda: proxy.answers(local, port))
            listener.close()  # it is the proxy's now, which ends it
            first = replicas[0].answer
            names = ", ".join(first["names"])
            say(f"listening on {url} ({names}; {count} replicas; Ctrl-C to stop)")
            keyed = settings.api_key_file is not None
            say(example(url, name, chats=first["chats"], keyed=keyed), lines=True)
            supervisor.watch()
            answered_all = supervisor.stop(settings.drain_seconds)
    if not answered_all:
        raise TuneserveError(CUT_OFF)
    say("stopped")


def replica_ports(settings: ServeSettings) -> list[int]:
    """The ports of the replicas: those after the proxy's, or with port 0 any. Raises UsageError
    where one is taken."""
    if settings.port + settings.replicas > _LAST_PORT:
        raise UsageError("no port is left for the replicas after it", where="port")
    with ExitStack() as stack:
        return [
            stack.enter_context(
                contextlib.closing(bind("127.0.0.1", settings.port and settings.port + number))
            ).getsockname()[1]
            for number in range(1, settings.replicas + 1)
        ]


def replica_settings(
    settings: ServeSettings, number: int, port: int, address: str
) -> ServeSettings:
    """What of the settings is a replica's (from 1), and not the proxy's, which listens on the
    `address` of settings.host."""
    named = () if address_name(settings.host) == address else (settings.host,)
    return settings.model_copy(
        update={
            "host": "127.0.0.1",
            "port": port,
            "allowed_hosts": (*settings.allowed_hosts, *named),
            "tls_cert": None,
            "tls_key": None,
            "threads": threads_of_each(settings, settings.replicas),
            # All are the proxy's, which counts its own clients'.
            "max_client_connections": settings.max_connections,
            # Its files are one process's.
            "batch_dir": settings.batch_dir if number == 1 else None,
        }
    )


@contextmanager
def counted_signals() -> Iterator[list[int]]:
    """The signals that have come while the block runs and ask to stop."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    with asked_to_stop(note):
        yield received


class _Supervisor:
    """Watches replicas, and the `proxy` once there is one."""

    def __init__(self, replicas: Sequence[ReplicaProcess], received: list[int]) -> None:
        self._replicas = replicas
        self._received = received
        self.proxy: Proxy | None = None

    def _look(self) -> None:
        for replica in self._replicas:
            replica.look()
        if self.proxy is not None:
            self.proxy.look()
        time.sleep(LOOK_SECONDS)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Raises SystemExit if a signal comes first: there is nothing yet that has to end well."""
        while not reached():
            self._look()
            if self._received:
                say("interrupted")
                sys.exit(128 + self._received[0])

    def watch(self) -> None:
        """Until a signal comes."""
        while not self._received:
            self._look()

    def stop(self, drain_seconds: float) -> bool:
        """Let the running answers end, at a second signal not. Returns whether all of them did."""
        assert self.proxy is not None
        say("stopping: no new requests; running answers get to end (again: stop at once)")
        self.proxy.drain()
        self._send(signal.SIGTERM)
        # The replicas end by themselves before.
        deadline = time.monotonic() + drain_seconds + 2 * CLOSING_SECONDS
        told = 1
        while time.monotonic() < deadline and not all(one.stopped() for one in self._replicas):
            if len(self._received) > told:
                told = len(self._received)
                self._send(signal.SIGTERM)
            time.sleep(LOOK_SECONDS)
        answered_all = all(one.stopped() and one.answered_all() for one in self._replicas)
        deadline = time.monotonic() + (LAST_BYTES_SECONDS if answered_all else FORCED_BYTES_SECONDS)
        while time.monotonic() < deadline and not self.proxy.stopped():
            time.sleep(LOOK_SECONDS)
        return answered_all

    def _send(self, number: signal.Signals) -> None:
        for replica in self._replicas:
            replica.send(number)
