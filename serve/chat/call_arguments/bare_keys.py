"""Arguments like JSON with bare keys, and texts between quotes of their own."""

from __future__ import annotations

from tuneserve.chat.thinking import overlap
from tuneserve.serve.chat.call_arguments.values import escaped, literal, to_json


class BareKeysReader:
    """Reads `{KEY:<|"|>TEXT<|"|>,KEY:[7,{KEY:true}]}`."""

    def __init__(self, quote: str) -> None:
        self._quote = quote
        self._open = ""  # the braces and brackets that are open
        self._in_text = self._at_key = False

    def feed(self, text: str) -> tuple[str, str, bool]:
        written = ""
        if not self._open:
            text = text.lstrip()
            if text and text[0] != "{":
                return "{}", text, True  # a call without arguments
        while text:
            piece, rest = self._step(text)
            if rest == text and not piece:
                break
            written, text = written + piece, rest
            if not self._open:
                return written, text, True
        return written, text, False

    def _step(self, text: str) -> tuple[str, str]:
        """(JSON text, rest); the text itself if more of it is needed."""
        if self._in_text:
            return self._text(text)
        first = text[0]
        if first in "{[":
            self._open += first
            self._at_key = first == "{"
            return first, text[1:]
        if first in "}]":
            self._open = self._open[:-1]
            self._at_key = False
            return first, text[1:]
        if first == ",":
            self._at_key = self._open[-1:] == "{"
            return ", ", text[1:]
        if first.isspace():
            return "", text.lstrip()
        if self._at_key:
            key, colon, rest = text.partition(":")
            if not colon:
                return "", text
            self._at_key = False
            return f"{to_json(key.replace(self._quote, '').strip())}: ", rest
        if text.startswith(self._quote):
            self._in_text = True
            return '"', text.removeprefix(self._quote)
        if self._quote.startswith(text):
            return "", text
        return self._bare(text)

    def _text(self, text: str) -> tuple[str, str]:
        inside, closed, rest = text.partition(self._quote)
        if closed:
            self._in_text = False
            return escaped(inside) + '"', rest
        shown = len(text) - overlap(text, self._quote)
        return escaped(text[:shown]), text[shown:]

    def _bare(self, text: str) -> tuple[str, str]:
        """A number, true, false or null: up to what ends it."""
        end = next((place for place, one in enumerate(text) if one in ",]}"), None)
        if end is None:
            return "", text
        word = text[:end].strip()
        try:
            return to_json(literal(word)), text[end:]
        except ValueError:
            return to_json(word), text[end:]
