"""Thoughts, content and tool calls read from text in any pieces; grammars from schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serve.chat.test_round_trip import GEMMA_4, GLM, LFM2, MINIMAX, QWEN_CODER
from tuneserve.chat.call_formats import HERMES, CallForm
from tuneserve.chat.template_traits import TemplateTraits
from tuneserve.chat.tools import arranged
from tuneserve.serve.chat.answer_parser import PartReader
from tuneserve.serve.chat.channels import ChannelReader
from tuneserve.serve.chat.parts import (
    CallArguments,
    Content,
    Part,
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


LLAMA = CallForm(middle='", "parameters": ', several=False)
MISTRAL = CallForm(section="[TOOL_CALLS][", tail=', "id": "\x00"}', separator=",", section_end="]")
MISTRAL_NAMED = CallForm(begin="[TOOL_CALLS]", head="", middle="[ARGS]", tail="")
DEEPSEEK = CallForm(
    section="<calls>", begin="<call>function<sep>", head="", middle="\n```json\n", tail="",
    end="```</call>", section_end="</calls>",
)  # fmt: skip
PIECES = [
    "<tool_call>", "</tool_call>", '{"name": "f", "arguments": {', '{"name": "g", ',
    '"parameters": {', '"a": "}"', "}", "}}", "]", ", ", "\n", " ", "a", "[TOOL_CALLS]", "[", "f",
    "f[ARGS]{", "<calls>", "<call>function<sep>", "\n```json\n{", "```</call>", "</call>", "{", '"',
    "</calls>", "<|python_tag|>", "\\", "<think>", "</think>",
]  # fmt: skip


@settings(max_examples=1000)
@given(
    st.sampled_from([HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, DEEPSEEK]),
    st.sampled_from(["none", "may", "open"]),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.data(),
)
def test_an_answer_is_read_the_same_however_it_is_cut(
    form: CallForm, thoughts: Any, text: str, data: st.DataObject
) -> None:
    whole = read(PartReader(thoughts, calls=form), [text])
    for pieces in (cut(text, data), list(text)):
        parts = read(PartReader(thoughts, calls=form), pieces)
        assert [(c.name, c.arguments) for c in calls_of(parts)] == [
            (c.name, c.arguments) for c in calls_of(whole)
        ]
        for kind in (Content, Reasoning):
            assert joined(parts, kind) == joined(whole, kind)
    if thoughts == "none" and not calls_of(whole):
        tags = r"\A(\s*<\|python_tag\|>)+" if form is LLAMA else r"\A"
        assert joined(whole, Content) == re.sub(tags, "", text)


STYLED = [
    "a",
    " ",
    "\n",
    "f",
    "{",
    "}",
    "]",
    ",",
    "(",
    ")",
    '"',
    "'",
    "s",
    "=",
    "7",
    "<",
    "</",
    "é",
]
CHANNELED = [
    "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "assistant", "final",
    "analysis", " to=functions.f", "commentary json", "a", "<", "<|", " ", "{}",
]  # fmt: skip


@settings(max_examples=200)
@given(st.sampled_from([GEMMA_4, GLM, LFM2, MINIMAX, QWEN_CODER]), st.booleans(), st.data())
def test_calls_in_other_styles_are_read_the_same_however_they_are_cut(
    form: CallForm, ended: bool, data: st.DataObject
) -> None:
    begin = f"{form.section}{form.begin}{form.head}f{form.middle}"
    pieces = st.sampled_from([*STYLED, begin, form.end or form.section_end, *sorted(form.marks)])
    text = data.draw(st.lists(pieces, max_size=12).map("".join))
    assert_same(lambda: PartReader(calls=form), text, data, ended=ended)


@settings(max_examples=200)
@given(st.lists(st.sampled_from(CHANNELED), max_size=10).map("".join), st.booleans(), st.data())
def test_channels_are_read_the_same_however_they_are_cut(
    text: str, ended: bool, data: st.DataObject
) -> None:
    assert_same(lambda: ChannelReader(calls=True), text, data, ended=ended)


def assert_same(make: Callable[[], Any], text: str, data: st.DataObject, *, ended: bool) -> None:
    """`ended`: the answer ends by itself; if not, it is cut."""
    told = []
    for pieces in ([text], cut(text, data), list(text)):
        reader = make()
        parts = [part for piece in pieces for part in reader.feed(piece)]
        parts += reader.finish(cut=not ended)
        calls = [(call.name, call.arguments) for call in calls_of(parts)]
        told.append((joined(parts, Reasoning), joined(parts, Content), calls))
    assert told[0] == told[1] == told[2]


def test_calls_in_other_words_are_read() -> None:
    """The order of the keys, the arguments as text, a list, spaces: as models write them."""
    written = {"arguments": {"x": 1}, "name": "f"}
    for form, text in (
        (HERMES, f"<tool_call>{json.dumps(written)}</tool_call>"),
        (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>'),
        (LLAMA, '<|python_tag|> {"type": "function", "name": "f", "parameters": {"x": 1}}'),
        (LLAMA, '{"parameters": {"x": 1}, "name": "f", "type": "function"}'),
        (MISTRAL, f"[TOOL_CALLS] [ {json.dumps(written)} ]"),
        (MISTRAL_NAMED, '[TOOL_CALLS]f[ARGS] {"x": 1}'),
        (DEEPSEEK, '<call>function<sep>f\n```json\n{"x": 1}\n```</call>'),
    ):
        parts = read(PartReader(calls=form), [text])
        assert [(c.name, json.loads(c.arguments)) for c in calls_of(parts)] == [("f", {"x": 1})]
        assert joined(parts, Content) == ""


def test_an_answer_in_json_is_no_call() -> None:
    for text in ('{"name": "Bob", "age": 3}\n\nThat is all.', ' {"a": 1}', '{"name": "B'):
        parts = read(PartReader(calls=LLAMA), [text])
        assert calls_of(parts) == []
        assert joined(parts, Content) == text


def test_channels_are_told_apart() -> None:
    text = (
        "<|channel|>analysis<|message|>Rome <b>?<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        '<|constrain|>json<|message|>{"x": 1}<|call|>'
    )
    for pieces in ([text], list(text)):
        reader = ChannelReader(calls=True)
        parts = [part for piece in pieces for part in reader.feed(piece)] + reader.finish()
        assert joined(parts, Reasoning) == "Rome <b>?"
        assert joined(parts, Content) == "I look."
        assert [(c.name, c.arguments) for c in calls_of(parts)] == [("f", '{"x": 1}')]
    without = ChannelReader(calls=False)
    assert joined(
        without.feed("<|channel|>final<|message|>Hi <|e") + without.finish(), Content
    ) == ("Hi <|e")
    assert joined(ChannelReader(calls=True).feed("Hi"), Content) == "Hi"


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
