"""Answers whose messages are addressed, in pieces of any size."""

from __future__ import annotations

import json

import pytest

from tests.serve.chat.grammar_support import Allows
from tests.serve.chat.test_round_trip import FUNCTIONARY
from tuneserve.serve.chat.parts import Content, Part, calls_of
from tuneserve.serve.chat.recipients import RecipientReader
from tuneserve.serve.chat.structured import GrammarCompiler

CALL = 'look_up\n{"city": "a>>>b"}'


def read(text: str, size: int, *, calls: bool = True, begun: bool = False) -> list[Part]:
    reader = RecipientReader(FUNCTIONARY, calls=calls, begun=begun)
    pieces = [text[place : place + size] for place in range(0, len(text), size)]
    return [part for piece in pieces for part in reader.feed(piece)] + reader.finish()


def content(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Content))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_texts_and_calls(size: int) -> None:
    parts = read(f"all\nHi >> there>>>{CALL}>>>get-time\n{{}}", size)
    assert content(parts) == "Hi >> there"
    told = [(call.name, json.loads(call.arguments)) for call in calls_of(parts)]
    assert told == [("look_up", {"city": "a>>>b"}), ("get-time", {})]
    assert content(read("all\nHi", size)) == "Hi"
    assert content(read(CALL, size, calls=False)) == CALL
    assert content(read("{ a: 1 }", size)) == "{ a: 1 }"
    assert content(read("on and on", size, begun=True)) == "on and on"


def test_the_grammar_of_text_and_calls(grammars: GrammarCompiler, allows: Allows) -> None:
    functions = {0: {"name": "look_up", "parameters": {"properties": {"n": {"type": "integer"}}}}}
    free = grammars.compile_answer(None, functions, several=True, opened=True, form=FUNCTIONARY)
    for text in ("all\nHi >> you", 'look_up\n{"n": 1}', 'all\nHi>>>look_up\n{"n": 1}'):
        assert allows(free, text), text
    for text in ("Hi", "all\nHi>>>", "other\n{}", 'all\nHi>>>look_up\n{"n": "x"}'):
        assert not allows(free, text), text
    called = grammars.compile_answer(None, functions, several=True, opened=False, form=FUNCTIONARY)
    assert allows(called, 'look_up\n{"n": 1}>>>look_up\n{"n": 2}')
    assert not allows(called, "all\nHi")
