from __future__ import annotations

from tests.finetune.conftest import WriteLines
from tuneserve.chat.examples import Example
from tuneserve.finetune.data.kinds import (
    Kind,
    KindMember,
    grouped_by_kind,
    kind_of,
    kinds_of,
    typical,
)
from tuneserve.finetune.data.reading import read_examples

ASK = {"role": "user", "content": "Q"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}


def answer(text: str = "A", **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": text, **more}


def test_an_example_knows_the_shape_of_its_record(write_lines: WriteLines) -> None:
    path = write_lines(
        {"instruction": "a", "output": "b"}, {"text": "c"}, {"messages": [ASK, answer()]},
    )  # fmt: skip
    examples = read_examples(path).examples
    assert [kind_of(example) for example in examples] == ["alpaca", "text", "messages"]


def test_what_sets_an_example_apart_names_its_kind() -> None:
    result = {"role": "tool", "content": "7"}
    whole = Example(
        "x",
        (ASK, answer(tool_calls=[CALL], weight=0), result, answer(reasoning_content="Hm")),
        tools=({"type": "function"},),
        shape="messages",
    )
    assert kind_of(whole, cut=True) == (
        "messages with tools, calls, thoughts, several turns, answers only read, its end cut off"
    )
    assert kind_of(Example("x", (answer(),))) == "text"
    assert kind_of(Example("x", (ASK, answer()))) == "conversation"


def test_kinds_are_counted_by_part_the_most_frequent_first() -> None:
    plain = [Example(str(n), (ASK, answer("A" * n)), shape="alpaca") for n in range(4)]
    text = Example("t", (answer(),), shape="text", where="b:1")
    members = [
        KindMember("train", 0, text),
        *(KindMember("test" if n == 0 else "train", n, e) for n, e in enumerate(plain)),
    ]
    groups = grouped_by_kind(members)
    assert kinds_of(groups) == [
        Kind(name="alpaca", examples={"train": 3, "test": 1}, first=""),
        Kind(name="text", examples={"train": 1}, first="b:1"),
    ]
    assert typical(groups["alpaca"], [9, 1, 3, 2]).example == plain[3], "the middle of 1, 2, 3"
    held = [KindMember("test", 0, plain[0]), KindMember("replay", 0, plain[1])]
    assert typical(held, [1, 1]).part == "test"
