"""Every shape of record, in every kind of file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tuneserve.chat.template import ChatTemplate
from tuneserve.errors import UsageError
from tuneserve.finetune.data.formats import parse_record
from tuneserve.finetune.data.prepare import data_files, data_hash, prepare_examples
from tuneserve.finetune.data.reading import read_examples
from tuneserve.serve.api.messages import ChatMessage
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
    of_table = {"alpaca": "instruction → output", "prompt/completion": "prompt → completion"}
    kind = {".csv": "CSV: ", ".tsv": "TSV: "}.get(suffix)
    assert read.shapes == {kind + of_table[shape] if kind and shape in of_table else shape: 1}
    (example,) = read.examples
    assert [(m["role"], m["content"]) for m in example.messages] == [
        ("user", "Hi?"), ("assistant", "Hello."),
    ]  # fmt: skip


def test_named_keys_are_told_by_the_files_names(tmp_path: Path, write_lines: Any) -> None:
    fields = {"instruction": "Frage", "output": "Antwort", "input": "Lage"}
    record = {"Frage": "Hi?", "Antwort": "Hello.", "Lage": "now"}
    path = tmp_path / "data.csv"
    write(path, record)
    asked = "Frage + Lage → Antwort"
    assert read_examples(path, fields=fields).shapes == {f"CSV: {asked}": 1}
    assert read_examples(write_lines(record), fields=fields).shapes == {asked: 1}
    (example,) = read_examples(
        write_lines({"prompt": TURN}), fields={"messages": "prompt"}
    ).examples
    assert example.shape == "messages"


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
    (called,) = first.messages[1]["tool_calls"]
    assert called == {**call, "function": {"name": "add", "arguments": {}}}
    assert first.messages[1]["content"] == ""
    assert first.messages[-1]["reasoning_content"] == "Easy."
    assert second.messages[-1] == first.messages[-1]
    assert first.to_row()["tools"] == tools


@pytest.mark.parametrize(
    "template", ["meta-llama-Llama-3.1-8B-Instruct", "Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B"]
)
def test_a_conversation_is_rendered_in_training_as_it_is_served(
    llama_cpp_source: Path, template: str
) -> None:
    call = {"id": "c1", "type": "function",
            "function": {"name": "add", "arguments": '{"a": 1, "b": "two"}'}}  # fmt: skip
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
        {"role": "assistant", "content": "Two."},
    ]
    path = llama_cpp_source / "models" / "templates" / f"{template}.jinja"
    renderer = ChatTemplate(path.read_text(encoding="utf-8"))
    trained = renderer.render(parse_record({"messages": messages}).messages)
    served = renderer.render([ChatMessage(**m).as_template_sees_it() for m in messages])
    assert trained == served
    assert '{"a": 1, "b": "two"}' in trained
    assert "Be brief." in trained


@pytest.mark.parametrize("arguments", ["{", "[1]", "3", "[" * 100_000])
def test_arguments_of_a_call_that_are_no_json_object_are_told(
    write_lines: Any, arguments: str
) -> None:
    call = {"function": {"name": "add", "arguments": arguments}}
    path = write_lines(
        RECORDS["alpaca"],
        {"messages": [TURN[0], {"role": "assistant", "content": None, "tool_calls": [call]}]},
    )
    with pytest.raises(UsageError, match=r"messages\[1\].tool_calls: the arguments of a call must"):
        read_examples(path)


def test_an_answer_may_be_a_list_in_json(write_lines: Any) -> None:
    answers = ['[{"name": "Ann"}]', "[]", '["role"]', "[1, 2]", "[not json", '[{"role": 1}, 2]']
    path = write_lines(*({"prompt": f"List {a}", "completion": a} for a in answers))
    read = read_examples(path)
    assert read.shapes == {"prompt/completion": len(answers)}
    assert [e.messages[-1]["content"] for e in read.examples] == answers


@pytest.mark.parametrize("indent", [None, 2])
def test_messages_in_a_table_may_be_laid_out_in_lines(tmp_path: Path, indent: int | None) -> None:
    turns = RECORDS["sharegpt"]["conversations"]
    tools = [{"type": "function", "function": {"name": "add"}}]
    for key, value in (("messages", TURN), ("conversations", turns)):
        path = tmp_path / f"{key}.csv"
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, [key, "tools"])
            table.writeheader()
            table.writerow({key: f" {json.dumps(value, indent=indent)}\n",
                            "tools": json.dumps(tools, indent=indent)})  # fmt: skip
        (example,) = read_examples(path).examples
        assert list(example.messages) == TURN
        assert example.tools == tuple(tools)


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


def test_files_may_number_their_examples_alike(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        rows = [{"id": i, "instruction": f"{name if i else 'same'}{i}", "output": f"{i}"}
                for i in range(200)]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    paths = [tmp_path / f"{name}.jsonl" for name in ("a", "b", "c")]
    settings = DataSettings(file=paths[0], more=(str(paths[1]), f"{paths[2]}*2"))
    split = prepare_examples(settings).split
    ids = [example.id for part in (split.train, split.eval, split.test) for example in part]
    assert len(ids) == len(set(ids)) == 598
    assert ids.count("0") == 1
    assert {"7", f"{paths[1]}:7", f"{paths[2]}:7"} <= set(ids)


@pytest.mark.parametrize("weight", ["0", "-1", "inf", "nan", "1000", "x", ""])
def test_a_weight_that_is_none_is_refused(tmp_path: Path, weight: str) -> None:
    settings = DataSettings(file=tmp_path / "a.jsonl", more=(f"{tmp_path / 'b.jsonl'}*{weight}",))
    with pytest.raises(UsageError, match="must be a number above 0") as caught:
        data_files(settings)
    assert caught.value.where == "data.more"


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.xlsx").write_bytes(b"x")
    with pytest.raises(UsageError, match="not a kind of file"):
        read_examples(tmp_path / "data.xlsx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no data file in it"):
        read_examples(tmp_path / "empty")


def test_what_arrow_writes_for_absent_keys_is_absent(tmp_path: Path) -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    records: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi?"}]},
                      {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."},
                                                        {"type": "text", "text": "Hello."}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Call."}],
                       "images": None, "weight": None},
                      {"role": "assistant", "tool_calls": [call], "train": True}]},
        {"instruction": "Hi?", "output": "Hello.", "label": None},
    ]  # fmt: skip
    columns = {key: [record.get(key) for record in records] for row in records for key in row}
    parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    read = [read_examples(tmp_path / f"x.{suffix}") for suffix in ("parquet", "jsonl")]
    assert [e.messages for e in read[0].examples] == [e.messages for e in read[1].examples]
    assert [list(one.notes) for one in read] == [[], []]
