"""Records out of Parquet and Arrow files, in the form that JSON Lines would give them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from tuneserve.finetune.data.containers import kind_of, open_data
from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.data.raw import RawRecord

_ROWS_AT_ONCE = 1024


def read_columns(path: Path, notes: Notes, marks: frozenset[str]) -> Iterator[RawRecord]:
    """The rows of a .parquet, .arrow or .feather file, with their numbers as places.

    What Arrow fills in where a record lacks a key is absent again, maps are objects.
    """
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(path):
            # Arrow believes the offsets in a file: a damaged one would be read out of bounds.
            batch.validate(full=True)
            names = Counter(batch.schema.names)
            if twice := [name for name, count in names.items() if count > 1]:
                yield RawRecord(f"{path}:1", BadRecord(f"two columns are named {twice[0][:40]!r}"))
                return
            types = {field.name: field.type for field in batch.schema}
            for row in batch.to_pylist():
                number += 1
                place = f"{path}:row {number}"
                yield RawRecord(place, _plain_row(row, types, notes, place))
    # A damaged file may give a size that no memory has.
    except (pa.ArrowException, ValueError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = "Parquet" if kind_of(path) == ".parquet" else "an Arrow file"
        problem = BadRecord(f"not {what}: {reason[:120]}")
        yield RawRecord(f"{path}:row {number + 1}" if number else f"{path}:1", problem)


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import ipc, parquet

    packed = path.suffix.lower() not in (".parquet", ".arrow", ".feather")
    with open_data(path) as file:
        source = pa.BufferReader(file.read()) if packed else pa.PythonFile(file, mode="r")
        if kind_of(path) == ".parquet":
            yield from parquet.ParquetFile(source).iter_batches(batch_size=_ROWS_AT_ONCE)
            return
        try:
            reader = ipc.open_file(source)
        except pa.ArrowInvalid:  # the form in which datasets keeps its own
            source.seek(0)
            yield from ipc.open_stream(source)
            return
        for place in range(reader.num_record_batches):
            yield reader.get_batch(place)


def _plain_row(row: dict[str, Any], types: dict[str, Any], notes: Notes, place: str) -> Any:
    try:
        return {
            name: _plain(value, types[name], notes, place)
            for name, value in row.items()
            if value is not None
        }
    except BadRecord as problem:
        return problem


def _plain(value: Any, kind: Any, notes: Notes, place: str) -> Any:
    """A value as JSON has it; `kind` is its Arrow type."""
    from pyarrow import types

    if value is None or isinstance(value, str | bool | int):
        return value
    if types.is_map(kind):
        if len({key for key, _ in value}) < len(value):
            raise BadRecord("a map has a key twice")
        return {
            key: _plain(item, kind.item_type, notes, place)
            for key, item in value
            if item is not None
        }
    if types.is_struct(kind):
        inner = [kind.field(index) for index in range(kind.num_fields)]
        fields = {field.name: field.type for field in inner}
        return {
            key: _plain(item, fields[key], notes, place)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_plain(item, kind.value_type, notes, place) for item in value]
    if isinstance(value, bytes):
        return _text(value, notes, place)
    if isinstance(value, datetime | date | time):
        notes.add("dates are read as text, as ISO 8601 writes them", place, odd=False)
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value


def _text(value: bytes, notes: Notes, place: str) -> Any:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return value  # a picture, say: the next step tells if it is wanted as text
    notes.add("a column of bytes that are UTF-8 is read as text", place, odd=False)
    return text
