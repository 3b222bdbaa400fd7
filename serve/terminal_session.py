"""A conversation in the terminal: turns, and the commands that change it, save it and load it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuneserve.chat.template import Message
from tuneserve.console import say
from tuneserve.errors import OutputExistsError, TuneserveError, UsageError
from tuneserve.files import write_json
from tuneserve.recipe import nearest
from tuneserve.serve.terminal_chat import Client, print_answer, tell_finish
from tuneserve.serve.terminal_lines import Typed, at_terminal, edit_lines, read_text

SETTINGS = (
    "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty",
    "frequency_penalty", "max_tokens", "seed",
)  # fmt: skip
DEFAULT = "default"
"""The word for what the server does where nothing is said."""
HELP = """\
/system [TEXT]     the system prompt ("": none;
                   default: the server's)
/set [NAME VALUE]  how it is asked (default: as
                   the server does it)
/save FILE         the conversation as JSON
/load FILE         go on with a saved one
/reset             start anew, same system prompt
/quit              end (or Ctrl-D)
Several lines: end a line with \\, or put the text
between \"\"\" and \"\"\"."""


def converse(client: Client, *, system: str | None, markdown: bool = True) -> None:
    """Take turns until /quit or the end of input. Ctrl-C stops an answer; at the prompt it ends.

    Where nobody types (a pipe), only answers go to stdout, and the first failure is raised.
    """
    typed = at_terminal()
    if typed:
        edit_lines()
        say(f"{client.model} at {client.url}. /help lists what can be done, /quit ends.")
        if system is None and client.system_prompt:
            say(f"system prompt (the server's): {client.system_prompt}", lines=True)
    session = Session(client, system=system, markdown=markdown)
    while True:
        try:
            text = read_text("> ")
            if text is None:
                break
            if text in ("/quit", "/exit"):
                return
            if text:
                session.take(text)
        except KeyboardInterrupt:
            break
        except TuneserveError as error:
            if not typed:
                raise
            say(f"error: {error.render()}", lines=True)
    if typed:
        say("")


class Session:
    """A conversation with a server's model; `system` None: the server's own prompt holds."""

    def __init__(self, client: Client, *, system: str | None, markdown: bool = True) -> None:
        self.client = client
        self.system = system
        self.turns: list[Message] = []
        self._markdown = markdown
        self._file: Path | None = None
        self._kept: list[Message] = []
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._help, "/system": self._set_system, "/set": self._set,
            "/save": self._save, "/load": self._load, "/reset": self._reset,
        }  # fmt: skip

    @property
    def messages(self) -> list[Message]:
        """The conversation as it is sent."""
        start = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*start, *self.turns]

    def take(self, text: Typed) -> None:
        """Do what a text says: a command, or else a question, as quoted texts are. Raises
        TuneserveError; of an answer that breaks off, what came is kept."""
        if text.quoted:
            self._ask(text)
            return
        name, _, rest = text.partition(" ")
        command = self._commands.get(name)
        if command is not None:
            command(rest.strip())
        elif text.startswith("/"):
            known = [*self._commands, "/quit"]
            raise UsageError(
                f"no command {name!r} ({nearest(name, known)})",
                hint='See /help. A question that begins with / goes between """ and """.',
            )
        else:
            self._ask(text)

    def _ask(self, text: str) -> None:
        question = {"role": "user", "content": text}
        pieces: list[str] = []
        try:
            print_answer(
                self.client.chat([*self.messages, question]), into=pieces, markdown=self._markdown
            )
            tell_finish(self.client)
        except KeyboardInterrupt:
            say("\n(stopped)", lines=True)
        finally:
            if pieces:
                self.turns += [question, {"role": "assistant", "content": "".join(pieces)}]

    def _help(self, _: str) -> None:
        say(HELP, lines=True)

    def _reset(self, _: str) -> None:
        self.turns = []
        say("(started anew)")

    def _set_system(self, text: str) -> None:
        if text:
            self.system = {DEFAULT: None, '""': ""}.get(text, text)
        if self.system is not None:
            say(f"system prompt: {self.system or 'none'}", lines=True)
        else:
            own = self.client.system_prompt
            say(f"system prompt: the server's{f': {own}' if own else ''}", lines=True)

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if not name:
            for one in SETTINGS:
                say(f"{one} {self.client.options.get(one, DEFAULT)}")
            return
        if name not in SETTINGS:
            raise UsageError(f"no setting {name!r} ({nearest(name, list(SETTINGS))})")
        if not value:
            raise UsageError("a value is missing", where=f"/set {name}")
        self._change({name: None if value.strip() == DEFAULT else _number(name, value)})
        say(f"{name} {self.client.options.get(name, DEFAULT)}")

    def _change(self, options: dict[str, Any]) -> None:
        """Ask with these options from now on; None: the server's default."""
        for name, value in options.items():
            self.client.options.pop(name, None)
            if value is not None:
                self.client.options[name] = value

    def _save(self, text: str) -> None:
        path = _path(text, "/save")
        if path.exists() and path != self._file:
            raise OutputExistsError(path, hint="Name another file: /save FILE.")
        written = {
            "model": self.client.model,
            "options": self.client.options,
            "messages": self.messages,
        }
        try:
            write_json(path, written)
        except OSError as error:
            raise UsageError(f"can't be written: {error.strerror}", where=str(path)) from error
        self._file, self._kept = path, list(self.turns)
        say(f"saved: {path}, {len(self.turns)} messages")

    def _load(self, text: str) -> None:
        path = _path(text, "/load")
        if self.turns and self.turns != self._kept:
            raise UsageError(
                f"the conversation at hand is not saved ({len(self.turns)} messages)",
                hint="/save FILE keeps it, /reset leaves it.",
            )
        messages, options = read_saved(path)
        first = messages[0] if messages and messages[0]["role"] == "system" else None
        self.system = None if first is None else str(first["content"])
        self.turns = messages[1:] if first is not None else messages
        self._change({**dict.fromkeys(SETTINGS), **options})
        self._file, self._kept = path, list(self.turns)
        for turn in self.turns:
            say(f"{'> ' if turn['role'] == 'user' else ''}{turn['content']}", lines=True)


