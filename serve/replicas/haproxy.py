"""HAProxy from the package manager, as the process in front of the replicas."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tuneserve.child import ended_child, ending, own_program
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.serve.replicas.configuration import EARLY_ERRORS, configuration, error_response
from tuneserve.serve.replicas.process import ToldProcess
from tuneserve.settings import ServeSettings

LEAST_VERSION = (2, 6)
"""The first that hashes what it has found in a body."""
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin")
"""Where packages put it, and not every user's PATH leads."""
INSTALL = (
    "Install it: apt install haproxy, dnf install haproxy, apk add haproxy, brew install haproxy."
)
_TRY_SECONDS = 1.0


def haproxy_program() -> str:
    """Path of the program. Raises UsageError if it is not there, or too old."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS])
    program = shutil.which("haproxy", path=folders)
    if program is None:
        raise UsageError(
            "several replicas need HAProxy in front of them, and there is none",
            where="serve.replicas", hint=INSTALL,
        )  # fmt: skip
    said = ended_child([program, "-v"]).stdout
    found = re.search(r"version (\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < LEAST_VERSION:
        shown = found[0] if found else "of an unknown version"
        least = ".".join(map(str, LEAST_VERSION))
        raise UsageError(f"HAProxy {least} or later is needed; this is {shown}", where=program)
    return program


class Proxy:
    """HAProxy on a socket that listens already. Nothing is written to disk: configuration and
    certificate are in memory, and so end with the processes."""

    def __init__(
        self, program: str, settings: ServeSettings, ports: Sequence[int], listener: socket.socket
    ) -> None:
        with ExitStack() as stack:

            def in_memory(name: str, content: bytes) -> int:
                number = os.memfd_create(name)
                stack.callback(os.close, number)
                os.write(number, content)
                return number

            bind = f"fd@{listener.fileno()}"
            files = [listener.fileno()]
            if settings.tls_cert is not None and settings.tls_key is not None:
                parts = [Path(path).read_bytes() for path in (settings.tls_cert, settings.tls_key)]
                files.append(in_memory("certificate", b"\n".join(parts)))
                bind += f" ssl crt /dev/fd/{files[-1]}"
            errors = {one: in_memory(f"error {one}", error_response(one)) for one in EARLY_ERRORS}
            files += errors.values()
            paths = {status: f"/dev/fd/{number}" for status, number in errors.items()}
            rules = in_memory("rules", configuration(settings, ports, bind, paths).encode())
            self._process = ToldProcess(
                "proxy",
                own_program(program, "-db", "-f", f"/dev/fd/{rules}"),
                pass_fds=[*files, rules],
            )
        self._tls = settings.tls_cert is not None

    def look(self) -> None:
        """Raises TuneserveError if it has ended."""
        code = self._process.code()
        if code is not None:
            raise TuneserveError(
                f"HAProxy has ended ({ending(code)})", problems=list(self._process.lines)
            )

    def answers(self, host: str, port: int) -> bool:
        """Does it pass a request on?"""
        connection = http.client.HTTPConnection(host, port, timeout=_TRY_SECONDS)
        if self._tls:
            # The certificate is a name's, and this is the socket of this very process.
            context = ssl._create_unverified_context()  # noqa: S323
            connection = http.client.HTTPSConnection(
                host, port, timeout=_TRY_SECONDS, context=context
            )
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def drain(self) -> None:
        """Take no more connections; it ends when those that are open have ended."""
        self._process.send(signal.SIGUSR1)

    def stopped(self) -> bool:
        return self._process.code() is not None

    def end(self) -> None:
        self._process.end()
