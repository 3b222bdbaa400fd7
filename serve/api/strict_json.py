"""JSON as the standard has it (RFC 8259), with a reason where it is none: one value of each name,
numbers that a double has, and as much structure as a request can need."""

from __future__ import annotations

import codecs
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import isinf
from typing import Any, NoReturn

import numpy as np

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SPACE = b" \t\r\n\v\f"


def is_blank(line: bytes) -> bool:
    """Is there nothing but space in a line? A byte order mark says nothing either."""
    return not line.removeprefix(codecs.BOM_UTF8).strip(SPACE)


NAMED = 4
"""What reading a value with a name costs, in values of a list."""


FEW = 4
"""Brackets of a text that are not looked at one by one, and as many times 25 other marks."""


@dataclass(frozen=True)
class Amount:
    """How many lists and objects, and values in all."""

    containers: int = 0
    values: int = 0


@dataclass(frozen=True)
class JsonLimits:
    """What the structure of a text may come to: levels of lists and objects in each other, lists
    and objects, values in all (an object's value counts as NAMED). A text of a few MB can otherwise
    hold millions of them, each of which costs a hundred times its length."""

    depth: int
    containers: int
    values: int

    def check(self, data: bytes) -> None:
        """Raises ValueError, as a sentence, for JSON beyond the limits. It is looked at before it
        is read."""
        most = _at_most(data)
        if most.containers > min(self.depth, self.containers) or most.values > self.values:
            self._counted(data, Amount())

    def add(self, data: bytes, before: Amount) -> Amount:
        """What the JSON `before` it and this come to; the limits are those of both together. Raises
        ValueError as `check` does. One of few marks counts for as many as it may have."""
        most = _at_most(data)
        if most.containers > min(FEW, self.depth) or most.values > 25 * FEW:
            return self._counted(data, before)
        return self._within(most, before)

    def _counted(self, data: bytes, before: Amount) -> Amount:
        marks = _marks(data)
        opening = (marks == ord("[")) | (marks == ord("{"))
        containers = int(np.count_nonzero(opening))
        commas, colons = (int(np.count_nonzero(marks == ord(mark))) for mark in ",:")
        values = containers + commas + (NAMED - 1) * colons
        total = self._within(Amount(containers, values), before)
        closing = (marks == ord("]")) | (marks == ord("}"))
        levels = np.cumsum(opening.astype(np.int32) - closing.astype(np.int32), dtype=np.int32)
        if levels.size and int(levels.max()) > self.depth:
            raise ValueError(f"It is nested more than {self.depth} levels deep.")
        return total

    def _within(self, more: Amount, before: Amount) -> Amount:
        total = Amount(before.containers + more.containers, before.values + more.values)
        it = "With the JSON texts before it, it" if before.containers else "It"
        if total.containers > self.containers:
            raise ValueError(f"{it} has more than {self.containers} lists and objects.")
        if total.values > self.values:
            raise ValueError(f"{it} has more than {self.values} values.")
        return total


def _at_most(data: bytes) -> Amount:
    """What JSON comes to if all its marks stand outside of texts."""
    opened = data.count(b"[") + data.count(b"{")
    return Amount(opened, opened + data.count(b",") + (NAMED - 1) * data.count(b":"))


class _Texts:
    """The texts of one request that hold JSON, so far."""

    def __init__(self, limits: JsonLimits) -> None:
        self.limits = limits
        self.amount = Amount()


_TEXTS: ContextVar[_Texts | None] = ContextVar("json_texts", default=None)


@contextmanager
def json_texts_within(limits: JsonLimits) -> Iterator[None]:
    """In the block, which reads one request, the texts given to `check_json_text` keep the limits
    together."""
    token = _TEXTS.set(_Texts(limits))
    try:
        yield
    finally:
        _TEXTS.reset(token)


def check_json_text(text: str) -> None:
    """Look at a text of a request before it is read as JSON. Raises ValueError, as a sentence, if
    it goes beyond what is left of the limits. There are none outside of `json_texts_within`."""
    if texts := _TEXTS.get():
        texts.amount = texts.limits.add(text.encode("utf-8", "surrogatepass"), texts.amount)


def _marks(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Brackets, commas and colons outside of texts, in their order."""
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Only quotes, which begin and end texts, and the marks themselves are left.
    left = np.frombuffer(plain.translate(None, _NO_MARKS), dtype=np.uint8)
    inside = np.bitwise_xor.accumulate((left == ord('"')).astype(np.uint8))
    marks: np.ndarray[Any, np.dtype[np.uint8]] = left[(inside == 0) & (left != ord('"'))]
    return marks


_NO_MARKS = bytes(byte for byte in range(256) if byte not in b'"[]{},:')


def read_json(data: bytes) -> Any:
    """The value of UTF-8, with a byte order mark or without. Raises ValueError with what is wrong,
    as a sentence."""
    if data.startswith(_UTF_16) or b"\0" in data[:4]:
        raise ValueError("This is UTF-16 or UTF-32; it must be UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"It is not UTF-8 (byte {error.start + 1}).") from error
    try:
        return json.loads(
            text, parse_float=_finite, parse_constant=_no_constant, object_pairs_hook=_once
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"It is no JSON: {error.msg} (character {error.pos + 1}).") from error
    except RecursionError as error:
        raise ValueError("It is nested too deeply.") from error
    except _ContentError:
        raise
    except ValueError as error:  # Python's limit, against the time that such a number takes.
        most = sys.get_int_max_str_digits()
        raise ValueError(f"It has a whole number of more than {most} digits.") from error


class _ContentError(ValueError):
    """A number that JSON, or a double, has not; a name that is there twice."""


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise _ContentError(f"It has a number that is too large: {text[:40]}.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise _ContentError(f"It is no JSON: {name} is no number there.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen = Counter(name for name, _ in pairs)
        twice = next(name for name, times in seen.items() if times > 1)
        raise _ContentError(f"It has the name {twice[:40]!a} twice in one object.")
    return made
