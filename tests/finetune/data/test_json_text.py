"""JSON in every layout that people bring: the records and their places are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuneserve.finetune.data.formats import BadRecord
from tuneserve.finetune.data.keys import MARKS
from tuneserve.finetune.data.notes import Notes
from tuneserve.finetune.data.records import read_records

ROWS: list[dict[str, Any]] = [
    {"instruction": "a", "output": "b"},
    {"instruction": "c", "output": "d"},
]
TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
PRETTY = "\n".join(json.dumps(row, indent=2) for row in ROWS)


def read(path: Path, text: str | bytes) -> tuple[list[str], list[Any], list[str]]:
    """Places without the path, records, notes."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    notes = Notes()
    found = list(read_records(path, notes))
    places = [raw.place.removeprefix(f"{path}:") for raw in found]
    return places, [raw.record for raw in found], [note.text for note in notes]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(
    ("text", "places"),
    [
        (LINES, ["1", "2"]),
        ("\n\n" + LINES.replace("\n", "\r\n\n"), ["3", "5"]),
        (PRETTY, ["1", "5"]),
        (f"\n{PRETTY}\n", ["2", "6"]),
        (json.dumps(ROWS), ["record 1", "record 2"]),
        (json.dumps(ROWS, indent=1), ["record 1", "record 2"]),
        (json.dumps(ROWS[:1]) + "\n" + json.dumps(ROWS[1:], indent=1), ["record 1", "record 2"]),
        (json.dumps({"data": ROWS}), ["record 1", "record 2"]),
        (json.dumps({"data": {"rows": ROWS}}), ["record 1", "record 2"]),
        (LINES.encode("utf-16"), ["1", "2"]),
        (b"\xef\xbb\xbf" + PRETTY.encode(), ["1", "5"]),
    ],
)  # fmt: skip
def test_records_are_recognised_by_the_content(
    tmp_path: Path, suffix: str, text: str | bytes, places: list[str]
) -> None:
    assert read(tmp_path / f"data{suffix}", text)[:2] == (places, ROWS)


@pytest.mark.parametrize(
    "value",
    [
        {"instruction": {"0": "a", "1": "c"}, "output": {"0": "b", "1": "d"}},
        {"instruction": ["a", "c"], "output": ["b", "d"]},
        {"columns": ["instruction", "output"], "index": [0, 1], "data": [["a", "b"], ["c", "d"]]},
        {"0": ROWS[0], "1": ROWS[1]},
    ],
)
def test_tables_of_pandas_are_read_row_by_row_and_told(tmp_path: Path, value: Any) -> None:
    _, records, notes = read(tmp_path / "table.json", json.dumps(value))
    assert records == ROWS
    (note,) = notes
    assert "is read" in note


def test_an_object_is_one_record_or_holds_one_list_of_them(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    for indent in (None, 1):
        record = {"id": "x", "messages": TURNS}
        assert read(path, json.dumps(record, indent=indent))[:2] == (["1"], [record])
    places, records, notes = read(path, json.dumps({"version": "1.0", "data": ROWS, "n": None}))
    assert (places, records) == (["record 1", "record 2"], ROWS)
    assert notes == ["the key 'version' beside the records is not read"]
    (bad,) = read(path, json.dumps({"easy": ROWS, "hard": ROWS}))[1]
    assert str(bad).startswith("several lists of records, the keys 'easy', 'hard'")
    (bad,) = read(path, json.dumps({"count": 3, "by": "me"}))[1]
    assert str(bad) == "neither a record nor a list of records: its keys are 'count', 'by'"


def test_lists_named_after_the_sides_of_a_split_keep_them(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    value = {"version": 1, "train": ROWS, "validation": ROWS[:1], "test": ROWS[1:]}
    path.write_text(json.dumps({"dataset": value}))
    found = [(raw.place.rpartition(":")[2], raw.side) for raw in read_records(path)]
    assert found == [
        ("train record 1", "train"), ("train record 2", "train"),
        ("validation record 1", "eval"), ("test record 1", "test"),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_bare_lists_of_messages_are_conversations(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data{suffix}"
    line = json.dumps(TURNS)
    for text, count in ((line, 1), (f"{line}\n{line}", 2), (f"[{line}, {line}]", 2)):
        _, records, notes = read(path, text)
        assert records == [{"messages": TURNS}] * count
        assert notes == ["a list of messages without a key is read as one conversation"]


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('{\n "instruction": "a",\n "output": "b",\n}\n', "4", "not JSON: Expecting property name"),
        ('[\n{"instruction": "a", "output": "b"},\n{"instruction": "c"', "3", "not JSON"),
        (LINES + '{"output": "a", "output": "b"}', "3", "the key 'output' is there twice"),
        (LINES + '{"messages": [{"role": "user", "role": "a"}]}', "3", "'role' is there twice"),
        (LINES.encode() + b'{"output": "\xff"}', "3", "not UTF-8 (byte 13)"),
    ],
)
def test_what_is_no_json_is_told_with_its_line(
    tmp_path: Path, text: str | bytes, place: str, reason: str
) -> None:
    places, records, _ = read(tmp_path / "data.jsonl", text)
    assert places[-1] == place
    assert isinstance(records[-1], BadRecord)
    assert reason in str(records[-1])
    assert all(isinstance(record, dict) for record in records[:-1])


words = st.text(st.characters(codec="utf-8"), max_size=9)
records = st.lists(
    st.dictionaries(st.sampled_from(sorted(MARKS)), words, min_size=1),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records, st.sampled_from(["lines", "list", "one after another", "below a key"]),
    st.sampled_from([None, 0, 3]), st.booleans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from([".json", ".jsonl"]),
)  # fmt: skip
def test_any_layout_gives_the_same_records(
    tmp_path: Path, rows: list[dict[str, str]], layout: str, indent: int | None, ascii_only: bool,
    encoding: str, suffix: str,
) -> None:  # fmt: skip
    def dumped(value: Any, indent: int | None = indent) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only)

    texts = {
        "lines": "\n".join(dumped(row, None) for row in rows),
        "list": dumped(rows),
        "one after another": "\n".join(map(dumped, rows)),
        "below a key": dumped({"name": "x", "data": rows}),
    }
    places, found, _ = read(tmp_path / f"data{suffix}", texts[layout].encode(encoding))
    assert found == rows
    if layout in ("lines", "one after another"):
        lines = texts[layout].split("\n")
        assert all(lines[int(place) - 1].startswith("{") for place in places)
        assert len(set(places)) == len(rows)
