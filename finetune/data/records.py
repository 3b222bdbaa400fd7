"""Records out of files: JSONL, JSON, CSV, TSV, Parquet, Arrow, plain text, folders of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tuneserve.errors import UsageError
from tuneserve.finetune.data import json_text
from tuneserve.finetune.data.columnar import read_columns
from tuneserve.finetune.data.containers import kind_of
from tuneserve.finetune.data.data_files import DataFile, find_data
from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.keys import MARKS
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.data.plain_text import read_text
from tuneserve.finetune.data.raw import RawRecord
from tuneserve.finetune.data.tables import read_csv

Reader = Callable[[Path, Notes, frozenset[str]], Iterator[RawRecord]]

_READERS: dict[str, Reader] = {
    ".jsonl": json_text.read_json, ".ndjson": json_text.read_json, ".json": json_text.read_json,
    ".csv": read_csv, ".tsv": read_csv, ".parquet": read_columns, ".arrow": read_columns,
    ".feather": read_columns, ".txt": read_text, ".md": read_text,
}  # fmt: skip


def read_records(
    path: Path, notes: Notes | None = None, names: frozenset[str] = frozenset()
) -> Iterator[RawRecord]:
    """All records of a file, of what a pattern matches, or of the data files of a folder.

    `names` are keys by which a record is known besides our own. What was left out is added to
    `notes`. Raises UsageError if the path does not exist, or its kind is not known.
    """
    notes = Notes() if notes is None else notes
    found = find_data(path)
    notes.update(found.notes)
    for file in found.files:
        with _told(file.path):
            yield from _file(file, notes, MARKS | names)


def read_objects(path: Path) -> Iterator[RawRecord]:
    """The values of a JSON or JSONL file as they stand: no key tells a record from what holds
    records. Raises UsageError if the file can't be read."""
    with _told(path):
        yield from json_text.read_objects(path, Notes())


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"can't be read: {reason}", where=str(path)) from error


def _file(file: DataFile, notes: Notes, marks: frozenset[str]) -> Iterator[RawRecord]:
    layout = file.layout
    if layout is not None:
        marks = marks | frozenset(layout.columns.values())
    records = _READERS[kind_of(file.path)](file.path, notes, marks)
    limit = None if layout is None else layout.limit
    for raw in itertools.islice(records, limit):
        record = raw.record
        if layout is not None and not isinstance(record, BadRecord):
            record = layout.record(record, notes, raw.place)
        yield RawRecord(raw.place, record, raw.side or file.side, file.name)
    if limit is not None and (left := sum(1 for _ in records)):
        notes.add("not read: more records than num_samples says", str(file.path), left, odd=False)
