"""A run's split files: written by training, read alike by everyone after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tuneserve.chat.examples import Example, fold, read_split, sample_split
from tuneserve.errors import UsageError

ASKED = {"role": "user", "content": "2+2?"}
TURN = [ASKED, {"role": "assistant", "content": "4"}]


def line(number: int, messages: list[dict[str, Any]] | None = None, **more: Any) -> str:
    row = {"id": f"r{number}", "group": None, "source": None, "messages": messages or TURN}
    return json.dumps({**row, **more})


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    answer = {"role": "assistant", "content": "4", "reasoning_content": "Easy."}
    examples = [
        Example("a", tuple(TURN), "sums", "book"),
        Example("b", ({"role": "assistant", "content": "Once upon a time."},)),
        Example("c", (ASKED, {"role": "assistant", "content": "", "tool_calls": [call]}),
                tools=({"type": "function", "function": {"name": "add"}},)),
        Example("d", (ASKED, {**TURN[1], "weight": 0}, ASKED, answer)),
    ]  # fmt: skip
    path = write(tmp_path / "test.jsonl", *(json.dumps(e.to_row()) for e in examples))
    read = read_split(path)
    assert [e.where for e in read] == [f"{path}:{number}" for number in (1, 2, 3, 4)]
    assert [e.to_row() for e in read] == [e.to_row() for e in examples]
    assert [len(e.prompt) for e in read] == [1, 0, 1, 3]
    assert [e.reference for e in read] == ["4", "Once upon a time.", "", "4"]
    assert [e.thoughts for e in read] == [None, None, None, "Easy."]
    assert read_split(path, limit=2) == read[:2]
    assert sorted(sample_split(path), key=lambda e: e.id) == read
    assert list(sample_split(path)) == list(sample_split(path)) != read


def test_a_call_is_read_in_the_form_that_templates_get(tmp_path: Path) -> None:
    call = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    asked = {"role": "developer", "content": "Be brief."}
    messages: list[dict[str, Any]] = [
        asked, {"role": "assistant", "content": None, "tool_calls": [call]},
    ]  # fmt: skip
    (example,) = read_split(write(tmp_path / "x.jsonl", line(1, messages)))
    assert example.messages[0]["role"] == "system"
    assert example.messages[1]["content"] == ""
    (called,) = example.messages[1]["tool_calls"]
    assert called["function"] == {"name": "add", "arguments": {"a": 1}}


BAD_LINES = {
    "Expecting property name": "{",
    "not a JSON object": "[]",
    "'id' is missing": json.dumps({"messages": TURN}),
    "id 'r1' is there twice": line(1),
    "'messages' must hold a prompt": json.dumps({"id": "r2", "messages": []}),
    "every message needs": line(3, [{"role": "user"}, {"content": "x"}]),
    "must be the assistant's": line(4, [ASKED]),
    "the answer is empty": line(5, [ASKED, {"role": "assistant", "content": " "}]),
    "must be JSON": line(6, [ASKED, {"role": "assistant", "tool_calls": [
        {"function": {"name": "f", "arguments": "{"}}]}]),
    "needs a 'function'": line(7, [ASKED, {"role": "assistant", "tool_calls": [{}]}]),
    "not usable JSON": "[" * 100_000,
    "codec can't decode": "\udcff",
}  # fmt: skip


def test_every_bad_line_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = [line(1), "", *BAD_LINES.values(), line(8)]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as caught:
        read_split(path)
    assert len(caught.value.problems) == len(BAD_LINES)
    for number, (problem, words) in enumerate(
        zip(caught.value.problems, BAD_LINES, strict=True), start=3
    ):
        assert problem.startswith(f"{path}:{number}: ")
        assert words in problem


def test_a_bad_line_of_a_sample_is_named_too(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", line(1), "", "[]")
    with pytest.raises(UsageError, match="not a JSON object") as caught:
        list(sample_split(path))
    assert caught.value.where == f"{path}:3"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for read in (read_split, lambda path: list(sample_split(path))):
        with pytest.raises(UsageError, match="can't be read: No such file"):
            read(tmp_path / "test.jsonl")


def test_another_answer_has_no_thoughts() -> None:
    answer = {"role": "assistant", "content": "4", "reasoning_content": "Easy."}
    other = Example("a", (ASKED, answer), "sums").answered("5").named("b")
    assert (other.id, other.group, other.prompt) == ("b", "sums", (ASKED,))
    assert (other.reference, other.thoughts) == ("5", None)


def test_folding_forgets_case_width_and_white_space() -> None:
    assert fold("  Ｎｅｗ\n\tYORK ") == fold("new york") == "new york"
    assert fold("Straße") == "strasse"
