"""Text from data, models and clients for a terminal: what would act or hide is written out.

A terminal obeys control characters (ESC sequences clear the screen, hide text, set the clipboard),
bidirectional overrides show text in another order than it has, and characters of no width show
nothing at all. They are written as `\\x1b`, `\\u202e` or `\\U000e0041`.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

_ZWNJ, _ZWJ, _TEXT_STYLE, _EMOJI_STYLE = "\u200c", "\u200d", "\ufe0e", "\ufe0f"
_JOINERS = {_ZWNJ, _ZWJ, _TEXT_STYLE, _EMOJI_STYLE}
# C0, DEL and C1; surrogates; line and paragraph separators; and what Unicode calls default
# ignorable (DerivedCoreProperties.txt), with the annotation characters and the blank Braille cell.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u2800\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def visible(text: str, *, keep: str = "\n\t", joiners: bool = True, before: str = "") -> str:
    """The text with what a terminal would obey or not show as escapes, but for the characters of
    `keep`. `joiners`: what joins two letters or styles an emoji stays where it does so, behind a
    character that is no ASCII; `before` is the text in front of this one."""

    def written(found: re.Match[str]) -> str:
        character = found[0]
        if character in keep:
            return character
        place = found.start()
        previous = text[place - 1] if place else before[-1:]
        if joiners and character in _JOINERS and _joins(previous, character):
            return character
        return escape(character)

    return _HIDDEN.sub(written, text)


def hidden_parts(text: str) -> list[tuple[str, bool]]:
    """The text in runs of (as shown, is it an escape?): every character that could act or hide is
    one, but for line breaks and tabs."""
    parts: list[tuple[str, bool]] = []
    end = 0
    for found in _HIDDEN.finditer(text):
        if found[0] in "\n\t":
            continue
        parts += [(text[end : found.start()], False), (escape(found[0]), True)]
        end = found.end()
    parts.append((text[end:], False))
    return [part for part in parts if part[0]]


def one_line(text: str) -> str:
    """`visible` for a line of a log: nothing in it begins another one."""
    return visible(text, keep="")


def json_text(value: Any) -> str:
    """JSON whose escapes leave nothing for a terminal to obey; programs read the same value."""
    written = json.dumps(value, ensure_ascii=False)
    return _HIDDEN.sub(lambda found: json.dumps(found[0])[1:-1], written)


def escape(character: str) -> str:
    """A character as Python writes it: `\\x1b`, `\\u202e`, `\\U000e0041`, `\\n`."""
    return character.encode("unicode_escape").decode()


def _joins(previous: str, character: str) -> bool:
    if not previous or (_HIDDEN.match(previous) and previous != _EMOJI_STYLE):
        return False
    # Keycaps (1️⃣) are digits with a style; nothing else in ASCII is joined or styled.
    return not previous.isascii() or (character == _EMOJI_STYLE and previous in "0123456789#*")


class Visible(logging.Formatter):
    """A log record as one visible line; lines of a traceback stand below it, indented."""

    def format(self, record: logging.LogRecord) -> str:
        message = one_line(record.getMessage())
        if not record.exc_info:
            return message
        return visible(f"{message}\n{self.formatException(record.exc_info)}").replace("\n", "\n  ")
