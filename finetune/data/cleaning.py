"""What a record's keys, id and cells mean where a tool wrote them in its own manner."""

from __future__ import annotations

import math
from typing import Any

from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.keys import TAUGHT, matched_keys


def clean_record(record: Any, known: frozenset[str]) -> tuple[Any, list[str]]:
    """The record with the keys it means and an id that is text, and what was changed in it.

    Raises BadRecord for a NUL character, at which llama.cpp ends a text.
    """
    notes: list[str] = []
    if not isinstance(record, dict):
        return record, notes
    if place := _nul_in(record):
        raise BadRecord(f"{place!r} holds a NUL character (U+0000): take it out")
    if found := matched_keys(record, known):
        record = {found.get(key, key): value for key, value in record.items()}
        notes += [f"the key {key!r} is read as {name!r}" for key, name in found.items()]
    for key, value in record.items():
        if isinstance(value, float) and math.isnan(value) and key not in TAUGHT:
            record = {**record, key: None}
            notes.append(f"{key!r} is NaN and read as an empty cell")
    name = record.get("id")
    if isinstance(name, float):
        record = {**record, "id": f"{name:.0f}" if name.is_integer() else repr(name)}
    elif isinstance(name, bool | list | dict) or (isinstance(name, str) and not _encodable(name)):
        record = {key: value for key, value in record.items() if key != "id"}
        notes.append("an id that is neither text nor a number is not used")
    return record, notes


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _nul_in(record: Any) -> str | None:
    """The place of a key or text with a NUL in it. Lists may be nested by the thousand."""
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(record, ())]
    while waiting:
        value, place = waiting.pop()
        if isinstance(value, str):
            if "\0" in value:
                return "".join(
                    f"[{part}]" if isinstance(part, int) else f".{part}" for part in place
                )[1:]
        elif isinstance(value, dict):
            waiting += [(item, (*place, str(key))) for key, item in value.items()]
            waiting += [(key, (*place, key)) for key in value if "\0" in str(key)]
        elif isinstance(value, list):
            waiting += [(item, (*place, number)) for number, item in enumerate(value)]
    return None
