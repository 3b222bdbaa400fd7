"""Arguments whose keys and values stand between marks, texts without quotes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tuneserve.chat.argument_styles import Tagged
from tuneserve.chat.thinking import overlap
from tuneserve.serve.chat.call_arguments.values import escaped, to_json, value_of
from tuneserve.serve.chat.schema_ways import types_of

_CDATA, _CDATA_END = "<![CDATA[", "]]>"
"""In which some templates put texts with marks."""


class TaggedReader:
    """Reads `key_begin KEY text_begin VALUE value_end` for every argument. Whether a value is a
    text is said by the style, or else by the function's schema."""

    def __init__(self, style: Tagged, schema: Mapping[str, Any]) -> None:
        self._style = style
        self._schema = schema
        self._behind_key = re.compile(
            f"(?P<text>{_loose(style.text_begin)})|(?P<json>{_loose(style.json_begin)})"
        )
        self._end = style.value_end.strip()
        # White space that the template puts around a value, which is none of it.
        self._before_end = style.value_end[: len(style.value_end) - len(style.value_end.lstrip())]
        self._types: frozenset[str] | None = None  # None: between two arguments
        self._told = 0
        self._in_text = False

    def feed(self, text: str) -> tuple[str, str, bool]:
        written = "" if self._told else "{"
        self._told = self._told or 1
        while True:
            piece, text, goes_on = self._value(text) if self._types is not None else self._key(text)
            written += piece
            if goes_on is not None:
                return (written, text, False) if goes_on else (written + "}", text, True)

    def _key(self, text: str) -> tuple[str, str, bool | None]:
        """(JSON text, rest, None; or whether the arguments go on where more text is needed)"""
        begun = text.lstrip()
        if not begun.startswith(self._style.key_begin):
            return "", text, self._style.key_begin.startswith(begun)
        found = self._behind_key.search(begun, len(self._style.key_begin))
        if found is None or found.end() == len(begun):
            return "", text, True
        key = begun[len(self._style.key_begin) : found.start()].strip()
        if self._style.text_begin != self._style.json_begin:
            self._types = frozenset({"string"} if found["text"] is not None else {"other"})
        else:
            properties = self._schema.get("properties")
            of_key = properties.get(key) if isinstance(properties, Mapping) else None
            self._types = types_of(of_key, self._schema)
        comma = ", " if self._told > 1 else ""
        self._told += 1
        return f"{comma}{to_json(key)}: ", begun[found.end() :], None

    def _value(self, text: str) -> tuple[str, str, bool | None]:
        assert self._types is not None
        if not self._in_text and text.startswith(_CDATA):
            inside, closed, rest = text.removeprefix(_CDATA).partition(_CDATA_END)
            place = rest.find(self._end)
            if not closed or place < 0:
                return "", text, True
            self._types = None
            return to_json(inside), rest[place + len(self._end) :], None
        place = text.find(self._end)
        if place >= 0:
            value = text[:place].removesuffix(self._before_end)
            rest = text[place + len(self._end) :]
            if self._in_text:
                written = escaped(value) + '"'
            else:
                written = to_json(value_of(value, self._types))
            self._types, self._in_text = None, False
            return written, rest, None
        if self._types != {"string"} or (not self._in_text and _CDATA.startswith(text[:9])):
            return "", text, True
        held = max(overlap(text, self._before_end + self._end), overlap(text, self._end))
        shown = text[: len(text) - held]
        opening = "" if self._in_text or not shown else '"'
        self._in_text = self._in_text or bool(shown)
        return opening + escaped(shown), text[len(shown) :], True


def _loose(text: str) -> str:
    """White space within marks is any; that at the end belongs to the form, and no more of it."""
    body = r"\s*".join(re.escape(part) for part in text.split())
    ends = "".join(f"(?:{re.escape(one)})?" for one in text[len(text.rstrip()) :])
    return body + ends
