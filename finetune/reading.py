"""Reading example files: every problem of a file is found, and reported at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.examples import Example, digest
from finetune.formats import BadRecord, label_of, messages_of
from tuneserve.errors import UsageError

ID_LENGTH = 16


def read_examples(path: Path, *, system: str = "") -> list[Example]:
    """All examples of a JSONL file; blank lines are skipped.

    Raises UsageError naming `file:line` for every line that can't be used, all in one error.
    """
    examples: list[Example] = []
    problems: list[str] = []
    lines_of_ids: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        try:
            record = _parse(line)
            example = _example(record, system, where)
            if label_of(record, "id") and example.id in lines_of_ids:
                raise BadRecord(f"id {example.id!r} is taken by line {lines_of_ids[example.id]}")
        except BadRecord as problem:
            problems.append(f"{where}: {problem}")
            continue
        lines_of_ids.setdefault(example.id, number)
        examples.append(example)
    _raise_problems(path, problems, len(problems) + len(examples))
    if not examples:
        raise UsageError("holds no examples", where=str(path))
    return examples


def _raise_problems(path: Path, problems: list[str], total: int) -> None:
    if not problems:
        return
    if len(problems) == 1:
        where, _, message = problems[0].partition(": ")
        raise UsageError(message, where=where)
    raise UsageError(
        f"{len(problems)} of {total} examples can't be used", where=str(path), problems=problems
    )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(
            "no such data file",
            where=str(path),
            hint="Set [data] file or --file; `tuneserve data sentiment` makes a demo file.",
        ) from None
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRecord(f"not UTF-8 (byte {error.start + 1} of the line)") from None
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits, thousands of nested lists.
        raise BadRecord(f"not usable JSON: {str(error)[:80]}") from None


def _example(record: Any, system: str, where: str) -> Example:
    messages = messages_of(record, system=system)
    example = Example(
        id="",
        messages=messages,
        group=label_of(record, "group"),
        source=label_of(record, "source"),
        where=where,
    )
    own = label_of(record, "id") or digest(example.content_key)[:ID_LENGTH]
    return Example(own, messages, example.group, example.source, where)
