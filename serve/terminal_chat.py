"""A chat in the terminal with any OpenAI-compatible server."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tuneserve.chat.template import Message
from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.serve.bounded_replies import Replies, http_library
from tuneserve.serve.terminal_lines import unechoed
from tuneserve.visible import visible


class Client:
    """A server and how it is asked: `options` are fields of its requests, `system_prompt` is what
    it puts before conversations without one, as far as it says. `finish`: why the last answer
    ended.

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
        given = {"temperature": temperature, "seed": seed, "max_tokens": max_tokens}
        self.options: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None
        }
        self.system_prompt = ""
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
            # The client knows some fields only; what it does not know is sent all the same.
            stream = endpoint.create(
                model=self.model, stream=True, extra_body=self.options, **asked
            )
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
            first = _first(models)
            # What tuneserve's server says of a model beside OpenAI's fields.
            self.system_prompt = _text(getattr(first, "system_prompt", None) or "")
            return _text(first.id)

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


def ask(
    client: Client, prompt: str, *, system: str | None, raw: bool, markdown: bool = False
) -> str:
    """Ask once; the answer goes to stdout as it comes, and is returned."""
    start: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    question: Message = {"role": "user", "content": prompt}
    pieces = client.complete(prompt) if raw else client.chat([*start, question])
    answer = print_answer(pieces, markdown=markdown and not raw)
    tell_finish(client)
    return answer


def tell_finish(client: Client) -> None:
    """Say of an answer that did not end by itself why it ended."""
    if client.finish == "length":
        say("note: the answer ends where it is as long as it may be (--max-tokens, the context)")
    elif client.finish == "content_filter":
        say("note: the server left out a part of the answer (content_filter)")


def print_answer(
    pieces: Iterator[str], *, into: list[str] | None = None, markdown: bool = True
) -> str:
    """To a terminal as Markdown (unless it is told not to be), without what it would obey or hide;
    a file or a pipe gets the answer as it is. `into` gets the pieces, also of one that breaks
    off."""
    shown = [] if into is None else into
    with unechoed() if sys.stdout.isatty() else contextlib.nullcontext():
        if sys.stdout.isatty() and markdown and os.environ.get("TERM", "dumb") != "dumb":
            _print_markdown(pieces, shown)
        else:
            _print_plain(pieces, shown)
    return "".join(shown)


def _print_markdown(pieces: Iterator[str], shown: list[str]) -> None:
    from rich.console import Console

    from tuneserve.serve.terminal_markdown import MarkdownAnswer

    with MarkdownAnswer(Console(file=sys.stdout, highlight=False)) as answer:
        for piece in pieces:
            shown.append(piece)
            answer.add(piece)


def _print_plain(pieces: Iterator[str], shown: list[str]) -> None:
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
