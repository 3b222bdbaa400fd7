"""The ways in which templates write the arguments of a call that are no JSON object, as data, found
in what a template rendered of known arguments.

Tagged: Qwen3-Coder's `<parameter=KEY>VALUE</parameter>`, GLM's `<arg_key>KEY</arg_key>
<arg_value>VALUE</arg_value>` and others of their kind, texts without quotes, other values as JSON.
Python: keyword arguments in literals (LFM2). Bare keys: `{KEY:<|"|>TEXT<|"|>,KEY:7}` (Gemma 4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

MARK = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")
"""What may be a token of its own in a form's texts."""


@dataclass(frozen=True)
class Tagged:
    """`key_begin`, a key, `text_begin` (`json_begin` where the value is no text), a value,
    `value_end`; for every argument, nothing or white space between."""

    key_begin: str
    text_begin: str
    json_begin: str
    value_end: str

    @property
    def first(self) -> str:
        """What the arguments begin with, if there are any."""
        return self.key_begin


@dataclass(frozen=True)
class Python:
    """`(KEY=VALUE, …)`."""

    first = "("


@dataclass(frozen=True)
class BareKeys:
    """`{KEY:VALUE,…}`, texts between two `quote`s."""

    quote: str
    first = "{"


ArgumentStyle = Tagged | Python | BareKeys


@dataclass(frozen=True)
class FoundArguments:
    """Arguments in a text: from `start` to `end`."""

    style: ArgumentStyle
    start: int
    end: int


def find_arguments(
    text: str, name_end: int, arguments: Mapping[str, Any], style: ArgumentStyle | None = None
) -> FoundArguments | None:
    """The arguments behind the name that ends at `name_end`, in a way that is not JSON. They are a
    text and a list of one number, in this order. A `style` that is given must be theirs."""
    (text_key, value), (list_key, listed) = arguments.items()
    finders = (_python, _bare_keys, _tagged)
    for find in finders:
        found = find(text, name_end, (text_key, str(value)), (list_key, str(listed)))
        if found and style in (None, found.style):
            return found
    return None


Pair = tuple[str, str]


def _python(text: str, start: int, first: Pair, second: Pair) -> FoundArguments | None:
    written = f"({first[0]}='{first[1]}', {second[0]}={second[1]})"
    for one in (written, written.replace("'", '"')):
        if text.startswith(one, start):
            return FoundArguments(Python(), start, start + len(one))
    return None


def _bare_keys(text: str, start: int, first: Pair, second: Pair) -> FoundArguments | None:
    """In the order of their names."""
    text_pattern = (
        rf"{re.escape(first[0])}:(?P<quote>\W+|{MARK.pattern}){re.escape(first[1])}(?P=quote)"
    )
    list_pattern = re.escape(f"{second[0]}:{second[1]}")
    patterns = (f"{text_pattern},{list_pattern}", f"{list_pattern},{text_pattern}")
    for pattern in patterns:
        if (found := re.compile(rf"\{{{pattern}\}}").match(text, start)) and found["quote"] != '"':
            return FoundArguments(BareKeys(found["quote"]), start, found.end())
    return None


def _tagged(text: str, start: int, first: Pair, second: Pair) -> FoundArguments | None:
    pieces = []
    place = start
    for wanted in (*first, *second):
        found = text.find(wanted, place)
        if found < 0:
            return None
        pieces.append(text[place:found])
        place = found + len(wanted)
    before, text_begin, between, json_begin = pieces
    key_begin = common_end(before, between).strip()
    value_end = common_start(between, text[place:]).rstrip()
    if not key_begin or not value_end.strip() or not text_begin.strip() or '"' in value_end:
        return None
    return FoundArguments(
        Tagged(key_begin, text_begin, json_begin, value_end),
        start + len(before) - len(key_begin),
        place + len(value_end),
    )


def units(text: str) -> list[str]:
    """Marks, words, white space and other characters: what is alike or not as a whole."""
    return re.findall(rf"{MARK.pattern}|\s+|\w+|.", text, re.DOTALL)


def common_start(first: str, second: str) -> str:
    pairs = zip(units(first), units(second), strict=False)
    return "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def common_end(first: str, second: str) -> str:
    pairs = zip(reversed(units(first)), reversed(units(second)), strict=False)
    same = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return "".join(reversed(same))
