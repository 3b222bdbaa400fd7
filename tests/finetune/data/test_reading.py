from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.finetune.check import gather
from tuneserve.finetune.data.prepare import prepare_examples
from tuneserve.finetune.data.reading import read_examples
from tuneserve.settings import DataSettings


def test_reads_instruction_input_output(write_lines: Any) -> None:
    path = write_lines(
        {"instruction": "Add.", "input": "1+1", "output": "2", "group": "maths", "id": 7},
        {"instruction": "Say hi.", "input": "", "output": "hi"},
    )
    first, second = read_examples(path).examples
    assert [m["content"] for m in first.messages] == ["Add.\n\n1+1", "2"]
    assert [m["role"] for m in first.messages] == ["user", "assistant"]
    assert (first.id, first.group, first.where) == ("7", "maths", f"{path}:1")
    assert second.messages[0]["content"] == "Say hi."
    assert len(second.id) == 16


def test_reads_messages_and_system_prompts(write_lines: Any) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    own = [{"role": "system", "content": "mine"}, *chat]
    path = write_lines({"messages": chat}, {"messages": own}, {"messages": chat, "system": "row"})
    systems = [e.messages[0]["content"] for e in read_examples(path, system="default").examples]
    assert systems == ["default", "mine", "row"]


def test_id_depends_on_content_only(write_lines: Any) -> None:
    one = {"instruction": "a", "output": "b"}
    other = {"instruction": "c", "output": "d"}
    before = read_examples(write_lines(one, name="x.jsonl")).examples[0].id
    after = read_examples(write_lines(other, one, name="y.jsonl")).examples[1].id
    assert before == after


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, got a list"),
        ('{"a": 1}', "needs instruction + output"),
        ('{"instruction": "x"}', "key 'output' is missing"),
        ('{"question": "x", "answer": null}', "'answer' is empty: there is nothing to learn"),
        ('{"question": null, "answer": "x"}', "'question' is empty"),
        ('{"instruction": "x", "output": "  "}', "'output' is empty"),
        ('{"instruction": " ", "output": "x"}', "'instruction' is empty"),
        ('{"instruction": NaN, "output": "x"}', "'instruction' must be text, got nan"),
        ('{"instruction": "x", "output": [Infinity]}', "can't be written as JSON"),
        ('{"instruction": "\\ud800", "output": "x"}', "surrogate"),
        ('{"messages": []}', "must be a list of messages, got an empty list"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "last message must be the assist"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "'role' must be one of"),
        ('{"messages": [{"role": "user"}]}', "key 'content' is missing"),
        (
            '{"messages": [{"role": "user", "content": "x"},'
            ' {"role": "assistant", "content": "x", "weight": 0}]}',
            "every answer of 'messages' has weight 0",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}',
            "'weight' must be 0 or 1, got 0.5",
        ),
        (
            '{"messages": [{"role": "system", "content": "x"},'
            ' {"role": "assistant", "content": "x"}]}',
            "'messages' has no message of the user's",
        ),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls":'
            ' [{"function": {"name": "f", "arguments": "{oops"}}]}]}',
            "messages[1].tool_calls: the arguments of a call must be JSON",
        ),
        ("[" * 100_000, "not usable JSON"),
        ("9" * 10_000, "not usable JSON"),
    ],
)
def test_says_what_is_wrong_and_where(write_lines: Any, line: str, reason: str) -> None:
    path = write_lines({"instruction": "x", "output": "y"}, line)
    with pytest.raises(UsageError) as caught:
        read_examples(path)
    assert caught.value.where == f"{path}:2"
    assert reason in caught.value.message


def test_all_problems_are_told_at_once_but_twenty_are_shown(write_lines: Any) -> None:
    bad = [{f"key{n}": "x"} for n in range(25)]  # each with a reason of its own
    path = write_lines(*bad, {"instruction": "x", "output": "y"})
    with pytest.raises(UsageError) as caught:
        read_examples(path)
    assert "25 of 26 examples" in caught.value.message
    assert len(caught.value.problems) == 25
    assert caught.value.render().count("examples.jsonl:") == 21
    assert "and 5 more" in caught.value.render()


def test_equal_reasons_are_told_once_with_their_number_and_first_places(write_lines: Any) -> None:
    path = write_lines(*[{"instruction": f"q {i}"} for i in range(25)], "{", {"text": "x"})
    with pytest.raises(UsageError) as caught:
        read_examples(path)
    assert len(caught.value.problems) == 26
    shown = caught.value.render().splitlines()
    assert len(shown) == 4  # what, two reasons, what to do
    assert shown[1].startswith("  25 x key 'output' is missing")
    assert shown[1].endswith(f"({path}:1, :2, :3, :4, :5 and 20 more)")
    assert shown[2].startswith(f"  {path}:26: not JSON")


