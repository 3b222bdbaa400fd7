"""Thoughts, content and tool calls read from text in any pieces; grammars from schemas."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tuneserve.chat.call_formats import HERMES
from tuneserve.chat.template_traits import TemplateTraits
from tuneserve.chat.tools import arranged
from tuneserve.serve.chat.answer_parser import (
    CallArguments,
    Content,
    Part,
    PartReader,
    Reasoning,
    calls_of,
    parse_calls,
)

WORDS = st.text(alphabet="ab <>/", max_size=12)


def read(reader: PartReader, pieces: list[str]) -> list[Part]:
    parts = [part for piece in pieces for part in reader.feed(piece)]
    return parts + reader.finish()


def joined(parts: list[Part], kind: type[Content] | type[Reasoning]) -> str:
    return "".join(part.text for part in parts if isinstance(part, kind))


def cut(text: str, data: st.DataObject) -> list[str]:
    pieces = []
    while text:
        size = data.draw(st.integers(1, len(text)))
        pieces.append(text[:size])
        text = text[size:]
    return pieces


@given(WORDS, WORDS, st.booleans(), st.data())
def test_thoughts_and_content_come_apart(
    thought: str, answer: str, opened: bool, data: st.DataObject
) -> None:
    text = f"{'' if opened else '<think>'}{thought}</think>\n\n{answer}"
    parts = read(PartReader("open" if opened else "may"), cut(text, data))
    assert joined(parts, Reasoning).strip() == thought.strip()
    assert joined(parts, Content) == answer.lstrip()


@given(WORDS, WORDS, st.data())
def test_calls_are_found_between_content(before: str, value: str, data: st.DataObject) -> None:
    call = json.dumps({"name": "f", "arguments": {"x": value}})
    text = f"{before}<tool_call>\n{call}\n</tool_call>\n<tool_call>{call}</tool_call>"
    parts = read(PartReader(calls=HERMES), cut(text, data))
    calls = calls_of(parts)
    assert [json.loads(one.arguments) for one in calls] == [{"x": value}] * 2
    assert joined(parts, Content) == before
    assert calls[0].id != calls[1].id


@given(st.recursive(st.text(max_size=8), lambda x: st.dictionaries(WORDS, x), max_leaves=5))
def test_arguments_are_passed_on_as_they_come(value: object) -> None:
    """Every character of them but those that a mark could hold back."""
    arguments = json.dumps({"x": value}, ensure_ascii=False)
    reader = PartReader(calls=HERMES)
    assert reader.feed("<tool_call>") == []
    begin = reader.feed('{"name": "f", "arguments": ')
    assert begin == []
    told = ""
    for character in arguments:
        parts = reader.feed(character)
        told += "".join(part.text for part in parts if isinstance(part, CallArguments))
        assert arguments.startswith(told)
    assert told == arguments
    assert reader.feed("}\n</tool_call> after") == [Content("after")]


def test_a_call_that_is_cut_off_keeps_what_it_said() -> None:
    parts = read(PartReader(calls=HERMES), ['<tool_call>{"name": "f", "arguments": {"x": "a'])
    (call,) = calls_of(parts)
    assert (call.name, call.arguments) == ("f", '{"x": "a')


@given(WORDS, st.data())
def test_text_without_marks_is_all_content(text: str, data: st.DataObject) -> None:
    for reader in (PartReader(), PartReader("may"), PartReader(calls=HERMES)):
        parts = read(reader, cut(text, data))
        assert joined(parts, Content) == text
        assert PartReader().plain


def test_what_is_no_call_stays_text() -> None:
    text = "<tool_call>not json</tool_call>"
    assert joined(read(PartReader(calls=HERMES), [text]), Content) == text
    assert joined(read(PartReader(calls=HERMES), ["a<tool_call>{"]), Content) == "a<tool_call>{"
    assert parse_calls('{"name": 1}') is None
    assert parse_calls('{"name": "f", "arguments": []}') is None


def test_templates_without_tools_get_them_described() -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "2", "tool_call_id": "x"},
    ]
    traits = TemplateTraits(system=True, tools=None, calls=None, form=HERMES, own_thoughts=False)
    turns, variables = arranged(messages, [tool], traits)
    assert variables == {"tools": None}
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert '{"name": "add"}' in turns[0]["content"]
    assert turns[2]["content"].startswith('<tool_call>{"name": "add"')
    assert "2" in turns[3]["content"]
