"""What was changed in a data set or left out of it, and what may not mean what its author thinks.

Nothing that a record brings is lost without a word: it is used, or the record is refused, or a
note says what became of it. Notes of the same text are counted and name their first place.

A note is odd unless it only informs: an odd one tells of something that was left out or changed, or
that may be meant otherwise, and `tuneserve data check` fails for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tuneserve.records import Record


class Note(Record):
    """`text` holds for `count` records, of which `first` ('file:line') is the first; `odd` as said
    above."""

    text: str
    count: int
    first: str
    odd: bool = True

    def line(self) -> str:
        return f"{self.count:,} x {self.text} (first: {self.first})"


@dataclass
class Notes:
    """Notes by their text, in the order of their first places."""

    _found: dict[str, Note] = field(default_factory=dict)

    def add(self, text: str, place: str, count: int = 1, *, odd: bool = True) -> None:
        """Note `text` of the record (or the file) at `place`; `odd` is False where it only
        informs."""
        known = self._found.get(text)
        self._found[text] = Note(
            text=text,
            count=count + (known.count if known else 0),
            first=known.first if known else place,
            odd=odd or (known is not None and known.odd),
        )

    def update(self, other: Notes) -> None:
        """Take over the notes of `other`."""
        for note in other:
            self.add(note.text, note.first, note.count, odd=note.odd)

    def __iter__(self) -> Iterator[Note]:
        return iter(self._found.values())

    def __bool__(self) -> bool:
        return bool(self._found)

    def lines(self) -> list[str]:
        return [note.line() for note in self]
