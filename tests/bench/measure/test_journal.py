"""The journal survives a kill at any byte."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.bench.measure import journal as journal_module
from tuneserve.bench.measure.journal import Journal, rows_with


def answer(text: str) -> dict[str, Any]:
    return {"text": text, "finish_reason": "stop", "tokens": 1}


def fill(path: Path, values: list[str]) -> None:
    with Journal(path, "same") as journal:
        for place, text in enumerate(values):
            journal.add("answer", "base", str(place), answer(text))


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
                assert value == answer(values[place])
            journal.add("answer", "base", "new", answer("x"))
        with Journal(path, "same") as journal:
            assert len(journal) == whole_rows + 1
            assert journal.has("answer", "base", "new")


def test_what_was_made_under_other_conditions_is_kept_and_not_used(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    name = ("answer", "base", "0")
    with Journal(path, keys={name: "k1"}, conditions={"base": {"cache": "f16"}}) as journal:
        journal.add(*name, answer("a"))
    with Journal(path, keys={name: "k2"}, conditions={"base": {"cache": "q8_0"}}) as journal:
        assert len(journal) == 0
        assert journal.notes() == [
            "journal.jsonl: 1 measurement of base is kept but not used: cache was f16, is q8_0"
        ]
        journal.add(*name, answer("b"))
    for key, text in (("k1", "a"), ("k2", "b")):
        with Journal(path, keys={name: key}) as journal:
            assert journal.get(*name) == answer(text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("answer", {}),
        ("answer", {"text": "a", "tokens": 1}),
        ("answer", {"text": "a", "tokens": -1, "finish_reason": "stop"}),
        ("answer", {"failed": 3}),
        ("likelihood", {"nll": 1.0}),
        ("choice", {"nll": float("nan"), "tokens": 2}),
        ("text", {"nll": [], "tokens_per_chunk": 256}),
        ("text", {"nll": ["x"], "tokens_per_chunk": 256}),
        ("speed", {"base": {"load_seconds": 1.0, "prompt": {}, "generation": {}}}),
        ("served", {"start": {"seconds": 1.0, "memory": 5, "gpu_memory": 0}, "load": []}),
        ("served", {"start": {"seconds": 1.0, "memory": 5}, "load": [{}]}),
        ("fidelity", {"perplexity": None}),
        ("judged", {}),
    ],
)
def test_a_measurement_without_what_its_kind_has_is_damaged(
    tmp_path: Path, kind: str, value: dict[str, Any]
) -> None:
    path, name = tmp_path / "journal.jsonl", (kind, "base", "0")
    with Journal(path, keys={name: "now"}) as journal:
        journal.add(*name, value)
    with Journal(path, keys={name: "now"}) as journal:
        assert not journal.has(*name)
        assert "1 damaged line was dropped" in journal.notes()[0]
    # Of what another release measured otherwise nothing is known.
    with Journal(path, keys={name: "then"}) as journal:
        journal.add(*name, value)
    assert rows_with(path, {"then": name}) == {}
    with Journal(path, keys={name: "now"}) as journal:
        assert not journal.damaged


@pytest.mark.parametrize(
    "damage",
    [
        b"\0" * 40, b'{"kind": "answer", "mod', b"[1]", b'{"kind": 1}', b"\xff\xfe", b"[" * 9999,
        b'{"kind": "answer", "model": "base", "id": "1", "key": "same", "value": {"text": 5}}',
        b'{"kind": "answer", "model": "base", "id": "1", "key": "same", "value": {"tokens": "x"}}',
        b'{"conditions": {"base": 5}}', b'{"kind": "answer", "model": "base", "id": "1"}',
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
        journal.add("answer", "base", "0", answer(""))
        journal.finish()
    with Journal(path, "same") as journal:
        assert journal.is_finished
        journal.add("answer", "base", "1", answer(""))
    with Journal(path, "same") as journal:
        assert not journal.is_finished
        journal.finish()
        journal.add("answer", "base", "2", answer(""))
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
            journal.add(*name, answer(key * 50))
    monkeypatch.setattr(journal_module, "MOST_BYTES", 200)
    with Journal(path, keys={name: "k2"}) as journal:
        assert journal.get(*name) == answer("k2" * 50)
    assert b"k1" not in path.read_bytes()


def test_what_a_link_names_is_not_written_into(tmp_path: Path) -> None:
    fill(tmp_path / "another.jsonl", ["one"])
    before = (tmp_path / "another.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").symlink_to("another.jsonl")
    fill(tmp_path / "journal.jsonl", ["one", "two"])
    assert (tmp_path / "another.jsonl").read_bytes() == before
    assert len(Journal(tmp_path / "journal.jsonl", "same")) == 2
