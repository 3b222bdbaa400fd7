"""An answer that ends within a call: of a mark nothing is shown, of a call what is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.serve.chat.test_round_trip import (
    FORMS,
    QWEN_CODER,
    calling,
    reader,
    rendered,
    template,
    written,
)
from tuneserve.chat.call_formats import HERMES, CallForm
from tuneserve.chat.template_traits import template_traits
from tuneserve.chat.thinking import CLOSE_THOUGHTS
from tuneserve.serve.chat.answer_parser import PartReader
from tuneserve.serve.chat.channels import ChannelReader
from tuneserve.serve.chat.parts import Content, Part, Reasoning, calls_of

ARGUMENTS: dict[str, Any] = {"city": 'She said:\n"é" <b> 🦙', "n": 7, "list": [1, {"k": True}]}


def shown(parts: list[Part], kind: type[Content] | type[Reasoning] = Content) -> str:
    return "".join(part.text for part in parts if isinstance(part, kind)).strip()


@pytest.mark.parametrize("name", sorted(FORMS))
def test_wherever_it_is_cut(name: str, llama_cpp_source: Path) -> None:
    one = template(name, llama_cpp_source)
    rendering = rendered(one, calling(("look_up", ARGUMENTS)))
    text = written(rendering)
    whole = reader(one, rendering)
    (wanted,) = calls_of([*whole.feed(text), *whole.finish()])
    seen = set()
    for end in range(len(text)):
        cut = reader(one, rendering)
        parts = [part for character in text[:end] for part in cut.feed(character)]
        parts += cut.finish(cut=True)
        assert shown(parts) == ""
        # Of thoughts there are none, so a mark's beginning alone could be shown as one.
        assert shown(parts, Reasoning) in ("", CLOSE_THOUGHTS)
        for call in calls_of(parts):
            assert call.name == wanted.name
            assert wanted.arguments.startswith(call.arguments)
            seen.add(call.arguments)
    # It grows with the answer, at the least by arguments.
    assert len(seen) > 3


@pytest.mark.parametrize("name", sorted(FORMS))
def test_a_stop_string_within_a_call_shows_no_mark(name: str, llama_cpp_source: Path) -> None:
    one = template(name, llama_cpp_source)
    rendering = rendered(one, calling(("look_up", ARGUMENTS)))
    text = written(rendering)
    for end in range(len(text)):
        for length in (1, 4, 40):
            cut = reader(one, rendering)
            stop = text[end : end + length]
            parts = [*cut.feed(text[:end]), *cut.finish(stop=stop)]
            assert shown(parts) == "", (text[:end], stop)
            (call,) = calls_of(parts) or (None,)
            if call and not cut.in_call:
                assert json.loads(call.arguments) == ARGUMENTS


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "meta-llama-Llama-3.2-3B-Instruct"])
def test_a_required_call_has_no_content_however_it_ends(name: str, llama_cpp_source: Path) -> None:
    form = template_traits(template(name, llama_cpp_source)).form
    rendering = rendered(template(name, llama_cpp_source), calling(("look_up", ARGUMENTS)))
    text = written(rendering).rpartition(CLOSE_THOUGHTS)[2].lstrip()
    for end in range(len(text)):
        for is_cut in (False, True):
            cut = PartReader(calls=form, only_calls=True)
            assert shown([*cut.feed(text[:end]), *cut.finish(cut=is_cut)]) == ""


def test_a_call_without_its_first_mark_is_one() -> None:
    argument = "<parameter=city>\nRome\n</parameter>"
    text = f"I look.\n<function=look_up>\n{argument}\n</function>\n</tool_call>"
    for pieces in ([text], text):
        one = PartReader(calls=QWEN_CODER, functions={"look_up": {}})
        parts = [part for piece in pieces for part in one.feed(piece)] + one.finish()
        (call,) = calls_of(parts)
        assert (call.name, json.loads(call.arguments)) == ("look_up", {"city": "Rome"})
        assert shown(parts) == "I look."


def test_text_in_front_of_a_cut_mark_stays() -> None:
    one = PartReader(calls=HERMES)
    assert shown([*one.feed("I look.\n<tool_"), *one.finish(cut=True)]) == "I look."
    one = PartReader(calls=HERMES)
    assert shown([*one.feed("1 <"), *one.finish()]) == "1 <"
    one = PartReader(calls=HERMES)
    assert shown([*one.feed("1 <"), *one.finish(stop="b")]) == "1 <"
    channels = ChannelReader(calls=True)
    parts = [*channels.feed("<|channel|>final<|message|>Hi<|e"), *channels.finish(cut=True)]
    assert shown(parts) == "Hi"


def test_an_answer_in_json_that_is_cut_is_no_call() -> None:
    form = CallForm(middle='", "parameters": ', several=False)
    for text in ('{"name": "Bob", "age', '{"a": "b'):
        one = PartReader(calls=form, functions={"look_up": {}})
        assert shown([*one.feed(text), *one.finish(cut=True)]) == text
    for text in ('{"na', '{"name": "look', '{"name": "look_up", "para'):
        one = PartReader(calls=form, functions={"look_up": {}})
        assert [*one.feed(text), *one.finish(cut=True)] == []


def test_thoughts_that_are_cut_show_no_mark() -> None:
    for text in ("<think>So</thi", "<think>So", "<thi"):
        one = PartReader("may")
        parts = [*one.feed(text), *one.finish(cut=True)]
        assert shown(parts, Reasoning) == ("So" if "So" in text else "")
        assert shown(parts) == ""


def test_half_a_character_in_arguments_can_be_encoded() -> None:
    written = '{"name": "f", "arguments": "{\\"x\\": \\"\\\\ud83d\\"}"}'
    one = PartReader(calls=HERMES)
    parts = [*one.feed(f"<tool_call>{written}</tool_call>"), *one.finish()]
    (call,) = calls_of(parts)
    call.arguments.encode()
    assert json.loads(call.arguments) == {"x": "\ud83d"}
