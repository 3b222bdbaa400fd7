"""Records out of CSV as spreadsheets and help desks write it."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.finetune.data.containers import kind_of, read_data
from tuneserve.finetune.data.encodings import decode, encoding_note
from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.keys import KNOWN, TAUGHT
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.data.raw import RawRecord

# csv's default of 128 KiB is less than a long conversation.
_FIELD_LIMIT = 64 * 1024 * 1024
_DELIMITERS = ",;\t|"
# A title and blank lines may stand above the header.
_HEADER_WITHIN = 6
_UNNAMED = re.compile(r"(unnamed: \d+)?", re.IGNORECASE)
_INDEX = re.compile(r"\d+(\.0)?")
# A first line for Excel that names the delimiter.
_TOLD = re.compile(r'"?sep=([^\s"])"?\r?\n', re.IGNORECASE)
_PANDAS_EMPTY = ("nan", "NaN")

Row = tuple[int, list[str] | BadRecord]


@dataclass(frozen=True)
class _Layout:
    """How a file is written: its delimiter, white space behind it, the header and its line."""

    delimiter: str
    spaced: bool
    line: int
    header: list[str]


def read_csv(path: Path, notes: Notes, marks: frozenset[str]) -> Iterator[RawRecord]:
    """The rows of a .csv or .tsv file by the names in its header, each at the line it begins on.

    The delimiter is told by the header: the one with which the most of its names are known.
    """
    data = read_data(path)
    try:
        text, encoding = decode(data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"not UTF-8 (byte {error.start + 1} of the file)",
            where=f"{path}:{line}",
            hint="Save it as UTF-8 (spreadsheets call it CSV UTF-8).",
        ) from error
    if encoding is not None:
        notes.add(encoding_note(encoding), str(path), odd=not encoding.startswith("UTF"))
    csv.field_size_limit(_FIELD_LIMIT)
    default = "\t" if kind_of(path) == ".tsv" else ","
    delimiters = _DELIMITERS
    if told := _TOLD.match(text):
        default = delimiters = told[1]
        text = "\n" + text[told.end() :]  # lines keep their numbers
    known = KNOWN | marks
    layout = _layout(text, default, delimiters, known)
    if layout is None:
        return
    if layout.delimiter != default or layout.spaced:
        behind = " and a space" if layout.spaced else ""
        notes.add(f"fields are separated by {layout.delimiter!r}{behind}", str(path), odd=False)
    twice = [name for name, count in Counter(layout.header).items() if name and count > 1]
    if twice:
        problem = BadRecord(f"the header names the column {twice[0][:40]!r} twice")
        yield RawRecord(f"{path}:{layout.line}", problem)
        return
    for line, row in _rows(text, layout.delimiter, spaced=layout.spaced):
        place = f"{path}:{line}"
        if line < layout.line and isinstance(row, list) and any(row):
            notes.add(f"not read, above the header: {' '.join(filter(None, row))[:60]!r}", place)
        elif line <= layout.line:
            continue
        elif isinstance(row, BadRecord):
            yield RawRecord(place, row)
        elif not any(cell.strip() for cell in row):
            notes.add("empty rows are not read", place, odd=False)
        elif [cell.strip() for cell in row] == layout.header:
            notes.add("the header stands there again and is not read", place, odd=False)
        else:
            for name, cell in zip(layout.header, row, strict=False):
                if name and name == cell.strip() and name.lower() not in known:
                    text = f"{name!r} is a column's name and a value in it: is there a header?"
                    notes.add(text, place)
            yield RawRecord(place, _record(layout.header, row, notes, place))


def _record(
    header: list[str], row: list[str], notes: Notes, place: str
) -> dict[str, Any] | BadRecord:
    if any(row[len(header) :]):
        return BadRecord("more fields than the header has columns")
    if len(row) < len(header):
        notes.add("rows with fewer fields than the header has columns", place)
    record: dict[str, Any] = {}
    for name, cell in zip(header, row, strict=False):
        if _UNNAMED.fullmatch(name):
            if cell and not _INDEX.fullmatch(cell):
                return BadRecord(f"a column without a name holds {cell[:40]!r}")
            if cell:
                notes.add("a column of row numbers is not read", place, odd=False)
        elif cell in _PANDAS_EMPTY and name.lower() not in TAUGHT:
            notes.add(f"{cell!r} is read as an empty cell", place, odd=False)
            record[name] = None
        else:
            record[name] = cell or None
    return record


def _rows(text: str, delimiter: str, *, spaced: bool = False) -> Iterator[Row]:
    """Rows with the line each begins on. Reading goes on behind a row that is no CSV."""
    rows = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=spaced, strict=True
    )
    while True:
        line = rows.line_num + 1
        try:
            yield line, next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, BadRecord(f"not CSV: {_words(error, line, rows.line_num)}")


def _layout(text: str, default: str, delimiters: str, known: frozenset[str]) -> _Layout | None:
    """The layout with the most known names in the header; None for a file without a row.

    Below the first row that isn't empty, a header is only what has two known names.
    """
    found: list[tuple[tuple[int, int, int], _Layout]] = []
    for delimiter in sorted(delimiters, key=lambda one: one != default):
        top = itertools.takewhile(lambda row: row[0] <= _HEADER_WITHIN, _rows(text, delimiter))
        filled = ((line, row) for line, row in top if isinstance(row, list) and any(row))
        for place, (line, row) in enumerate(filled):
            header = [cell.strip() for cell in row]
            matches = sum(name in known or name.lower() in known for name in header)
            spaced = len(row) > 1 and all(cell.startswith(" ") for cell in row[1:])
            columns = 0 if matches else len(header)
            if place == 0 or matches > 1:
                layout = _Layout(delimiter, spaced, line, header)
                found.append(((matches, -place, columns), layout))
    return max(found, key=lambda one: one[0])[1] if found else None


def _words(error: csv.Error, first: int, last: int) -> str:
    reason = str(error)
    if "unexpected end" in reason:
        reason = "a quote that opens here is never closed"
    elif "expected after" in reason:
        reason += " (a quote inside of a quoted cell is written twice)"
    return reason + (f", lines {first} to {last}" if last > first else "")
