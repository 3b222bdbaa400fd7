"""JSON as the standard has it (RFC 8259), with a reason where it is none: one value of each name,
numbers that a double has, and as much structure as a request can need."""

from __future__ import annotations

import codecs
import json
import sys
from collections import Counter
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
        opened = data.count(b"[") + data.count(b"{")
        most = opened + data.count(b",") + (NAMED - 1) * data.count(b":")
        if opened <= min(self.depth, self.containers) and most <= self.values:
            return
        marks = _marks(data)
        opening = (marks == ord("[")) | (marks == ord("{"))
        containers = int(np.count_nonzero(opening))
        if containers > self.containers:
            raise ValueError(f"It has more than {self.containers} lists and objects.")
        commas, colons = (int(np.count_nonzero(marks == ord(mark))) for mark in ",:")
        if containers + commas + (NAMED - 1) * colons > self.values:
            raise ValueError(f"It has more than {self.values} values.")
        closing = (marks == ord("]")) | (marks == ord("}"))
        levels = np.cumsum(opening.astype(np.int32) - closing.astype(np.int32), dtype=np.int32)
        if levels.size and int(levels.max()) > self.depth:
            raise ValueError(f"It is nested more than {self.depth} levels deep.")


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
