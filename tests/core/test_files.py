from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tuneserve.files import atomic_path, sha256_file, write_json, write_jsonl


def test_failure_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_directories_are_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    for version in ("one", "two"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / version).touch()
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_leftover_of_a_killed_process_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "junk").touch()
    with atomic_path(tmp_path / "x") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "x").read_text() == "new"


def test_json_and_hash(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"é": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": 1\n}\n'
    write_jsonl(tmp_path / "a.jsonl", [{"a": 1}, {"b": "ü"}])
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == '{"a": 1}\n{"b": "ü"}\n'
    data = (tmp_path / "a.jsonl").read_bytes()
    assert sha256_file(tmp_path / "a.jsonl") == hashlib.sha256(data).hexdigest()
