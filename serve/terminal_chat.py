"""A chat in the terminal with any OpenAI-compatible server."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tuneserve.chat.template import Message
from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.visible import visible


class Client:
    """A server and how it is asked. Raises TuneserveError with what the server says."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None,
        api_key: str | None,
        temperature: float,
        seed: int | None,
        max_tokens: int | None,
    ) -> None:
        import openai

        if not url.startswith(("http://", "https://")):
            raise UsageError("not an address (http://…)", where=f"--url {url}")
        self.url = url
        # The client insists on a key; a server that asks for none ignores it.
        self._openai = openai.OpenAI(base_url=url, api_key=api_key or "none", max_retries=0)
        options = {"temperature": temperature, "seed": seed, "max_tokens": max_tokens}
        self._options = {name: value for name, value in options.items() if value is not None}
        self.model = model or self._first_model()

    def chat(self, messages: list[Message]) -> Iterator[str]:
        """The next turn, piece by piece."""
        return self._stream(
            self._openai.chat.completions, lambda choice: choice.delta.content, messages=messages
        )

    def complete(self, prompt: str) -> Iterator[str]:
        """The continuation of a text, piece by piece."""
        return self._stream(self._openai.completions, lambda choice: choice.text, prompt=prompt)

    def _stream(
        self, endpoint: Any, text_of: Callable[[Any], str | None], **asked: object
    ) -> Iterator[str]:
        with self._explained():
            stream = endpoint.create(model=self.model, stream=True, **asked, **self._options)
            with stream:
                for chunk in stream:
                    if chunk.choices and (text := text_of(chunk.choices[0])):
                        yield _text(text)

    def _first_model(self) -> str:
        with self._explained():
            models = self._openai.models.list().data
            if not models:
                raise TuneserveError("this server serves no model", where=self.url)
            return _text(models[0].id)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            body = error.body if isinstance(error.body, dict) else {}
            reason = body.get("message") or f"HTTP status {error.status_code}"
            raise TuneserveError(str(reason), where=self.url) from error
        except (openai.APIConnectionError, _transport_error()) as error:
            raise TuneserveError(
                "no server answers here",
                where=self.url,
                hint="Start one: tuneserve serve --run NAME (or give its address: --url).",
            ) from error
        except openai.APIError as error:
            raise TuneserveError(error.message, where=self.url) from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            # The client library takes a reply for what it should be, without a look at it.
            raise TuneserveError(
                f"the server's reply is not that of an OpenAI-compatible API ({error})",
                where=self.url,
            ) from error


def _text(value: object) -> str:
    """What has to be a text, as the library takes a reply's JSON for what its types say."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} where a text has to be")
    return value


def _transport_error() -> type[Exception]:
    """What the HTTP library raises where a stream breaks off: the openai client passes it on.

    Its newer releases speak through httpx2, the older ones through httpx.
    """
    try:
        import httpx2 as http  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError:
        import httpx as http  # type: ignore[no-redef, unused-ignore]
    error: type[Exception] = http.TransportError
    return error


def ask(client: Client, prompt: str, *, system: str, raw: bool) -> str:
    """Ask once; the answer goes to stdout as it comes, and is returned."""
    pieces = client.complete(prompt) if raw else client.chat(_conversation(system, prompt))
    return _print_pieces(pieces)


def converse(client: Client, *, system: str) -> None:
    """Take turns until /quit or the end of input. Ctrl-C stops an answer; at the prompt it ends."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() line editing and history

    say(f"{client.model} at {client.url}. /reset starts anew, /quit ends.")
    messages = _conversation(system)
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            say("")
            return
        if text in ("/quit", "/exit"):
            return
        if text == "/reset":
            messages = _conversation(system)
            say("(started anew)")
        elif text.startswith("/"):
            say("commands: /reset, /quit")
        elif text:
            _take_turn(client, messages, text)


def _take_turn(client: Client, messages: list[Message], text: str) -> None:
    """One question and its answer; a failed one leaves the conversation as it was."""
    question = {"role": "user", "content": text}
    pieces: list[str] = []
    try:
        _print_pieces(client.chat([*messages, question]), into=pieces)
    except KeyboardInterrupt:
        say("\n(stopped)", lines=True)
    except TuneserveError as error:
        say(f"error: {error.render()}", lines=True)
    if pieces:
        messages += [question, {"role": "assistant", "content": "".join(pieces)}]


def _conversation(system: str, *turns: str) -> list[Message]:
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    return start + [{"role": "user", "content": turn} for turn in turns]


def _print_pieces(pieces: Iterator[str], *, into: list[str] | None = None) -> str:
    """To a terminal without what it would obey or hide; a file gets the answer as it is."""
    shown = [] if into is None else into
    terminal = sys.stdout.isatty()
    before = ""
    for piece in pieces:
        shown.append(piece)
        print(visible(piece, before=before) if terminal else piece, end="", flush=True)
        before = piece or before
    print(flush=True)
    return "".join(shown)
