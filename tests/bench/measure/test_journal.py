"""The journal survives a kill at any byte."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.bench.measure import journal as journal_module
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


def test_what_was_made_under_other_conditions_is_kept_and_not_used(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    name = ("answer", "base", "0")
    with Journal(path, keys={name: "k1"}, conditions={"base": {"cache": "f16"}}) as journal:
        journal.add(*name, {"text": "a"})
    with Journal(path, keys={name: "k2"}, conditions={"base": {"cache": "q8_0"}}) as journal:
        assert len(journal) == 0
        assert journal.notes() == [
            "journal.jsonl: 1 measurement of base is kept but not used: cache was f16, is q8_0"
        ]
        journal.add(*name, {"text": "b"})
    for key, text in (("k1", "a"), ("k2", "b")):
        with Journal(path, keys={name: key}) as journal:
            assert journal.get(*name) == {"text": text}


@pytest.mark.parametrize(
    "damage",
    [
        b"\0" * 40, b'{"kind": "answer", "mod', b"[1]", b'{"kind": 1}', b"\xff\xfe", b"[" * 9999,
        b'{"kind": "answer", "model": "base", "id": "1", "key": "same", "value": {"text": 5}}',
        b'{"kind": "answer", "model": "base", "id": "1", "key": "same", "value": {"tokens": "x"}}',
    ],
)  # fmt: skip
def test_a_damaged_line_is_dropped_alone_and_told(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    fill(path, ["a", "b", "c"])
    lines = path.read_bytes().split(b"\n")
    lines[2] = damage
    path.write_bytes(b"\n".join(lines) + b"\0" * 512)
    with Journal(path, "same") as journal:
        assert [journal.has("answer", "base", str(n)) for n in range(3)] == [True, False, True]
        assert journal.damaged == 2
        assert "dropped" in journal.notes()[0]
    with Journal(path, "same") as journal:
        assert (len(journal), journal.damaged) == (2, 0)


def test_it_is_finished_until_more_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, "same") as journal:
        journal.add("answer", "base", "0", {})
        journal.finish()
    with Journal(path, "same") as journal:
        assert journal.is_finished
        journal.add("answer", "base", "1", {})
    with Journal(path, "same") as journal:
        assert not journal.is_finished
        journal.finish()
        journal.add("answer", "base", "2", {})
        journal.finish()
    with Journal(path, "same", conditions={"base": {"cache": "f16"}}) as journal:
        assert journal.is_finished


def test_a_journal_of_an_older_release_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    row = {"kind": "answer", "model": "base", "id": "0", "value": {}}
    path.write_text(json.dumps({"fingerprint": "x"}) + "\n" + json.dumps(row) + "\n")
    with Journal(path, keys={("answer", "base", "0"): "k"}) as journal:
        assert len(journal) == 0
        assert "older release" in journal.notes()[0]
    assert path.read_text().count("\n") == 2


def test_a_file_that_grew_too_large_keeps_what_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name = tmp_path / "journal.jsonl", ("answer", "base", "0")
    for key in ("k1", "k2"):
        with Journal(path, keys={name: key}) as journal:
            journal.add(*name, {"text": key * 50})
    monkeypatch.setattr(journal_module, "MOST_BYTES", 200)
    with Journal(path, keys={name: "k2"}) as journal:
        assert journal.get(*name) == {"text": "k2" * 50}
    assert b"k1" not in path.read_bytes()


def test_what_a_link_names_is_not_written_into(tmp_path: Path) -> None:
    fill(tmp_path / "another.jsonl", ["one"])
    before = (tmp_path / "another.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").symlink_to("another.jsonl")
    fill(tmp_path / "journal.jsonl", ["one", "two"])
    assert (tmp_path / "another.jsonl").read_bytes() == before
    assert len(Journal(tmp_path / "journal.jsonl", "same")) == 2
