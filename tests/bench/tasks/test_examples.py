"""Held-out files: read, thinned, refused line by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuneserve.bench.tasks.examples import askable, read_held_out
from tuneserve.chat.examples import read_split
from tuneserve.errors import UsageError


def row(number: int, **changes: object) -> str:
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    return json.dumps({"id": f"r{number}", "group": None, "messages": messages, **changes})


def test_reads_prompt_reference_group_and_source(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(row(1, group="sums", source="book") + "\n\n" + row(2) + "\n")
    first, second = read_held_out(path)
    assert first.prompt == ({"role": "user", "content": "2+2?"},)
    assert (first.reference, first.group, first.source) == ("4", "sums", "book")
    assert (second.group, second.source) == (None, None)


def test_what_asks_nothing_or_is_answered_by_a_call_is_left_out(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "add"}}]
    asked = [{"role": "user", "content": "2+2?"},
             {"role": "assistant", "content": None, "tool_calls": [call]}]  # fmt: skip
    answered = [*asked, {"role": "tool", "content": "4"},
                {"role": "assistant", "content": "4", "reasoning_content": "Easy."}]  # fmt: skip
    text = [{"role": "assistant", "content": "Once upon a time."}]
    path = tmp_path / "test.jsonl"
    lines = [row(1, messages=text), row(2, messages=asked), row(3, messages=answered, tools=tools)]
    path.write_text("\n".join(lines))
    (only,) = read_held_out(path)
    assert (only.id, only.reference, only.thoughts) == ("r3", "4", "Easy.")
    assert (only.tools, len(only.prompt)) == (tuple(tools), 3)
    path.write_text(lines[0])
    assert askable(read_split(path)) == []
    with pytest.raises(UsageError, match="with a prompt and a text") as caught:
        read_held_out(path)
    assert "tuneserve perplexity" in (caught.value.hint or "")


def test_a_limit_is_spread_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text("".join(row(number) + "\n" for number in range(10)))
    assert [example.id for example in read_held_out(path, 5)] == ["r0", "r2", "r4", "r6", "r8"]
    assert len(read_held_out(path, 99)) == 10


def test_half_a_character_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(f"{row(1)}\n{row(2, group=chr(0xD83D))}\n{row(3, group=chr(0x1F600))}\n")
    with pytest.raises(UsageError) as caught:
        read_held_out(path)
    assert caught.value.problems == [
        f"{path}:2: holds half of a surrogate pair, which is no character"
    ]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x1e"])
def test_a_line_is_not_cut_at_what_else_ends_lines(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "test.jsonl"
    asked = [
        {"role": "user", "content": f"Two{mark}lines?"},
        {"role": "assistant", "content": f"So{mark}be it"},
    ]
    content = {"id": "r1", "group": None, "messages": asked}
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n" + row(2) + "\r\n")
    first, second = read_held_out(path)
    assert (first.reference, second.id) == (f"So{mark}be it", "r2")


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    empty_answer = [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]
    lines = [row(1), "{", row(1), row(3, messages=[]), row(4, messages=empty_answer), "[]"]
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError) as caught:
        read_held_out(path)
    places = [problem.split(": ")[0] for problem in caught.value.problems]
    assert places == [f"{path}:{line}" for line in (2, 3, 4, 5, 6)]


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_no_examples_is_an_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "test.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match="no held-out examples"):
        read_held_out(path)
