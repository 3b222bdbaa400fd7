"""Tools whose schemas can't be enforced as they are, where the model need not call them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.serve.chat.grammar_support import Allows
from tuneserve.serve.chat.grammar_errors import GrammarError
from tuneserve.serve.chat.loosened import compile_calls
from tuneserve.serve.chat.structured import GrammarCompiler

TEXT = {"type": "string"}
NUMBER = {"type": "integer", "minimum": 1}


def function(name: str, properties: Any, **schema: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, **schema}
    return {"name": name, "parameters": parameters}


def call(name: str, **arguments: Any) -> str:
    return f"\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "format": ({"a": {"type": "string", "format": "json"}}, "format"),
    "pattern": ({"a": {"type": "string", "pattern": "^(?!x)"}}, "pattern"),
    "not": ({"a": {"type": "string", "not": {"const": "b"}}}, "not"),
    "uniqueItems": ({"a": {"type": "array", "items": TEXT, "uniqueItems": True}}, "uniqueItems"),
    "elsewhere": ({"a": {"$ref": "https://example.org/schema.json"}}, "$ref"),
    "nowhere": ({"a": {"$ref": "#/$defs/none"}}, "$ref"),
    "type": ({"a": {"type": "file"}}, "type"),
    "oneOf": ({"a": {"oneOf": [TEXT, {"type": "string", "maxLength": 3}]}}, "oneOf"),
    "large": ({"a": {"type": "integer", "minimum": 1e300}}, "minimum"),
    "patterns": (
        {"a": {"type": "object", "patternProperties": {"(?=a)": {}}}},
        "patternProperties",
    ),
}


@pytest.mark.parametrize(("properties", "lost"), ODD.values(), ids=list(ODD))
def test_what_can_be_enforced_is_and_the_rest_is_told(
    grammars: GrammarCompiler, allows: Allows, properties: dict[str, Any], lost: str
) -> None:
    odd = function("odd", {"b": NUMBER, **properties}, required=["b"])
    functions = {2: function("fine", {"b": NUMBER}, required=["b"]), 5: odd}
    for _ in range(2):  # the second time it is known
        grammar, told = compile_calls(
            grammars, None, functions, several=True, opened=True, must_call=False
        )
        assert told == (f"tools[5].function.parameters: {lost}",)
        assert allows(grammar, call("fine", b=3))
        assert allows(grammar, call("odd", b=3))
        assert not allows(grammar, call("odd", b="3"))
        assert not allows(grammar, call("fine", b=0))


@pytest.mark.parametrize(
    "parameters",
    [{"$ref": "#"}, {"type": "object", "properties": 5}, {"type": "object", "required": "x"}],
)
def test_a_schema_of_which_nothing_is_left_is_any_object(
    grammars: GrammarCompiler, allows: Allows, parameters: dict[str, Any]
) -> None:
    functions = {0: {"name": "odd", "parameters": parameters}}
    grammar, told = compile_calls(
        grammars, None, functions, several=False, opened=True, must_call=False
    )
    assert told == ("tools[0].function.parameters: all",)
    assert allows(grammar, call("odd", anything=[1]))
    assert not allows(grammar, call("other"))


def test_many_schemas_that_are_too_large_together_are_any_objects(
    grammars: GrammarCompiler, allows: Allows
) -> None:
    large = {f"property_{number}": TEXT for number in range(1000)}
    functions = {place: function(f"f{place}", large) for place in range(12)}
    grammar, told = compile_calls(
        grammars, None, functions, several=True, opened=True, must_call=False
    )
    assert len(told) == 12
    assert allows(grammar, call("f7", x=1))


def test_a_strict_function_is_enforced_or_refused(grammars: GrammarCompiler) -> None:
    strict = {**function("odd", {"a": {"type": "string", "format": "json"}}), "strict": True}
    functions = {0: function("fine", {}), 3: strict}
    with pytest.raises(GrammarError) as caught:
        compile_calls(grammars, None, functions, several=True, opened=True, must_call=False)
    assert caught.value.param == "tools[3].function.parameters"
    assert caught.value.message.startswith("tools[3].function.parameters ('odd') can't be enforced")


def test_the_answers_own_schema_is_not_loosened(grammars: GrammarCompiler) -> None:
    schema = {"type": "string", "format": "json"}
    with pytest.raises(GrammarError, match="Unknown format: json"):
        compile_calls(
            grammars, schema, {0: function("fine", {})}, several=True, opened=False, must_call=False
        )


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "nullable": True}, [None, "a"], [1]),
        ({"type": "string", "nullable": True, "enum": ["a"]}, [None, "a"], ["b"]),
        ({"type": "object", "propertyNames": {"enum": ["a", "b.c"]}}, [{"b.c": 1}, {}], [{"c": 1}]),
        (
            {
                "type": "object",
                "propertyNames": {"type": "string", "pattern": "^x-"},
                "additionalProperties": {"type": "integer"},
            },
            [{"x-a": 1}],
            [{"x-a": "b"}, {"y": 1}],
        ),
        ({"type": "object", "properties": {"a": TEXT, "b": {"not": {}}}}, [{"a": "x"}], [{"b": 1}]),
        ({"type": "array", "uniqueItems": False}, [[1, 1]], [1]),
        ({"$ref": "#/$defs/a%20b", "$defs": {"a b": {"type": "integer"}}}, [1], ["a"]),
    ],
)
def test_the_same_in_words_that_can_be_enforced(
    grammars: GrammarCompiler, allows: Allows, schema: dict[str, Any], right: Any, wrong: Any
) -> None:
    grammar = grammars.compile_answer(schema, {}, several=False, opened=False)
    assert [allows(grammar, json.dumps(value)) for value in right] == [True] * len(right)
    assert [allows(grammar, json.dumps(value)) for value in wrong] == [False] * len(wrong)


@pytest.mark.parametrize(
    ("regex", "right", "wrong"),
    [
        ("[a-c]+/[0-9]{2}", ["abc/12"], ["abc/1", "abc/123", "x/12"]),
        (r"\d+\/\w", ["12/x"], ["12x"]),
        ("a\nb", ["a\nb"], ["ab"]),
        ("(yes|no)", ["yes", "no"], ["y"]),
    ],
)
def test_a_regular_expression_bounds_the_whole_answer(
    grammars: GrammarCompiler, allows: Allows, regex: str, right: list[str], wrong: list[str]
) -> None:
    grammar = grammars.compile_regex(regex, "guided_regex")
    assert [allows(grammar, text) for text in right] == [True] * len(right)
    assert [allows(grammar, text) for text in wrong] == [False] * len(wrong)


def test_one_of_some_texts(grammars: GrammarCompiler, allows: Allows) -> None:
    texts = ['say "x"', "a\\b", "日本", "a/b\n"]
    grammar = grammars.compile_choice(texts, "guided_choice")
    assert all(allows(grammar, text) for text in texts)
    assert not allows(grammar, "a")


@pytest.mark.parametrize("regex", ["(?=a)b", "(a", "[", "\ud83d", "a{100000}{100000}"])
def test_other_regular_expressions_are_refused(grammars: GrammarCompiler, regex: str) -> None:
    with pytest.raises(GrammarError) as caught:
        grammars.compile_regex(regex, "guided_regex")
    assert caught.value.param == "guided_regex"
