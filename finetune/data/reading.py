"""Reading examples: every problem of the files is found, and reported at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.files import sha256_text
from tuneserve.finetune.data import pairs
from tuneserve.finetune.data.cleaning import clean_record
from tuneserve.finetune.data.containers import kind_of
from tuneserve.finetune.data.formats import BadRecord, Parsed, optional_name, parse_record
from tuneserve.finetune.data.ids import UniqueIds
from tuneserve.finetune.data.keys import KNOWN, side_of_name
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.data.records import read_records

ID_LENGTH = 16
_TABLES = {".csv": "CSV", ".tsv": "TSV"}
_SHOWN_KEYS = 20


class UnusableError(UsageError):
    """Examples that can't be used, which [data] skip_bad would leave out."""


@dataclass
class Read:
    """Examples of a file, what shapes they had, and the records that can't be used. `keys` are
    its records', where the settings name some."""

    examples: list[Example] = field(default_factory=list)
    shapes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    keys: dict[str, None] = field(default_factory=dict)


def read_examples(
    path: Path, *, system: str = "", fields: Mapping[str, str] | None = None, skip_bad: bool = False
) -> Read:
    """All examples of a file or folder; `fields` maps our names to the file's.

    Raises UnusableError naming the place of every record that can't be used, all in one error;
    with `skip_bad` they are only counted. Raises UsageError if no example is left.
    """
    read = Read()
    ids = UniqueIds()
    fields = fields or {}
    names = frozenset(filter(None, fields.values()))
    for place, record, side, file in read_records(path, read.notes, names):
        try:
            if isinstance(record, BadRecord):
                raise record
            record, notes = clean_record(record, KNOWN | names)
            read.keys |= dict.fromkeys(record if names and isinstance(record, dict) else ())
            record, side = _with_side(record, side, names)
            table = _TABLES.get(kind_of(Path(file)), "")
            parsed, example = _example(record, fields, system, place, table)
        except BadRecord as problem:
            read.problems.append(f"{place}: {problem}")
            continue
        read.shapes[example.shape] += 1
        for note in parsed.notes:
            read.notes.add(note, place)
        for note in (*notes, *parsed.told):
            read.notes.add(note, place, odd=False)
        if example.id:
            given, example = example.id, ids.named(example, file)
            if example.id != given:
                read.notes.add("its id is an earlier record's: it gets another", place, odd=False)
        else:
            example = example.named(sha256_text(example.content_key)[:ID_LENGTH])
        read.examples.append(replace(example, side=side))
    if not read.examples and read.keys:
        check_named(fields, list(read.keys), path)
    for key in _lacking(fields, read.keys) if read.keys else ():
        read.notes.add(
            f"no record has {key.partition('=')[2]!r} ([data] fields: {key})", str(path), odd=False
        )
    if not skip_bad:
        raise_problems(read.problems, len(read.problems) + len(read.examples), where=str(path))
    if not read.examples:
        raise UsageError("holds no usable example", where=str(path), problems=read.problems)
    return read


def check_named(fields: Mapping[str, str], keys: Sequence[str], path: Path) -> None:
    """Raise UsageError for a key that the settings name and that is none of the records' `keys`."""
    lacking = _lacking(fields, keys)
    if not lacking:
        return
    theirs = lacking[0].partition("=")[2]
    shown = ", ".join(map(repr, keys[:_SHOWN_KEYS])) + ", …" * (len(keys) > _SHOWN_KEYS)
    raise UsageError(
        f"there is no column or key {theirs!r} ([data] fields says {', '.join(lacking)}); there "
        f"are: {shown}",
        where=str(path),
        hint="Name one of them: --fields " + lacking[0].replace(theirs, "KEY") + ".",
    )


def _lacking(fields: Mapping[str, str], keys: Collection[str]) -> list[str]:
    """What of `fields` (as ours=theirs) names none of the keys."""
    return [f"{ours}={theirs}" for ours, theirs in fields.items() if theirs not in ("", *keys)]


def _with_side(record: Any, side: str | None, names: frozenset[str]) -> tuple[Any, str | None]:
    """The record without a 'split' that names a side, and the side; else that of its file."""
    own = record.get("split") if isinstance(record, dict) and "split" not in names else None
    named = side_of_name(own) if isinstance(own, str) else None
    if named is None:
        return record, side
    return {key: value for key, value in record.items() if key != "split"}, named


def raise_problems(
    problems: Sequence[str], total: int, *, where: str = "", what: str = "used"
) -> None:
    """Raise one UnusableError for all `problems` ('place: reason'); nothing if there are none."""
    if not problems:
        return
    if len(problems) == 1:
        place, _, message = problems[0].partition(": ")
        raise UnusableError(
            f"{message} (of {total:,} examples the only one that can't be {what})",
            where=place,
            hint="Mend it, or pass --skip-bad to leave it out.",
        )
    raise UnusableError(
        f"{len(problems):,} of {total:,} examples can't be {what}",
        where=where,
        problems=problems,
        hint="Mend them, or pass --skip-bad to leave them out.",
    )


def _renamed(record: Any, fields: Mapping[str, str]) -> Any:
    if not isinstance(record, dict) or not fields:
        return record
    unused = {ours for ours, theirs in fields.items() if not theirs} | set(fields.values())
    kept = {key: value for key, value in record.items() if key not in unused}
    return kept | {ours: record[theirs] for ours, theirs in fields.items() if theirs in record}


def _in_their_words(reason: str, fields: Mapping[str, str]) -> str:
    """A reason with the file's names of the keys beside ours."""
    for ours, theirs in fields.items():
        if theirs not in ("", ours):
            reason = reason.replace(repr(ours), f"{theirs!r} ({ours})")
    return reason


def _shape(parsed: Parsed, record: Any, fields: Mapping[str, str], table: str) -> str:
    """What a record was recognised as; of a table's row, or one whose keys were named, by the names
    that the file has: 'CSV: Frage → Antwort'."""
    keys = pairs.keys_of(parsed.shape, record)
    if keys is None or not (table or fields):
        return parsed.shape
    asked, answered = keys
    names = [f"{fields.get(key, key):.40}" for key in (*asked, answered)]
    return f"{table}{': ' if table else ''}{' + '.join(names[:-1])} → {names[-1]}"


def _example(
    given: Any, fields: Mapping[str, str], system: str, place: str, table: str
) -> tuple[Parsed, Example]:
    record = _renamed(given, fields)
    try:
        parsed = parse_record(record, system=system, chosen=fields)
    except BadRecord as problem:
        raise BadRecord(_in_their_words(str(problem), fields)) from problem
    example = Example(
        id=optional_name(record, "id") or "",
        messages=parsed.messages,
        group=optional_name(record, "group"),
        source=optional_name(record, "source"),
        where=place,
        tools=parsed.tools,
        shape=_shape(parsed, record, fields, table),
    )
    return parsed, example
