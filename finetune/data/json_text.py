"""Records out of JSON text: one a line, one after another, or a document that holds them.

Which of these a file is, is told by its content: JSON Lines are often called .json, and a list
.jsonl.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tuneserve.finetune.data.containers import kind_of, open_data
from tuneserve.finetune.data.conversations import CONVERSATION_KEYS
from tuneserve.finetune.data.encodings import MARK_LENGTH, encoding_by_mark, encoding_note
from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.json_documents import as_record, is_conversation, records_in
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.data.raw import RawRecord

Line = tuple[int, bytes]
_RecordsOf = Callable[[list[tuple[int, Any]]], Iterator[RawRecord]]
"""From JSON values, with the lines that they begin on, to records."""
_WHITE_SPACE = re.compile(r"\s*")


def read_json(path: Path, notes: Notes, marks: frozenset[str]) -> Iterator[RawRecord]:
    """The records of a .json or .jsonl file, whatever of the two it is; `marks` are the keys by
    which a record is told from what holds records.

    A record's place is its line if it is a text of its own, else its number in its list.
    """
    yield from _read(path, notes, lambda values: _records(path, values, notes, marks))


def read_objects(path: Path, notes: Notes) -> Iterator[RawRecord]:
    """The values of a .json or .jsonl file as they stand, whatever their keys are: its lines or
    texts, or the items of the list that it is."""
    yield from _read(path, notes, lambda values: _items(path, values))


def _read(path: Path, notes: Notes, records_of: _RecordsOf) -> Iterator[RawRecord]:
    with open_data(path) as file:
        lines = _lines(path, file, notes)
        start = _up_to_second(lines)
        alone = next((parse_json(line) for _, line in start if line.strip()), None)
        if isinstance(alone, dict) and sum(bool(line.strip()) for _, line in start) > 1:
            yield from _each_line(path, itertools.chain(start, lines), notes)
            return
        start += lines
    values = _values(start)
    if not isinstance(values, RawRecord):
        yield from records_of(values)
    elif not isinstance(alone, BadRecord) or _some_are_records(start):
        yield from _each_line(path, start, notes)
    else:
        yield values._replace(place=f"{path}:{values.place}")


def parse_json(data: bytes) -> Any:
    """The JSON value, or a BadRecord."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        return BadRecord(f"not UTF-8 (byte {error.start + 1})")
    except (ValueError, RecursionError) as error:
        return _broken(error)


def _lines(path: Path, file: BinaryIO, notes: Notes) -> Iterator[Line]:
    """All lines as UTF-8 without their ends, with their numbers."""
    start = file.read(MARK_LENGTH)
    encoding = encoding_by_mark(start)
    if encoding in (None, "utf-8-sig"):
        *before, last = start.removeprefix(codecs.BOM_UTF8).split(b"\n")
        for number, line in enumerate(itertools.chain(before, [last + file.readline()], file), 1):
            yield number, line.removesuffix(b"\n")
        return
    data = start + file.read()
    with contextlib.suppress(UnicodeDecodeError):  # then the lines are no JSON, and told as such
        data = data.decode(str(encoding)).encode("utf-8")
        notes.add(encoding_note(str(encoding).upper()), str(path), odd=False)
    yield from enumerate(data.split(b"\n"), start=1)


def _up_to_second(lines: Iterator[Line]) -> list[Line]:
    """The first lines, to the second one that isn't blank."""
    found: list[Line] = []
    filled = 0
    for line in lines:
        found.append(line)
        filled += bool(line[1].strip())
        if filled == 2:
            break
    return found


def _each_line(path: Path, lines: Iterable[Line], notes: Notes) -> Iterator[RawRecord]:
    for number, line in lines:
        if line.strip():
            place = f"{path}:{number}"
            yield RawRecord(place, as_record(parse_json(line), notes, place))


def _some_are_records(lines: Iterable[Line]) -> bool:
    """Is one of the lines a record of its own? In a document laid out in lines, none is."""
    return any(line.startswith(b"{") and isinstance(parse_json(line), dict) for _, line in lines)


def _values(lines: list[Line]) -> list[tuple[int, Any]] | RawRecord:
    """The JSON values of a text, one after another, with the lines they begin on; or what is wrong,
    with its line as place."""
    data = b"\n".join(line for _, line in lines)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        return RawRecord(str(number), BadRecord(f"not UTF-8 (byte {error.start + 1} of the file)"))
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    found: list[tuple[int, Any]] = []
    number, counted, end = 1, 0, 0
    while True:
        start = _skip(text, end)
        number += text.count("\n", counted, start)
        counted = start
        if start == len(text):
            return found
        try:
            value, end = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            return RawRecord(str(error.lineno), _broken(error))
        except (ValueError, RecursionError) as error:
            return RawRecord(str(number), _broken(error))
        found.append((number, value))


def _skip(text: str, start: int) -> int:
    match = _WHITE_SPACE.match(text, start)
    return match.end() if match else start


def _records(
    path: Path, values: list[tuple[int, Any]], notes: Notes, marks: frozenset[str]
) -> Iterator[RawRecord]:
    if len(values) > 1 and all(isinstance(v, list) and not is_conversation(v) for _, v in values):
        values = [(values[0][0], [item for _, value in values for item in value])]
    if len(values) > 1 or (values and _is_line(path, values[0][1])):
        for number, value in values:
            place = f"{path}:{number}"
            yield RawRecord(place, as_record(value, notes, place))
        return
    for number, value in values:
        for name, record, side in records_in(value, marks, notes, f"{path}:{number}"):
            yield RawRecord(f"{path}:{name or number}", record, side)


def _items(path: Path, values: list[tuple[int, Any]]) -> Iterator[RawRecord]:
    if len(values) == 1 and isinstance(values[0][1], list):
        for number, item in enumerate(values[0][1], start=1):
            yield RawRecord(f"{path}:record {number}", item)
        return
    for number, value in values:
        yield RawRecord(f"{path}:{number}", value)


def _is_line(path: Path, value: Any) -> bool:
    """Is the only value of a file one line of JSON Lines with a conversation, not a document?"""
    named = kind_of(path) in (".jsonl", ".ndjson") and isinstance(value, dict)
    return named and any(key in CONVERSATION_KEYS for key in value)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """An object; a BadRecord in its place if a key is there twice, in it or in what it holds."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        return BadRecord(f"the key {twice[:40]!r} is there twice")
    for value in found.values():
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, BadRecord):
                return item
    return found


def _broken(error: Exception) -> BadRecord:
    if isinstance(error, json.JSONDecodeError):
        return BadRecord(f"not JSON: {error.msg} at column {error.colno}")
    # Numbers of thousands of digits, thousands of nested lists.
    return BadRecord(f"not usable JSON: {str(error)[:80]}")
