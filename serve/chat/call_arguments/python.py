"""Keyword arguments in Python's literals."""

from __future__ import annotations

import re

from tuneserve.serve.chat.call_arguments.values import literal, to_json

_NAME = re.compile(r"\s*,?\s*(?P<name>[^\s=,()\[\]{}'\"]+)\s*=\s*")
_BEHIND_TEXT = re.compile(r"\s*(?:\)\s*(?:[,\]]|\Z)|,\s*[^\s=,()\[\]{}'\"]+\s*=)")
"""What follows a text's closing quote: templates do not escape those within."""


class PythonReader:
    """Reads `(KEY=VALUE, …)`, an argument at a time."""

    def __init__(self) -> None:
        self._begun = False
        self._count = 0

    def feed(self, text: str) -> tuple[str, str, bool]:
        written = ""
        if not self._begun:
            text = text.lstrip()
            if not text:
                return "", "", False
            if text[0] != "(":
                return "{}", text, True  # a call without arguments
            self._begun, written, text = True, "{", text[1:]
        while True:
            if text.lstrip(" ,\n").startswith(")"):
                return written + "}", text.lstrip(" ,\n")[1:], True
            name = _NAME.match(text)
            end = _value_end(text, name.end()) if name else None
            if name is None or end is None:
                return written, text, False
            comma = ", " if self._count else ""
            self._count += 1
            value = _value(text[name.end() : end])
            written += f"{comma}{to_json(name['name'])}: {value}"
            text = text[end:]


def _value(text: str) -> str:
    text = text.strip()
    quoted = text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1
    if quoted and not re.search(r"\\['\"\\]", text):
        return to_json(text[1:-1])
    try:
        return to_json(literal(text))
    except ValueError:
        return to_json(text[1:-1] if quoted else text)


def _value_end(text: str, start: int) -> int | None:
    """Where the value that begins at `start` ends; None if it goes on."""
    if text[start : start + 1] in ("'", '"'):
        return _text_end(text, start)
    depth, quote, escaped = 0, "", False
    for place in range(start, len(text)):
        one = text[place]
        if quote:
            if escaped or one == "\\":
                escaped = not escaped
            elif one == quote:
                quote = ""
        elif one in "'\"":
            quote = one
        elif one in "[{(":
            depth += 1
        elif depth and one in "]})":
            depth -= 1
        elif not depth and one in ",)":
            return place
    return None


def _text_end(text: str, start: int) -> int | None:
    quote = text[start]
    place = text.find(quote, start + 1)
    while place >= 0:
        behind = _BEHIND_TEXT.match(text, place + 1)
        # At the end of what is there, more may follow.
        if behind and (behind.end() < len(text) or behind[0].endswith(("]", ",", "="))):
            return place + 1
        place = text.find(quote, place + 1)
    return None