def read_saved(path: Path) -> tuple[list[Message], dict[str, Any]]:
    """The messages and the options of a saved conversation. Raises UsageError."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"is no JSON ({error!s:.100})", where=str(path)) from error
    messages = found.get("messages") if isinstance(found, dict) else None
    options = found.get("options", {}) if isinstance(found, dict) else {}
    if not isinstance(messages, list) or not isinstance(options, dict):
        raise UsageError("is no saved conversation: it has no list 'messages'", where=str(path))
    for number, one in enumerate(messages, 1):
        roles = ("system", "user", "assistant") if number == 1 else ("user", "assistant")
        is_turn = isinstance(one, dict) and one.get("role") in roles
        if not is_turn or not isinstance(one.get("content"), str):
            raise UsageError(
                "is no text of the user's or the assistant's, nor a system prompt in front of them",
                where=f"{path}, message {number}",
            )
    checked = {
        name: _number(name, json.dumps(value))
        for name, value in options.items()
        if name in SETTINGS
    }
    kept: list[Message] = [{"role": one["role"], "content": one["content"]} for one in messages]
    return kept, checked


def _path(text: str, command: str) -> Path:
    if not text:
        raise UsageError("name a file", where=command)
    return Path(text).expanduser()


def _number(name: str, text: str) -> Any:
    """A setting's value, within the bounds that this project's server has for it."""
    from pydantic import TypeAdapter, ValidationError

    from tuneserve.serve.api.protocol import ChatRequest

    field = ChatRequest.model_fields[name]
    try:
        return TypeAdapter(field.rebuild_annotation()).validate_json(text, strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UsageError(f"{reason} (got {text!r:.60})", where=f"/set {name}") from error
