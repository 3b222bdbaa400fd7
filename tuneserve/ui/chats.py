"""Servers of a run's two models to talk to: each a `tuneserve serve` on a free port of this
machine, which ends with the page's server."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.child import own_module
from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.run import RunDirectory
from tuneserve.serve.bounded_replies import http_library
from tuneserve.ui.logs import last_words, opened_log, read_tail

MODELS = ("base", "tuned")
_LISTENS = re.compile(r"listening on (http://\S+)")
_CLOSING_SECONDS = 5.0


@dataclass
class Server:
    """A model that is served, or was; `url` is known once it listens."""

    run: RunDirectory
    model: str
    log: Path
    offset: int
    process: subprocess.Popen[bytes]
    url: str = ""

    def look(self) -> str:
        """'loading', 'serving' or 'ended'."""
        if self.process.poll() is not None:
            return "ended"
        if not self.url and (found := _LISTENS.search(self._said())):
            self.url = found[1]
        return "serving" if self.url else "loading"

    def _said(self) -> str:
        return read_tail(self.log, begin=self.offset).text

    def as_json(self) -> dict[str, str]:
        state = self.look()
        said = last_words(self._said()) if state == "ended" and self.process.returncode else ""
        return {"model": self.model, "state": state, "url": self.url, "said": said}


class Chats:
    """The servers that this process has started. Use it in one thread, which lives as long as they
    are to."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, str], Server] = {}

    def of(self, run: RunDirectory) -> list[dict[str, str]]:
        return [one.as_json() for (name, _), one in self._servers.items() if name == run.name]

    def start(self, run: RunDirectory) -> None:
        """Serve the run's base and its tune, as far as they are not. Raises TuneserveError."""
        run.require()
        for model in MODELS:
            known = self._servers.get((run.name, model))
            if known is not None and known.look() != "ended":
                continue
            log, descriptor = opened_log(run, f"serve-{model}")
            words = ["serve", "--run", run.name, "--host", "127.0.0.1", "--port", "0"]
            words += ["--base"] * (model == "base")
            with os.fdopen(descriptor, "ab") as file:
                offset = file.tell()
                process = subprocess.Popen(
                    own_module("tuneserve", *words), stdin=subprocess.DEVNULL, stdout=file,
                    stderr=file, start_new_session=True,
                )  # fmt: skip
            self._servers[run.name, model] = Server(run, model, log, offset, process)
            say(f"started process {process.pid}: tuneserve {' '.join(words)}")

    def stop(self, run: RunDirectory) -> None:
        """End the run's servers."""
        for model in MODELS:
            if server := self._servers.pop((run.name, model), None):
                _end(server.process)

    def close(self) -> None:
        """End all of them."""
        for server in self._servers.values():
            server.process.terminate()
        for server in self._servers.values():
            _end(server.process)
        self._servers.clear()

    async def ask(
        self, run: RunDirectory, model: str, messages: Any, sampling: Mapping[str, Any]
    ) -> tuple[int, str, AsyncIterator[bytes]]:
        """The server's answer to a conversation: status, media type, and its parts as they come.
        The base is asked with the system prompt that the tune has, both with the API's fields
        `sampling`. Raises TuneserveError where the model is not served."""
        server = self._servers.get((run.name, model))
        if model not in MODELS or not isinstance(messages, list):
            raise UsageError("a chat has a model (base or tuned) and a list of messages")
        if server is None or server.look() != "serving":
            raise TuneserveError("is not served", where=f"{run.name}, {model}")
        system = run.system_prompt if model == "base" else ""
        told = [{"role": "system", "content": system}] if system else []
        body = {
            **sampling, "messages": [*told, *messages], "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        client = http_library().AsyncClient(timeout=None, trust_env=False)
        try:
            request = client.build_request("POST", f"{server.url}/v1/chat/completions", json=body)
            answer = await client.send(request, stream=True)
        except BaseException as error:
            await client.aclose()
            if isinstance(error, OSError | http_library().HTTPError):
                raise TuneserveError(f"does not answer: {error}", where=server.url) from error
            raise

        async def parts() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_raw():
                    yield part
            finally:
                await answer.aclose()
                await client.aclose()

        return answer.status_code, answer.headers.get("content-type", ""), parts()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_CLOSING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