def test_a_mapped_key_that_no_record_has_is_one_error_with_those_there_are(
    write_lines: Any,
) -> None:
    path = write_lines(*[{"Frage": f"q {i}", "Antwort": "a"} for i in range(20)])
    wrong = {"instruction": "Nope", "output": "Antwort"}
    with pytest.raises(UsageError) as caught:
        read_examples(path, fields=wrong)
    assert caught.value.where == str(path)
    assert "there is no column or key 'Nope'" in caught.value.message
    assert "there are: 'Frage', 'Antwort'" in caught.value.message
    assert caught.value.problems == []
    right = read_examples(path, fields={"instruction": "Frage", "output": "Antwort"})
    assert len(right.examples) == 20
    # Another file with our own names needs none of the mapped ones.
    ours = write_lines({"instruction": "q", "output": "a"}, name="ours.jsonl")
    assert len(read_examples(ours, fields=wrong).examples) == 1


def test_an_id_given_twice_costs_no_record(write_lines: Any) -> None:
    path = write_lines(
        *({"id": "a", "instruction": text, "output": "y"} for text in ("x", "z", "x")),
        {"id": 1.0, "instruction": "w", "output": "y"},
        {"id": [2], "instruction": "v", "output": "y"},
    )
    read = read_examples(path)
    first, second, third, fourth, fifth = (example.id for example in read.examples)
    assert (first, fourth, len(fifth)) == ("a", "1", 16)
    assert second.startswith("a:")
    assert third.startswith("a:")
    assert second != third
    assert [e.id for e in read_examples(path).examples] == [e.id for e in read.examples]
    assert read.notes.lines() == [
        f"2 x its id is an earlier record's: it gets another (first: {path}:2)",
        f"1 x an id that is neither text nor a number is not used (first: {path}:5)",
    ]


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such data file"):
        read_examples(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(UsageError, match="holds no usable example"):
        read_examples(tmp_path / "empty.jsonl")


def test_byte_order_mark_and_carriage_returns_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"instruction": "x", "output": "y"}\r\n\r\n')
    assert len(read_examples(path).examples) == 1
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfOnce.\r\n")
    assert read_examples(path).examples[0].messages[0]["content"] == "Once."


def test_rows_of_the_run_directory_come_back_as_they_were(write_lines: Any) -> None:
    path = write_lines({"instruction": "x", "output": "y", "source": "doc", "group": "g"})
    example = read_examples(path).examples[0]
    row = json.loads(json.dumps(example.to_row()))
    assert Example.from_row(row, example.where) == example


keys = st.sampled_from(
    ["messages", "role", "content", "instruction", "input", "output", "system", "id", "group"]
) | st.text(max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=12,
)
lines = st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode())


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(lines, max_size=4).map(b"\n".join),
    st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"]),
    st.booleans(),
)
def test_whatever_the_file_holds_it_is_examples_or_a_usage_error(
    tmp_path: Path, content: bytes, suffix: str, skip_bad: bool
) -> None:
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(content)
    try:
        read = read_examples(path, skip_bad=skip_bad)
    except UsageError as error:
        assert str(path) in error.render()
        return
    for example in read.examples:
        last = example.messages[-1]
        assert last["role"] == "assistant"
        assert (last["content"] or "").strip() or last["tool_calls"]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(json_values, min_size=1, max_size=4))
def test_whatever_a_json_list_holds_it_is_examples_or_a_usage_error(
    tmp_path: Path, values: list[object]
) -> None:
    path = tmp_path / "fuzz.json"
    path.write_text(json.dumps(values))
    try:
        assert read_examples(path).examples
    except UsageError as error:
        assert str(path) in error.render()


@pytest.mark.parametrize("ours", ["system", "source", "output"])
def test_a_mapped_key_that_no_file_has_is_an_error_though_others_are_known(
    tmp_path: Path, ours: str
) -> None:
    """A mistyped `system` would train without its prompt."""
    plain, more = tmp_path / "plain.jsonl", tmp_path / "more.jsonl"
    row = {"instruction": "q", "output": "a"}
    plain.write_text("".join(json.dumps({**row, "instruction": f"q {n}"}) + "\n" for n in range(9)))
    chosen = DataSettings(file=plain, fields=(f"{ours}=Sytem",), eval_fraction=0, test_fraction=0)
    with pytest.raises(UsageError, match="there is no column or key 'Sytem'"):
        prepare_examples(chosen)
    with pytest.raises(UsageError, match="there is no column or key 'Sytem'"):
        gather(chosen)
    more.write_text(json.dumps({**row, "Sytem": "b"}) + "\n")
    found = prepare_examples(chosen.model_copy(update={"more": (str(more),)}))
    (note,) = [note for note in found.notes if "no record has 'Sytem'" in note.text]
    assert (note.first, note.odd) == (str(plain), False)
