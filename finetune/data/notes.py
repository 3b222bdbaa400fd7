"""What was changed in a data set or left out of it, and what may not mean what its author thinks.

Nothing that a record brings is lost without a word: it is used, or the record is refused, or a
note says what became of it. Notes of the same text are counted and name their first place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tuneserve.records import Record


class Note(Record):
    """`text` holds for `count` records, of which `first` ('file:line') is the first."""

    text: str
    count: int
    first: str

    def line(self) -> str:
        return f"{self.count:,} x {self.text} (first: {self.first})"


@dataclass
class Notes:
    """Notes by their text, in the order of their first places."""

    _found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, text: str, place: str, count: int = 1) -> None:
        """Note `text` of the record at `place`."""
        known, first = self._found.get(text, (0, place))
        self._found[text] = (known + count, first)

    def update(self, other: Notes) -> None:
        """Take over the notes of `other`."""
        for note in other:
            self.add(note.text, note.first, note.count)

    def __iter__(self) -> Iterator[Note]:
        for text, (count, first) in self._found.items():
            yield Note(text=text, count=count, first=first)

    def __bool__(self) -> bool:
        return bool(self._found)

    def lines(self) -> list[str]:
        return [note.line() for note in self]
