"""Records out of plain text: a paragraph (what blank lines set apart) is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tuneserve.finetune.data.containers import read_data
from tuneserve.finetune.data.encodings import decode, encoding_note
from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.data.raw import RawRecord


def read_text(path: Path, notes: Notes, marks: frozenset[str]) -> Iterator[RawRecord]:
    """The paragraphs of a .txt or .md file, each at the line it begins on."""
    data = read_data(path)
    try:
        text, encoding = decode(data)
    except UnicodeDecodeError:
        yield from _paragraphs(path, data.split(b"\n"))
        return
    if encoding is not None:
        notes.add(encoding_note(encoding), str(path), odd=not encoding.startswith("UTF"))
    if text.lstrip().startswith(("{", "[{")):
        notes.add("a text that looks like JSON: read as text, name it .jsonl to read it as records",
                  str(path))  # fmt: skip
    yield from _paragraphs(path, text.split("\n"))


def _paragraphs(path: Path, content: list[str] | list[bytes]) -> Iterator[RawRecord]:
    first, lines = 1, list[str]()
    broken: RawRecord | None = None
    for number, line in enumerate([*content, ""], start=1):
        try:
            text = line.decode("utf-8") if isinstance(line, bytes) else line
        except UnicodeDecodeError as error:
            problem = BadRecord(f"not UTF-8 (byte {error.start + 1} of the line)")
            broken = broken or RawRecord(f"{path}:{number}", problem)
            continue
        if text.strip():
            first = first if lines else number
            lines.append(text.rstrip("\r"))
        elif lines or broken:
            yield broken or RawRecord(f"{path}:{first}", {"text": "\n".join(lines)})
            lines, broken = [], None
