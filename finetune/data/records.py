"""Records out of files: JSONL, JSON, CSV, TSV, Parquet, plain text, folders of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.finetune.data.formats import BadRecord, json_type

RawRecord = tuple[str, Any]
"""Its place ('file:line'), and the record, or a BadRecord that says why there is none."""

# csv's default of 128 KiB is less than a long conversation.
_CSV_FIELD_LIMIT = 64 * 1024 * 1024


def read_records(path: Path) -> Iterator[RawRecord]:
    """All records of a file, or of the data files of a folder in the order of their names.

    Raises UsageError if the path does not exist, or its kind is not known.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in _READERS)
        if not files:
            raise UsageError(f"no data file in it ({_known()})", where=str(path))
        for file in files:
            yield from read_records(file)
        return
    reader = _READERS.get(path.suffix.lower())
    if not path.exists():
        raise UsageError(
            "no such data file",
            where=str(path),
            hint="Set [data] file or --file; `tuneserve data sentiment` makes a demo file.",
        )
    if reader is None:
        raise UsageError(f"not a kind of file that is read here ({_known()})", where=str(path))
    try:
        yield from reader(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"can't be read: {reason}", where=str(path)) from error


def _known() -> str:
    return f"known are {', '.join(_READERS)}"


def _jsonl(path: Path) -> Iterator[RawRecord]:
    for number, line in enumerate(_content(path).split(b"\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", _parse_json(line)


def _json(path: Path) -> Iterator[RawRecord]:
    value = _parse_json(_content(path))
    if isinstance(value, BadRecord):
        yield f"{path}:1", value
        return
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))  # {"data": [...]}
    if not isinstance(value, list):
        yield f"{path}:1", BadRecord(f"expected a list of records, got {json_type(value)}")
        return
    for number, record in enumerate(value, start=1):
        yield f"{path}:record {number}", record


def _content(path: Path) -> bytes:
    """A file's bytes without the mark that Windows puts in front of UTF-8."""
    return path.read_bytes().removeprefix(b"\xef\xbb\xbf")


def _parse_json(data: bytes) -> Any:
    """The JSON value, or a BadRecord."""
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRecord(f"not UTF-8 (byte {error.start + 1})")
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return BadRecord(f"not JSON: {error.msg} at {line}column {error.colno}")
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits, thousands of nested lists.
        return BadRecord(f"not usable JSON: {str(error)[:80]}")


def _csv(path: Path) -> Iterator[RawRecord]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield f"{path}:1", BadRecord(f"not UTF-8 (byte {error.start + 1} of the file)")
        return
    csv.field_size_limit(_CSV_FIELD_LIMIT)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in rows:
            place = f"{path}:{rows.line_num}"
            if None in row:
                yield place, BadRecord("more fields than the header has columns")
            else:
                yield place, {key: value or None for key, value in row.items()}
    except csv.Error as error:
        yield f"{path}:{rows.line_num}", BadRecord(f"not CSV: {error}")


def _parquet(path: Path) -> Iterator[RawRecord]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        yield f"{path}:1", BadRecord(f"not Parquet: {str(error).splitlines()[0][:120]}")
        return
    for number, row in enumerate(rows, start=1):
        yield f"{path}:row {number}", row


def _plain(path: Path) -> Iterator[RawRecord]:
    """A paragraph (what blank lines set apart) is an example."""
    first, lines = 1, list[str]()
    for number, line in enumerate([*_content(path).split(b"\n"), b""], start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield f"{path}:{number}", BadRecord(f"not UTF-8 (byte {error.start + 1} of the line)")
            continue
        if text.strip():
            first = first if lines else number
            lines.append(text.rstrip("\r"))
        elif lines:
            yield f"{path}:{first}", {"text": "\n".join(lines)}
            lines = []


_READERS: dict[str, Callable[[Path], Iterator[RawRecord]]] = {
    ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv,
    ".parquet": _parquet, ".txt": _plain,
}  # fmt: skip
