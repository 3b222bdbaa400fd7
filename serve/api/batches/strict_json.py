"""JSON of a line, as the standard has it (RFC 8259), with a reason where it is none."""

from __future__ import annotations

import codecs
import json
import sys
from math import isinf
from typing import Any, NoReturn

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SPACE = b" \t\r\n\v\f"


def is_blank(line: bytes) -> bool:
    """Is there nothing but space in a line? A byte order mark says nothing either."""
    return not line.removeprefix(codecs.BOM_UTF8).strip(SPACE)


def read_json_line(line: bytes) -> Any:
    """The value of a line of UTF-8, with a byte order mark or without. Raises ValueError with what
    is wrong, as a sentence."""
    if line.startswith(_UTF_16) or b"\0" in line[:4]:
        raise ValueError("This is UTF-16 or UTF-32; save the file as UTF-8.")
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"It is not UTF-8 (byte {error.start + 1} of the line).") from error
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"It is no JSON: {error.msg} (character {error.pos + 1}).") from error
    except RecursionError as error:
        raise ValueError("It is nested too deeply.") from error
    except _NumberError:
        raise
    except ValueError as error:  # Python's limit, against the time that such a number takes.
        most = sys.get_int_max_str_digits()
        raise ValueError(f"It has a whole number of more than {most} digits.") from error


class _NumberError(ValueError):
    """A number that JSON, or a double, has not."""


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise _NumberError(f"It has a number that is too large: {text[:40]}.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise _NumberError(f"It is no JSON: {name} is no number there.")
