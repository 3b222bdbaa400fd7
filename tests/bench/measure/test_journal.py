"""The journal survives a kill at any byte."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tuneserve.bench.measure.journal import Journal


def fill(path: Path, values: list[str]) -> None:
    with Journal(path, "same") as journal:
        for place, text in enumerate(values):
            journal.add("answer", "base", str(place), {"text": text})


@given(st.lists(st.text(), max_size=6), st.integers(0, 400))
def test_what_was_written_whole_is_kept(values: list[str], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        fill(path, values)
        content = path.read_bytes()
        kept = content[: min(cut, len(content))]
        path.write_bytes(kept)
        whole_rows = max(0, kept.count(b"\n") - 1)
        with Journal(path, "same") as journal:
            assert len(journal) == whole_rows
            for place in range(whole_rows):
                value = journal.get("answer", "base", str(place))
                assert value == {"text": values[place]}
            journal.add("answer", "base", "new", {"text": "x"})
        with Journal(path, "same") as journal:
            assert len(journal) == whole_rows + 1
            assert journal.has("answer", "base", "new")


def test_another_fingerprint_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill(path, ["a", "b"])
    with Journal(path, "other") as journal:
        assert len(journal) == 0
    assert path.read_text().count("\n") == 1
