"""A check of example files: all that would stop a training, or that it would not say aloud.

Reading, duplicates and the split need no base model. With one, the examples are encoded as well, so
that what a chat template or a length does to them is known too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tuneserve.chat.examples import Example
from tuneserve.chat.thinking import REASONING
from tuneserve.errors import UsageError
from tuneserve.finetune.data.kinds import Kind, KindMember, grouped_by_kind, kinds_of
from tuneserve.finetune.data.notes import Note, Notes
from tuneserve.finetune.data.prepare import (
    Prepared,
    add_replay_set,
    add_variants,
    check_fields,
    check_none_is_empty,
    data_files,
    join_reads,
    read_file,
    split_all,
)
from tuneserve.finetune.data.reading import Read
from tuneserve.finetune.preview import Preview
from tuneserve.records import Record
from tuneserve.settings import DataSettings

# What chat templates and vocabularies mark turns and ends with. In a text it becomes a control
# token, or is meant to be one.
_SPECIAL = re.compile(
    r"<\|[\w ]{2,40}\|>|<｜[^<>｜]{2,40}｜>|</?s>|\[/?INST\]"
    r"|<(?:bos|eos|pad|unk|(?:start|end)_of_turn)>"
)
# Of fewer examples, a part of the default size may well be empty by chance.
_FEW = 100


class DataCheck(Record):
    """What a check of example files found.

    `refused` are the records ('file:line: reason') that can't be used, `problems` what is wrong
    with the data as a whole, `notes` what was changed or left out, `hints` what to do next. Without
    a base model `encoded` is False: the kinds don't tell which examples are cut, and `refused` and
    `notes` hold nothing about its template and vocabulary. `ok`: nothing was refused, and no note
    is odd.
    """

    ok: bool
    files: list[str]
    examples: int
    shapes: dict[str, int]
    kinds: list[Kind]
    split: dict[str, int]
    refused: list[str]
    problems: list[str]
    notes: list[Note]
    duplicates: int
    same_prompt_held_out: int
    near_duplicates: int
    cut: int
    encoded: bool
    hints: list[str]


@dataclass
class Gathered:
    """The examples of all files that can be used, split (`prepared.refused` says which records
    can't), what is wrong with the data as a whole, and what to do next."""

    prepared: Prepared
    problems: list[str]
    hints: list[str]


def gather(settings: DataSettings, *, default_fractions: bool = False) -> Gathered:
    """Read and split all files, whatever is wrong with their records.

    `default_fractions`: nobody chose how much is held out, so that a part may be empty where there
    are few examples. Raises UsageError if there is no file to read.
    """
    settings = settings.model_copy(update={"skip_bad": True})
    paths: list[Path] = []
    reads: list[Read] = []
    unread: list[UsageError] = []
    for path, weight in data_files(settings):
        try:
            read = read_file(path, weight, settings)
        except UsageError as error:
            if not error.problems:
                unread.append(error)
                continue
            read = Read(problems=list(error.problems))
        paths.append(path)
        reads.append(read)
    if unread and not reads:
        raise unread[0]
    if all(read.examples for read in reads) and not unread:  # of others the keys are not known
        check_fields(reads, settings)
    examples, notes = join_reads(paths, reads)
    prepared = split_all(examples, reads, notes, settings)
    found = Gathered(prepared, [_in_a_line(error) for error in unread], [])
    if not prepared.shapes:
        return found
    chance = default_fractions and prepared.shapes.total() < _FEW
    steps: tuple[tuple[Callable[[], None], list[str]], ...] = (
        (
            lambda: check_none_is_empty(prepared.split, settings, examples),
            found.hints if chance else found.problems,
        ),
        (lambda: add_replay_set(prepared, settings), found.problems),
        (lambda: add_variants(prepared, settings), found.problems),
    )
    for step, told in steps:
        try:
            step()
        except UsageError as error:
            told.append(_in_a_line(error))
            prepared.refused += error.problems
    return found


def check(settings: DataSettings, gathered: Gathered, encoded: Preview | None = None) -> DataCheck:
    """The check of what `gather` gave; `encoded` is its preview with a base, if there is one."""
    prepared = gathered.prepared
    split = prepared.split
    notes, refused, hints = Notes(), list(prepared.refused), list(gathered.hints)
    notes.update(prepared.notes)
    if encoded is None:
        kinds = _kinds(prepared)
        _note_special_tokens(prepared, notes)
        if kinds:
            hints.append("What a base's template and vocabulary make of it: add --base NAME.")
    else:
        kinds = encoded.kinds
        refused += encoded.problems
    cut = sum(part.truncated for part in encoded.counts.values()) if encoded else 0
    if refused:
        hints.append("Mend what is refused, or train with --skip-bad to leave it out.")
    if cut:
        hints.append("Set a longer max_seq_length, or shorten what is cut.")
    odd = any(note.odd for note in notes)
    return DataCheck(
        ok=not (refused or gathered.problems or cut or odd),
        files=[str(path) for path, _ in data_files(settings)],
        examples=prepared.shapes.total(),
        shapes=dict(prepared.shapes),
        kinds=kinds,
        split=split.counts(),
        refused=refused,
        problems=gathered.problems,
        notes=list(notes),
        duplicates=split.duplicates,
        same_prompt_held_out=split.straddling,
        near_duplicates=len(split.near),
        cut=cut,
        encoded=encoded is not None,
        hints=hints,
    )


def _kinds(prepared: Prepared) -> list[Kind]:
    members = [
        KindMember(part, place, example)
        for part, found in prepared.parts().items()
        for place, example in enumerate(found)
    ]
    return kinds_of(grouped_by_kind(members))


def _note_special_tokens(prepared: Prepared, notes: Notes) -> None:
    for examples in prepared.parts().values():
        for example in examples:
            marks = {mark for text in _texts(example) for mark in _SPECIAL.findall(text)}
            for mark in sorted(marks):
                notes.add(f"a text holds {mark!r}, which looks like a special token", example.where)


def _texts(example: Example) -> Iterator[str]:
    for message in example.messages:
        for key in ("content", REASONING):
            if text := message.get(key):
                yield text


def _in_a_line(error: UsageError) -> str:
    where = f"{error.where}: " if error.where else ""
    return f"{where}{error.message}. {error.hint}".strip()
