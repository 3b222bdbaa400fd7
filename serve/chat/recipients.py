"""Answers whose messages are addressed, as Functionary 3.2 writes them: `all\\n` and the text, or a
function's name, a line break and its arguments; `>>>` stands between two. The prompt ends with the
first `>>>`.
"""

from __future__ import annotations

import re

from tuneserve.chat.call_formats import CallForm
from tuneserve.chat.thinking import is_cut_within, overlap
from tuneserve.serve.chat.call_arguments import ObjectEnd
from tuneserve.serve.chat.parts import CallArguments, CallBegin, Content, Part, call_id

_NAME = re.compile(r"[\w.-]{0,64}\s*\Z")


class RecipientReader:
    """Splits growing text of such messages, as PartReader does other text. `calls`: tools were
    offered; if not, a call is text. `begun`: the answer goes on in a text."""

    plain = False

    def __init__(self, form: CallForm, *, calls: bool, begun: bool = False) -> None:
        self._form = form
        self._calls = calls
        self._held = ""
        self._kind: type[Content | CallArguments] | None = Content if begun else None
        self._end = ObjectEnd()
        self._ended = False

    @property
    def in_call(self) -> bool:
        """Is a call begun whose arguments have not ended?"""
        return self._kind is CallArguments and not self._ended

    def feed(self, text: str) -> list[Part]:
        """The parts that `text` completes or continues."""
        self._held += text
        parts: list[Part] = []
        while self._held and (self._header(parts) if self._kind is None else self._body(parts)):
            pass
        return parts

    def finish(self, *, cut: bool = False, stop: str | None = None) -> list[Part]:
        """What is held when the answer ends; the beginning of a message is nothing, and neither is
        the beginning of a mark in an answer that was `cut`, or that a `stop` string has cut."""
        rest, self._held = self._held, ""
        cut = cut or (stop is not None and is_cut_within([self._form.begin], rest, stop))
        return [Content(rest)] if rest and self._kind is Content and not cut else []

    def _header(self, parts: list[Part]) -> bool:
        name, ended, after = self._held.partition(self._form.middle)
        if not _NAME.match(name):
            self._kind = Content  # it is addressed to nobody
            return True
        if not ended:
            return False
        name = name.strip()
        if name == self._form.text_name:
            self._kind, self._held = Content, after
        elif self._calls:
            self._kind, self._held = CallArguments, after
            self._end, self._ended = ObjectEnd(), False
            parts.append(CallBegin(call_id(), name))
        else:
            self._kind = Content
        return True

    def _body(self, parts: list[Part]) -> bool:
        if self._kind is CallArguments and not self._ended:
            end = self._end.find(self._held)
            parts.append(CallArguments(self._held[:end]))
            self._held = "" if end is None else self._held[end:]
            self._ended = end is not None
            return self._ended
        text, found, after = self._held.partition(self._form.begin)
        if not self._calls:
            text, found, after = self._held, "", ""
        elif not found:
            shown = len(text) - overlap(text, self._form.begin)
            text, after = text[:shown], text[shown:]
        if text and self._kind is Content:
            parts.append(Content(text))
        self._held = after
        if found:
            self._kind = None
        return bool(found)
