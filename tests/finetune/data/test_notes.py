from __future__ import annotations

from tuneserve.finetune.data.notes import Note, Notes


def test_notes_of_one_text_are_counted_and_keep_their_first_place() -> None:
    notes = Notes()
    notes.add("'url' is not used", "a:1")
    notes.add("left aside", "README", odd=False)
    other = Notes()
    other.add("'url' is not used", "b:7", 3)
    other.add("left aside", "LICENSE", odd=False)
    notes.update(other)
    assert list(notes) == [
        Note(text="'url' is not used", count=4, first="a:1", odd=True),
        Note(text="left aside", count=2, first="README", odd=False),
    ]
    assert notes.lines()[0] == "4 x 'url' is not used (first: a:1)"


def test_a_note_that_is_odd_once_stays_odd() -> None:
    notes = Notes()
    notes.add("x", "a:1", odd=False)
    notes.add("x", "a:2")
    notes.add("x", "a:3", odd=False)
    assert [note.odd for note in notes] == [True]
