"""The records that one JSON value holds: a list, an object around a list, a table of pandas', a
data set with its sides, or a single record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.keys import MARKS, side_of_name
from tuneserve.finetune.data.notes import Notes

Found = tuple[str, Any, str | None]
"""A record's place in the value ('' if it is the value itself), the record, its side."""


def records_in(
    value: Any, marks: frozenset[str], notes: Notes, place: str, name: str = ""
) -> Iterator[Found]:
    """The records of a value; `marks` are keys that only a record has. A BadRecord stands for a
    value that holds none, or several lists of which any might be meant."""
    if isinstance(value, list) and not is_conversation(value):
        for number, item in enumerate(value, start=1):
            yield f"{name}record {number}", as_record(item, notes, place), None
    elif not isinstance(value, dict):
        # A conversation becomes a record; anything else is none, which the next step tells.
        yield "", as_record(value, notes, place), None
    elif (rows := _table(value, marks, notes, place)) is not None:
        for number, row in enumerate(rows, start=1):
            yield f"{name}record {number}", row, None
    elif any(_is_mark(key, value[key], marks) for key in value):
        yield "", value, None
    else:
        yield from _inside(value, marks, notes, place)


def is_conversation(value: Any) -> bool:
    """Is it a list of messages?"""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, dict) and ("role" in item or "from" in item) for item in value)
    )


def as_record(value: Any, notes: Notes, place: str) -> Any:
    """A bare list of messages as a record; any other value as it is."""
    if not is_conversation(value):
        return value
    notes.add("a list of messages without a key is read as one conversation", place, odd=False)
    return {"messages" if "role" in value[0] else "conversations": value}


def _is_mark(key: str, value: Any, marks: frozenset[str]) -> bool:
    """Does the key with this value make the object a record? A list of records under one of our
    own keys doesn't; a key that the settings name is one of a record's."""
    if key not in marks or isinstance(value, dict):
        return False
    return key not in MARKS or is_conversation(value) or not _holds_records(value)


def _holds_records(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and not is_conversation(value)
        and all(isinstance(item, dict) or is_conversation(item) for item in value)
    )


def _table(
    value: Mapping[str, Any], marks: frozenset[str], notes: Notes, place: str
) -> list[dict[str, Any]] | None:
    """The rows of what pandas' to_json and datasets' to_dict write, or None if it is none of it."""
    columns, rows = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(rows, list) and rows:
        if all(isinstance(row, list) and len(row) == len(columns) for row in rows):
            notes.add("a table (columns, data) is read row by row", place, odd=False)
            return [dict(zip(map(str, columns), row, strict=True)) for row in rows]
        return None
    values = list(value.values())
    if not values or not any(key in marks for key in value):
        return None
    if all(isinstance(column, dict) for column in values):
        keys = list(values[0])
        if keys and all(list(column) == keys for column in values):
            notes.add("a table, a column a key, is read row by row", place, odd=False)
            return [{name: column[key] for name, column in value.items()} for key in keys]
        return None
    lists = all(isinstance(column, list) and len(column) == len(values[0]) for column in values)
    cells = [cell for key in value if key in marks for cell in value[key]] if lists else []
    if not cells or not all(
        isinstance(c, str | int | float | None) or is_conversation(c) for c in cells
    ):
        return None
    notes.add("a table, a column a key, is read row by row", place, odd=False)
    return [dict(zip(value, row, strict=True)) for row in zip(*values, strict=True)]


def _inside(
    value: Mapping[str, Any], marks: frozenset[str], notes: Notes, place: str
) -> Iterator[Found]:
    """Records of an object that is none itself."""
    lists = [key for key in value if _holds_records(value[key])]
    objects = [key for key in value if value[key] and isinstance(value[key], dict)]
    parts = [*lists, *(key for key in objects if side_of_name(key))]
    unread = {key for key in value if value[key] not in (None, "", [], {})}
    if parts and all(side_of_name(key) for key in parts):
        for key in parts:
            for name, record, _ in records_in(value[key], marks, notes, place, f"{key} "):
                yield name or key, record, side_of_name(key)
        unread -= set(parts)
    elif len(lists) > 1:
        names = ", ".join(repr(key)[:40] for key in lists[:8])
        yield (
            "",
            BadRecord(
                f"several lists of records, the keys {names}: keep the one that is meant, or write "
                "each into a file of its own"
            ),
            None,
        )
        return
    elif lists:
        yield from records_in(value[lists[0]], marks, notes, place)
        unread.discard(lists[0])
    elif objects and all(
        any(_is_mark(name, value[key][name], marks) for name in value[key]) for key in objects
    ):
        notes.add("an object of records is read record by record", place, odd=False)
        for key in objects:
            yield f"record {key[:60]!r}", value[key], None
        unread -= set(objects)
    elif len(objects) == 1 and not any(isinstance(item, list) and item for item in value.values()):
        yield from records_in(value[objects[0]], marks, notes, place)
        unread.discard(objects[0])
    elif any(isinstance(item, list) for item in value.values()) and len(value) == 1:
        (item,) = value.values()
        yield from records_in(item, marks, notes, place)
        return
    else:
        keys = ", ".join(repr(key)[:40] for key in list(value)[:6]) or "none"
        yield "", BadRecord(f"neither a record nor a list of records: its keys are {keys}"), None
        return
    for key in value:
        if key in unread:
            odd = isinstance(value[key], list | dict) or key.lower() == "system"
            notes.add(f"the key {key[:40]!r} beside the records is not read", place, odd=odd)
