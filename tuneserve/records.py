"""JSON files that one release writes and another reads: the version of their form, and types for
what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import check_regular, check_size

Number = int | float
_MOST_OF_A_RECORD, _MOST_OF_ANSWERS = 256 << 20, 4 << 30  # bytes, which are read into memory
_MOST_DIGITS = 300
T = TypeVar("T")


class Record(BaseModel):
    """A typed part of a JSON file. Keys that this release doesn't know are kept.

    A field that is added without a new schema number needs a default: files written before it
    are read too.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    def to_json(self) -> dict[str, Any]:
        """The keys that were given, unknown ones included; defaults are left out."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def read_versioned(path: Path, newest: int, *, hint: str) -> dict[str, Any]:
    """The JSON object in a file that tuneserve wrote; its "schema" is at most `newest`.

    Raises FileNotFoundError, TuneserveError with `hint` if the file is damaged, UsageError if a
    newer release wrote it.
    """
    try:
        text = _content(path, hint, _MOST_OF_A_RECORD).decode("utf-8-sig")
        content = json.loads(text, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise TuneserveError(
            f"not valid JSON ({error.msg})", where=f"{path}:{error.lineno}", hint=hint
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, endless digits or brackets
        raise TuneserveError(f"not valid JSON ({error})", where=str(path), hint=hint) from error
    if not isinstance(content, dict):
        raise TuneserveError("holds no JSON object", where=str(path), hint=hint)
    if schema_of(content, path, hint=hint) > newest:
        raise UsageError(
            f"a newer tuneserve wrote this file: its schema is {content['schema']}, this release "
            f"reads schemas up to {newest}",
            where=str(path),
            hint="Upgrade tuneserve (pip install --upgrade tuneserve), or take another run.",
        )
    return content


def _whole(digits: str) -> int:
    """A whole number that fits a float, as all that tuneserve writes do."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _content(path: Path, hint: str, most: int) -> bytes:
    """A file's bytes. Raises TuneserveError for what is no file, as a pipe or a device of which
    reading may have no end, and for one of more than `most` bytes, larger than any that tuneserve
    writes; FileNotFoundError."""
    try:
        check_regular(path, error=TuneserveError, hint="Remove it.")
        check_size(path, most, error=TuneserveError, hint=hint)
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:  # a directory, a link to itself
        raise TuneserveError(
            f"can't be read: {error.strerror}", where=str(path), hint=hint
        ) from error


def read_numbered_lines(path: Path, *, hint: str) -> list[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file that tuneserve wrote, one a line, each with the number of its line
    (from 1). Raises TuneserveError naming the file and the line that is damaged, or the file that
    is missing."""
    rows = []
    try:
        lines = _content(path, hint, _MOST_OF_ANSWERS).split(b"\n")
    except FileNotFoundError as error:
        raise TuneserveError("is missing", where=str(path), hint=hint) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TuneserveError(
                f"not valid JSON ({error})", where=f"{path}:{number}", hint=hint
            ) from error
        if not isinstance(row, dict):
            raise TuneserveError("holds no JSON object", where=f"{path}:{number}", hint=hint)
        rows.append((number, row))
    return rows


def schema_of(content: dict[str, Any], path: Path, *, hint: str = "") -> int:
    """The version of the content's form; 0 where it has none. Raises TuneserveError for a
    "schema" that is no whole number."""
    schema = content.get("schema", 0)
    if type(schema) is not int or schema < 0:
        raise TuneserveError(f"{schema!r} is no schema number", where=str(path), hint=hint)
    return schema


def parse(kind: type[T], content: Any, *, where: str, hint: str) -> T:
    """The content as `kind`, a Record or a dataclass. Raises TuneserveError listing what is missing
    or of the wrong type."""
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise TuneserveError(
            "is not in the form in which tuneserve writes it",
            where=where,
            problems=[
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors()
            ],
            hint=hint,
        ) from error
