"""The base's measurements are found again by another run, and only what is the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tuneserve.bench.measure import base_store
from tuneserve.bench.measure.base_store import BaseStore
from tuneserve.bench.measure.journal import Journal, Key

NAMES: dict[Key, str] = {
    ("answer", "base", "0"): "k0",
    ("answer", "base", "1"): "k1",
    ("likelihood", "base", "0"): "k2",
    ("speed", "base", ""): "k3",
    ("answer", "tuned", "0"): "k4",
}


def value_of(name: Key) -> dict[str, object]:
    if name[0] == "likelihood":
        return {"nll": 1.5, "tokens": 2}
    return {"text": name[2], "finish_reason": "stop", "tokens": 1}


def measured(folder: Path, store: BaseStore) -> None:
    with Journal(folder / "first.jsonl", keys=NAMES) as journal:
        for name in NAMES:
            journal.add(*name, value_of(name))
        store.take(journal)


def test_what_is_the_same_is_taken(tmp_path: Path) -> None:
    store = BaseStore(tmp_path, "abc")
    measured(tmp_path, store)
    keys = {**NAMES, ("answer", "base", "1"): "other"}
    with Journal(tmp_path / "second.jsonl", keys=keys) as journal:
        answers, day = store.give(journal, keys)
        # Speed is measured beside the tuned model's; the tuned model is another one.
        assert {key for key in keys if journal.has(*key)} == {
            ("answer", "base", "0"), ("likelihood", "base", "0"),
        }  # fmt: skip
    assert answers == 1
    assert day == journal.newest[:10]
    with Journal(tmp_path / "third.jsonl", keys=NAMES) as journal:
        assert BaseStore(tmp_path, "another").give(journal, NAMES) == (0, "")


def test_a_damaged_line_costs_itself(tmp_path: Path) -> None:
    store = BaseStore(tmp_path, "abc")
    measured(tmp_path, store)
    lines = store.path.read_bytes().split(b"\n")
    store.path.write_bytes(b"\n".join([lines[0], b"\0" * 9, *lines[2:]])[:-9])
    measured(tmp_path / "again", store)
    with Journal(tmp_path / "second.jsonl", keys=NAMES) as journal:
        assert store.give(journal, NAMES)[0] == 2


def test_a_value_without_its_parts_is_measured_again(tmp_path: Path) -> None:
    store = BaseStore(tmp_path, "abc")
    measured(tmp_path, store)
    lines = [json.loads(line) for line in store.path.read_bytes().splitlines()]
    for line in lines:
        line["value"] = {}
    store.path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with Journal(tmp_path / "second.jsonl", keys=NAMES) as journal:
        assert store.give(journal, NAMES) == (0, "")
    measured(tmp_path / "again", store)
    with Journal(tmp_path / "third.jsonl", keys=NAMES) as journal:
        assert store.give(journal, NAMES)[0] == 2


def test_the_files_used_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_store, "MOST_FILES", 2)
    for place, name in enumerate(("a", "b", "c")):
        store = BaseStore(tmp_path, name)
        measured(tmp_path / name, store)
        os.utime(store.path, (place, place))
    left = sorted(path.stem for path in store.path.parent.glob("*.jsonl"))
    assert left == ["b", "c"]
