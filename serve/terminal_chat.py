"""A chat in the terminal with any OpenAI-compatible server."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tuneserve.chat.template import Message
from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.serve.bounded_replies import Replies, http_library
from tuneserve.visible import visible


class Client:
    """A server and how it is asked; `finish`: why the last answer ended, as the server says.

    Raises TuneserveError with what the server says, and for an answer that breaks off.
    """

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
        self._replies = Replies()
        self.finish: str | None = None
        # The client insists on a key; a server that asks for none ignores it.
        self._openai = openai.OpenAI(
            base_url=url, api_key=api_key or "none", max_retries=0,
            http_client=self._replies.client(),
        )  # fmt: skip
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
        self.finish = None
        with self._explained():
            stream = endpoint.create(model=self.model, stream=True, **asked, **self._options)
            with stream:
                for chunk in stream:
                    if not chunk.choices:
                        continue
                    choice = _first(chunk.choices)
                    if choice.finish_reason is not None:
                        self.finish = _text(choice.finish_reason)
                    if text := text_of(choice):
                        yield _text(text)
        if self.finish is None and not self._replies.done:
            raise TuneserveError(
                "the answer broke off: the server closed the stream before its end",
                where=self.url, hint="What came of it is not the whole answer. Ask again.",
            )  # fmt: skip

    def _first_model(self) -> str:
        with self._explained():
            models = self._openai.models.list().data
            if not models:
                raise TuneserveError("this server serves no model", where=self.url)
            return _text(_first(models).id)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            body = error.body if isinstance(error.body, dict) else {}
            reason = body.get("message") or f"HTTP status {error.status_code}"
            raise TuneserveError(f"{reason!s:.1000}", where=self.url) from error
        except (openai.APIConnectionError, http_library().TransportError) as error:
            if isinstance(error.__cause__, TuneserveError):
                raise error.__cause__ from None
            raise TuneserveError(
                "no server answers here",
                where=self.url,
                hint="Start one: tuneserve serve --run NAME (or give its address: --url).",
            ) from error
        except openai.APIError as error:
            raise TuneserveError(f"{error.message!s:.1000}", where=self.url) from error
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            # The client library takes a reply for what it should be, without a look at it.
            raise TuneserveError(
                f"the server's reply is not that of an OpenAI-compatible API ({error!s:.200})",
                where=self.url,
            ) from error


def _text(value: object) -> str:
    """What has to be a text, as the library takes a reply's JSON for what its types say."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} where a text has to be")
    return value


def _first(value: object) -> Any:
    """The first of what has to be a list."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.40} where a list has to be")
    return value[0]


def ask(client: Client, prompt: str, *, system: str | None, raw: bool) -> str:
    """Ask once; the answer goes to stdout as it comes, and is returned."""
    pieces = client.complete(prompt) if raw else client.chat(_conversation(system, prompt))
    answer = _print_pieces(pieces)
    _tell_finish(client)
    return answer


def _tell_finish(client: Client) -> None:
    """Say of an answer that did not end by itself why it ended."""
    if client.finish == "length":
        say("note: the answer ends where it is as long as it may be (--max-tokens, the context)")
    elif client.finish == "content_filter":
        say("note: the server left out a part of the answer (content_filter)")


def converse(client: Client, *, system: str | None) -> None:
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
        _tell_finish(client)
    except KeyboardInterrupt:
        say("\n(stopped)", lines=True)
    except TuneserveError as error:
        say(f"error: {error.render()}", lines=True)
    if pieces:
        messages += [question, {"role": "assistant", "content": "".join(pieces)}]


def _conversation(system: str | None, *turns: str) -> list[Message]:
    """Without a system prompt (None) the server puts its own before them."""
    start: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return start + [{"role": "user", "content": turn} for turn in turns]


def _print_pieces(pieces: Iterator[str], *, into: list[str] | None = None) -> str:
    """To a terminal without what it would obey or hide; a file gets the answer as it is."""
    shown = [] if into is None else into
    terminal = sys.stdout.isatty()
    before = ""
    try:
        for piece in pieces:
            shown.append(piece)
            print(visible(piece, before=before) if terminal else piece, end="", flush=True)
            before = piece or before
    except TuneserveError:
        if shown:  # what came stays, on a line of its own
            print(flush=True)
        raise
    print(flush=True)
    return "".join(shown)
