"""Values of a record: what is wrong with one, what it is in words, and as text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tuneserve.files import HALF_CHARACTER, is_encodable

_MISSING_VALUES = {"nan", "none", "null", "n/a", "<na>", "undefined"}


class BadRecord(Exception):  # noqa: N818 - a finding about the data, collected and not an error yet
    """One record of a data file can't be used; the text says why."""


@dataclass
class Findings:
    """What is to be said of one record, each sentence once. `odd`: something was left out or
    changed, or may be meant otherwise; `told`: it only informs."""

    odd: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def add(self, text: str, *, odd: bool = True) -> None:
        """Say `text` of the record."""
        said = self.odd if odd else self.told
        if text not in said:
            said.append(text)


def given(value: Any) -> bool:
    """Does a value say anything? Arrow writes None for a key that other rows have, tables write an
    empty text."""
    return value is not None and not (isinstance(value, str | list | dict) and not value)


def present(record: dict[str, Any]) -> dict[str, Any]:
    """The keys whose value is not None."""
    return {key: value for key, value in record.items() if value is not None}


def as_text(value: Any, name: str, findings: Findings) -> str:
    """A value as the text that is trained: numbers, true and false, lists and objects as JSON.

    Raises BadRecord for what is no JSON, or no text in UTF-8.
    """
    if isinstance(value, str):
        return _encodable(value, name)
    kind = json_type(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRecord(f"{name!r} must be text, got {value}, which is no number")
    if not isinstance(value, bool | int | float | list | dict):
        raise BadRecord(f"{name!r} must be text, got {kind}")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise BadRecord(f"{name!r} is {kind} that can't be written as JSON") from None
    key = name.rpartition(".")[2]
    findings.add(f"{kind} as {key!r} is written as JSON text", odd=isinstance(value, list | dict))
    return _encodable(text, name)


def plain_text(value: Any, name: str) -> str:
    """A value that has to be text. Raises BadRecord."""
    if not isinstance(value, str):
        raise BadRecord(f"{name!r} must be text, got {json_type(value)}")
    return _encodable(value, name)


def note_missing_value(text: str, key: str, findings: Findings) -> None:
    """Say that a text looks like what a table writes for a missing value."""
    if text.strip().lower() in _MISSING_VALUES:
        findings.add(f"{key!r} is the text {text.strip()!r}, perhaps a missing value")


def note_line_ends(text: str, findings: Findings) -> None:
    """Say that a text that is learned has carriage returns."""
    if "\r" in text:
        findings.add("an answer has line ends of Windows (\\r\\n): learned as they are")


def from_json(value: Any) -> Any:
    """The list or object that a text holds as JSON, as tables do it; any other value unchanged."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def check_json(value: Any, name: str) -> None:
    """Raise BadRecord for a value that can't be written as JSON in UTF-8."""
    as_text(value, name, Findings())


def json_type(value: Any) -> str:
    """What a JSON value is, in words."""
    names: dict[type, str] = {
        dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number",
        float: "a number", type(None): "nothing",
    }  # fmt: skip
    name = names.get(type(value), type(value).__name__)
    return f"an empty {name.split()[-1]}" if value in ({}, []) else name


def listed(names: Iterable[str]) -> str:
    """Names in a sentence, quoted."""
    return ", ".join(repr(name)[:40] for name in names)


def _encodable(value: str, name: str) -> str:
    if not is_encodable(value):
        raise BadRecord(f"{name!r} {HALF_CHARACTER}")
    return value
