"""Runs the page's server until a signal ends it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence

import uvicorn

from tuneserve.console import say
from tuneserve.errors import UsageError
from tuneserve.hosts import ANY, HostPattern
from tuneserve.run import runs_directory
from tuneserve.serve.api.connections import guarded_protocol
from tuneserve.serve.server import SignalledServer, bind
from tuneserve.serve.start_checks import connection_limits
from tuneserve.settings import ServeSettings
from tuneserve.ui.app import create_app

HOST = "127.0.0.1"
CLOSING_SECONDS = 2


def run_ui(port: int, allowed_hosts: Sequence[str] = ()) -> None:
    """Serve the page on this machine alone; port 0: any free one. Raises UsageError if the port is
    taken, or a host is none."""
    for host in allowed_hosts:
        if host == ANY:
            raise UsageError(
                "any web page could read the runs (by a name that it makes to point here)",
                where=f"--allowed-hosts {host}",
                hint="Name the hosts.",
            )
        try:
            HostPattern.parse(host)
        except ValueError as error:
            raise UsageError(str(error), where=f"--allowed-hosts {host}") from None
    token = secrets.token_urlsafe(24)
    listener = bind(HOST, port)
    with contextlib.closing(listener):
        config = uvicorn.Config(
            create_app(token, allowed_hosts),
            log_config=None,
            access_log=False,
            server_header=False,
            http=guarded_protocol(connection_limits(ServeSettings()), lambda _: None),
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )
        url = f"http://{HOST}:{listener.getsockname()[1]}/"
        say(f"the runs in {runs_directory().absolute()} are shown at {url} (Ctrl-C to stop)")
        say(f"to start and stop them, open {url}#token={token}")
        SignalledServer(config).run(sockets=[listener])
    say("stopped; stages that were started here go on (tuneserve ls)")
