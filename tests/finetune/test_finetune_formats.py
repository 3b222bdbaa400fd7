"""Every shape of record, in every kind of file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from finetune.prepare import data_hash, prepare_examples
from finetune.reading import read_examples
from tuneserve.errors import UsageError
from tuneserve.settings import DataSettings

TURN = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
RECORDS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "Hi?", "output": "Hello."},
    "prompt/completion": {"prompt": "Hi?", "completion": "Hello."},
    "messages": {"messages": TURN},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]
    },
}


def write(path: Path, record: dict[str, Any]) -> None:
    """The record as a file of the kind that the path's ending says."""
    flat = {k: v if isinstance(v, str) else json.dumps(v) for k, v in record.items()}
    match path.suffix:
        case ".jsonl":
            path.write_text(json.dumps(record) + "\n")
        case ".json":
            path.write_text(json.dumps({"data": [record]}, indent=1))
        case ".csv" | ".tsv":
            with path.open("w", newline="") as file:
                table = csv.DictWriter(
                    file, list(flat), delimiter="\t" if path.suffix == ".tsv" else ","
                )
                table.writeheader()
                table.writerow(flat)
        case ".parquet":
            parquet.write_table(pa.Table.from_pylist([record]), path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("shape", RECORDS)
def test_every_shape_is_recognised_in_every_kind_of_file(
    tmp_path: Path, shape: str, suffix: str
) -> None:
    path = tmp_path / f"data{suffix}"
    write(path, RECORDS[shape])
    read = read_examples(path)
    assert read.shapes == {shape: 1}
    (example,) = read.examples
    assert [(m["role"], m["content"]) for m in example.messages] == [
        ("user", "Hi?"), ("assistant", "Hello."),
    ]  # fmt: skip


def test_conversational_prompts_and_completions(write_lines: Any) -> None:
    path = write_lines({"prompt": TURN[:1], "completion": TURN[1:]})
    assert list(read_examples(path).examples[0].messages) == TURN


def test_plain_text_is_an_example_a_paragraph(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("One\nline.\n\n\nTwo.\n")
    read = read_examples(tmp_path / "book.txt")
    assert [e.messages[0]["content"] for e in read.examples] == ["One\nline.", "Two."]
    assert [e.where.rpartition(":")[2] for e in read.examples] == ["1", "5"]


def test_tools_tool_calls_and_thoughts_are_kept(write_lines: Any) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    path = write_lines(
        {
            "tools": tools,
            "messages": [
                {"role": "user", "content": "1+1?"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "2"},
                {"role": "assistant", "content": "Two.", "reasoning_content": "Easy."},
            ],
        },
        {"instruction": "1+1?", "output": "<think>\nEasy.\n</think>\n\nTwo."},
    )
    first, second = read_examples(path).examples
    assert first.tools == tuple(tools)
    assert first.messages[1]["tool_calls"] == [call]
    assert first.messages[-1]["reasoning_content"] == "Easy."
    assert second.messages[-1] == first.messages[-1]
    assert first.to_row()["tools"] == tools


def test_keys_can_have_other_names(write_lines: Any) -> None:
    path = write_lines({"q": "Hi?", "a": "Hello.", "kind": "x"})
    fields = {"instruction": "q", "output": "a", "group": "kind"}
    (example,) = read_examples(path, fields=fields).examples
    assert (example.group, example.messages[1]["content"]) == ("x", "Hello.")
    with pytest.raises(UsageError, match=r"its keys are 'q', 'a', 'kind'"):
        read_examples(path)


def test_bad_records_can_be_skipped_and_are_counted(write_lines: Any) -> None:
    path = write_lines("{", RECORDS["alpaca"], {"instruction": "x", "output": ""})
    read = read_examples(path, skip_bad=True)
    assert (len(read.examples), len(read.problems)) == (1, 2)
    with pytest.raises(UsageError, match="holds no usable example"):
        read_examples(write_lines("{", name="bad.jsonl"), skip_bad=True)


def test_folders_and_weighted_files(tmp_path: Path) -> None:
    for name, count in (("a", 300), ("b", 200)):
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"instruction": f"{name}{i}", "output": "x"} for i in range(count)]
        (folder / "1.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[: count // 2]))
        (folder / "2.json").write_text(json.dumps(rows[count // 2 :]))
    settings = DataSettings(file=tmp_path / "a", more=(f"{tmp_path / 'b'}*2.5",))
    prepared = prepare_examples(settings)
    plain = prepare_examples(DataSettings(file=tmp_path / "a", more=(str(tmp_path / "b"),)))
    assert prepared.split.counts() == plain.split.counts()
    assert {e.weight for e in prepared.split.train} == {1.0, 2.5}
    before = data_hash(settings)
    (tmp_path / "b" / "1.jsonl").write_text(json.dumps(RECORDS["alpaca"]) + "\n")
    assert data_hash(settings) != before


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.xlsx").write_bytes(b"x")
    with pytest.raises(UsageError, match="not a kind of file"):
        read_examples(tmp_path / "data.xlsx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no data file in it"):
        read_examples(tmp_path / "empty")
