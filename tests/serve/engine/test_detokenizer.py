"""Stop strings and UTF-8 across pieces, whatever the pieces are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuneserve.serve.engine.detokenizer import Detokenizer

SHORT = st.text(alphabet="ab✓é", min_size=1, max_size=4)


@given(st.text(alphabet="abc✓é😀\n", max_size=40), st.data())
def test_bytes_in_any_pieces_give_the_text_back(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    stream = Detokenizer(())
    shown = ""
    while raw:
        size = data.draw(st.integers(1, len(raw)))
        piece, raw = raw[:size], raw[size:]
        new, stopped = stream.feed(piece)
        assert not stopped
        assert "\ufffd" not in new
        shown += new
    shown += stream.finish()
    assert shown == stream.text == text


def test_a_character_that_the_end_cuts_is_left_out() -> None:
    stream = Detokenizer(["xyz"])
    assert stream.feed("é🦙".encode()[:-1]) == ("é", False)
    assert stream.finish() == ""
    assert stream.text == "é"


def test_what_is_no_utf8_is_a_replacement_character() -> None:
    stream = Detokenizer(())
    assert stream.feed(b"a\xc3") == ("a", False)
    assert stream.feed(b"b") == ("\ufffdb", False)


@given(st.text(alphabet="ab✓é", max_size=30), st.lists(SHORT, min_size=1, max_size=3), st.data())
def test_a_stop_string_ends_the_text_however_it_is_cut(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    stream = Detokenizer(stops)
    shown, rest, stopped = "", text, False
    while rest and not stopped:
        size = data.draw(st.integers(1, len(rest)))
        piece, rest = rest[:size], rest[size:]
        new, stopped = stream.feed(piece.encode())
        shown += new
    if not stopped:
        shown += stream.finish()
    found = [text.find(stop) for stop in stops if stop in text]
    assert stopped == bool(found)
    if not found:
        assert shown == text
    else:
        # Nothing of a stop string is shown, and nothing before the first is lost. A longer stop
        # string that begins earlier may be complete only after a shorter one was met.
        assert not any(stop in shown for stop in stops)
        assert text.startswith(shown)
        assert len(shown) >= min(found)


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    stream = Detokenizer(["END"])
    assert stream.feed(b"some E") == ("some ", False)
    assert stream.feed(b"N") == ("", False)
    assert stream.feed(b"X") == ("ENX", False)
    assert stream.feed(b"END") == ("", True)
