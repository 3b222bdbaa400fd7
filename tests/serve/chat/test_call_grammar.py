"""Grammars of calls let through what training writes, in every template's form, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.serve.chat.grammar_support import Allows
from tests.serve.chat.test_round_trip import (
    ARGUMENTS,
    FORMS,
    calling,
    rendered,
    template,
    written,
)
from tuneserve.chat.call_finder import call_form
from tuneserve.chat.call_formats import CallForm
from tuneserve.chat.template_traits import template_traits
from tuneserve.chat.thinking import CLOSE_THOUGHTS
from tuneserve.serve.chat.structured import GrammarCompiler

FUNCTIONS: dict[int, dict[str, Any]] = {
    0: {"name": "look_up", "parameters": {"type": "object", "additionalProperties": True}},
    1: {"name": "get-time"},
}


def answer(name: str, source: Path, *calls: tuple[str, dict[str, Any]]) -> str:
    """The trained text of an answer behind its thoughts."""
    text = written(rendered(template(name, source), calling(*calls)))
    return text.rpartition(CLOSE_THOUGHTS)[2].lstrip()


@pytest.mark.parametrize("name", sorted(FORMS))
def test_what_is_trained_is_allowed(
    name: str, llama_cpp_source: Path, grammars: GrammarCompiler, allows: Allows
) -> None:
    form = template_traits(template(name, llama_cpp_source)).form
    one, several = (
        grammars.compile_answer(None, FUNCTIONS, several=several, opened=False, form=form)
        for several in (False, True)
    )
    for arguments in ARGUMENTS:
        text = answer(name, llama_cpp_source, ("look_up", arguments))
        assert allows(one, text), text
        assert allows(several, text), text
    assert not allows(one, "look_up")
    assert not allows(one, answer(name, llama_cpp_source, ("other", {})))
    assert not allows(one, answer(name, llama_cpp_source, ("get-time", {"x": 1})))
    if form.several:
        text = answer(name, llama_cpp_source, ("look_up", {"city": "Rome"}), ("get-time", {}))
        assert not allows(one, text)
        assert allows(several, text), text


@pytest.mark.parametrize("name", sorted(FORMS))
def test_the_rest_of_a_call_is_bounded_behind_its_mark(
    name: str, llama_cpp_source: Path, grammars: GrammarCompiler, allows: Allows
) -> None:
    form = template_traits(template(name, llama_cpp_source)).form
    grammar = grammars.compile_answer(None, FUNCTIONS, several=True, opened=True, form=form)
    text = answer(name, llama_cpp_source, ("look_up", {"city": "Rome"}))
    if form.triggers:
        text = text.partition(form.triggers[0])[2]
    assert allows(grammar, text), text
    wrong = text.replace("look_up", "look_down")
    # An object of another name is an answer in JSON where no mark says that it is a call.
    assert allows(grammar, wrong) == (not form.triggers and not form.text_name)


def test_where_calls_have_no_mark_text_and_json_are_answers(
    grammars: GrammarCompiler, allows: Allows
) -> None:
    form = CallForm(middle='", "parameters": ', several=False)
    grammar = grammars.compile_answer(None, FUNCTIONS, several=True, opened=True, form=form)
    for text in ("", "Hello {you}", '{"a": 1}', '{"name": "Bob", "age": 3}', '[{"name": "x"}]'):
        assert allows(grammar, text), text
    assert allows(grammar, '{"name": "look_up", "parameters": {"a": [1]}}')
    assert not allows(grammar, '{"name": "look_up", "age": 3}')
    assert not allows(grammar, '{"name": "get-time", "parameters": {"a": [1]}}')


def test_models_may_leave_ids_and_spaces_away(
    llama_cpp_source: Path, grammars: GrammarCompiler, allows: Allows
) -> None:
    form = call_form(template("mistralai-Mistral-Nemo-Instruct-2407", llama_cpp_source))
    assert form is not None
    grammar = grammars.compile_answer(None, FUNCTIONS, several=True, opened=False, form=form)
    assert allows(grammar, '[TOOL_CALLS] [{"name":"get-time","arguments":{}}]')
    assert allows(grammar, '[TOOL_CALLS][{"name": "get-time", "arguments": {}, "id": "abc"}]')


def test_channels_come_in_the_models_own_order(
    llama_cpp_source: Path, grammars: GrammarCompiler, allows: Allows
) -> None:
    form = call_form(template("openai-gpt-oss-120b", llama_cpp_source))
    assert form is not None
    grammar = grammars.compile_answer(None, FUNCTIONS, several=True, opened=False, form=form)
    call = "commentary to=functions.get-time <|constrain|>json<|message|>{}"
    assert allows(grammar, f"<|channel|>{call}")
    thoughts = "<|channel|>analysis<|message|>I ask.<|end|><|start|>assistant"
    assert allows(grammar, f"{thoughts}<|channel|>{call}")
    assert not allows(grammar, "<|channel|>final<|message|>No.")
