"""Grammars and schemas: what is refused before llama.cpp sees it, and what the rest allows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuneserve.llama import LlamaModel, backend
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.chat.grammar import check_grammar, schema_grammar
from tuneserve.serve.chat.grammar_check import GrammarError, check_text
from tuneserve.serve.chat.tools import calls_grammar
from tuneserve.serve.engine.sampling import Candidates

Allows = Callable[[str, str], bool]


@pytest.fixture(scope="module")
def model(demo_gguf: Path) -> Iterator[LlamaModel]:
    with LlamaModel(demo_gguf, vocab_only=True) as model:
        yield model


@pytest.fixture(scope="module")
def allows(model: LlamaModel) -> Allows:
    """Does llama.cpp, bound by a grammar, let a text through from beginning to end?"""
    api = backend()

    def allows(grammar: str, text: str) -> bool:
        check_grammar(model, grammar, param="test")
        sampler = api.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
        try:
            for token in [*model.tokenize(text, parse_special=False), model.eos]:
                lone = Candidates.of_token(token)
                api.llama_sampler_apply(sampler, lone.pointer)
                if lone.first_logit == -np.inf:
                    return False
                api.llama_sampler_accept(sampler, token)
        finally:
            api.llama_sampler_free(sampler)
        return True

    return allows


CHAIN = "\n".join(f"r{n} ::= r{n + 1} | r{n + 1}" for n in range(60))


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("root ::= " + "(" * 49_000 + '"a"' + ")" * 49_000, "nested more than 500 deep"),
        ('root ::= "a"{5,3}', "wrong way round"),
        ('root ::= "a"{0,1001}', "beyond 1000"),
        ('root ::= "a"{' + "9" * 5000 + "}", "beyond 1000"),
        ('root ::= ("a"{0,50}){50}', "too many rules"),
        ('root ::= "' + "a" * 1000 + '"{1000}', "too large"),
        (f'root ::= r0\n{CHAIN}\nr60 ::= "a"', "too many ways"),
        ('root ::= root "a" | "b"', "'root' can begin with itself"),
        # llama.cpp does not see that `e` is empty, and then never ends.
        ('root ::= e root "y" | "x"\ne ::= f\nf ::= ""', "'root' can begin with itself"),
        ('root ::= ("a"*)*', "'root' can begin with itself"),
        ('root ::= "a" b', "'b', which is no rule"),
        ('root ::= "a" b{0}', "'b', which is no rule"),
        ('root ::= b\nroot ::= "a"', "'b', which is no rule"),
        ("root ::= " + "b" * 10_000, "which is no rule"),
        ('rot ::= "a"', "no rule 'root'"),
        ('root ::= "x" ' + '"a"? ' * 3000, "too many ways to go on"),
        ("root ::= (", "not closed"),
        ('root ::= "a")', "not opened"),
        ('root ::= "a', "not expected"),
        ('root ::= "a"\n\nb "c"', "line 3"),
        (r'root ::= "\q"', "not expected"),
        ('root ::= * "a"', "nothing to repeat"),
        ("root ::= <no token at all>", "no token"),
        ('root ::= "a\0"', "NUL"),
        ('root ::= "\ud800"', "not valid Unicode"),
    ],
)
def test_grammars_that_harm_llama_cpp_never_reach_it(
    model: LlamaModel, grammar: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ApiError) as caught:
        check_grammar(model, grammar, param="grammar")
    assert reason in str(caught.value.detail)
    assert (caught.value.status_code, caught.value.body["error"]["param"]) == (400, "grammar")
    assert len(str(caught.value.detail)) < 200
    assert capfd.readouterr().err == ""


GRAMMARS = [
    ('root ::= "yes" | "no"', "yes", "maybe"),
    (
        "# a comment\nroot ::=\n  a | # or\n  b\na ::= [a-c\\]-]+\n\nb ::= (\n [^a]\n)? \r\n",
        "]-ab",
        "d.",
    ),
    ('root ::= ("a" "b"?){2,3} .', "abaab!", "a!"),
    ('root ::= "\\x41\\u00e9\\"" {1} x{0,2}\nx ::= "-"', 'Aé"--', "Aé"),
    ('root ::= <|im_start|> | !<[7]> " "+', "x ", "x"),
    ("root ::= " + "(" * 400 + '"a"' + ")" * 400, "a", "b"),
    ('root ::= "a"{0,1000}', "a" * 999, "b"),
]


@pytest.mark.parametrize(("grammar", "good", "bad"), GRAMMARS)
def test_sound_grammars_are_left_alone(allows: Allows, grammar: str, good: str, bad: str) -> None:
    assert allows(grammar, good)
    assert not allows(grammar, bad)


def test_the_grammars_that_llama_cpp_ships_are_sound(llama_cpp_source: Path) -> None:
    paths = sorted((llama_cpp_source / "grammars").glob("*.gbnf"))
    assert len(paths) >= 5
    for path in paths:
        check_text(path.read_text(), is_token=lambda _: True)


def test_objects_of_many_optional_properties_are_no_trouble(allows: Allows) -> None:
    schema = {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(250)}}
    grammar = schema_grammar(schema, param="x")
    started = time.monotonic()
    assert allows(grammar, '{"p3": 1, "p240": 2}')
    assert not allows(grammar, '{"p240": 1, "p3": 2}')
    assert time.monotonic() - started < 20


def test_a_long_grammar_is_checked_in_time() -> None:
    grammar = "root ::= " + " | ".join(f'"word{n}"' for n in range(8000))
    started = time.monotonic()
    check_text(grammar, is_token=lambda _: True)
    assert time.monotonic() - started < 5
    with pytest.raises(GrammarError):
        check_text(grammar + " (", is_token=lambda _: True)


OBJECT = {"type": "object"}
STRING = {"type": "string"}
NODE = {"$defs": {"node": {**OBJECT, "properties": {"v": {"type": "integer"}, "next": {
    "anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v", "next"]}},
    "$ref": "#/$defs/node"}  # fmt: skip
SAME_NAMES = {**OBJECT, "properties": {"string": STRING, "a": {"$ref": "#/$defs/string"},
    "b": {"$ref": "#/definitions/string"}}, "required": ["string", "a", "b"],
    "$defs": {"string": {"const": 1}}, "definitions": {"string": {"const": 2}}}  # fmt: skip

ENFORCED: list[tuple[Any, list[Any], list[Any]]] = [
    ({**OBJECT, "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}, "c": STRING},
      "required": ["b"]},
     [{"b": True}, {"a": -12, "b": False}, {"b": True, "c": "x"}, {"b": True, "c": "é\n\""}],
     [{}, {"a": 1}, {"b": 1}, {"b": True, "d": 1}, {"a": True, "b": True}]),
    ({**OBJECT, "properties": {"a": {"type": "null"}, "b": {"type": "null"}}},
     [{}, {"a": None}, {"b": None}, {"a": None, "b": None}], [{"a": 1}]),
    ({**OBJECT, "properties": {}}, [{}], [{"a": 1}]),
    (OBJECT, [{}, {"a": [1.5e3, {"b": None}]}], [[], 1]),
    ({**OBJECT, "additionalProperties": {"type": "integer"}}, [{}, {"a": 1, "b": 2}], [{"a": "x"}]),
    ({"additionalProperties": True, "properties": {"a": STRING}}, [{"a": "x"}], [{"a": 1}]),
    ({"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 3},
     [[1, 2], [2, 2, 2]], [[], [1], [1, 1, 1, 1], [3, 3]]),
    ({"type": "array", "maxItems": 2}, [[], [1, "a"]], [[1, 2, 3]]),
    ({"type": "array", "items": STRING}, [[], ["a", "b"]], [[1]]),
    ({"type": "array", "prefixItems": [STRING, {"type": "integer"}], "items": False,
      "minItems": 2, "maxItems": 2}, [["a", 1]], [["a"], [1, "a"], ["a", 1, 1]]),
    ({"type": ["string", "null"], "maxLength": 3}, ["abc", None], ["abcd", 1]),
    ({"type": ["string", "null"], "enum": ["a", None, 3]}, ["a", None], ["b", 3]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "aé\""], ["a", "abcd"]),
    ({"enum": ["a\"b", "c\\d", "e\nf", "😀", {"x": [1, 2.5]}]},
     ["a\"b", "c\\d", "e\nf", "😀", {"x": [1, 2.5]}], ["a", {"x": []}]),
    ({"allOf": [STRING]}, ["a"], [1, {}]),
    ({"allOf": [{"$ref": "#/$defs/x"}, {"properties": {"b": STRING}}],
      "properties": {"c": STRING}, "required": ["a"],
      "$defs": {"x": {**OBJECT, "properties": {"a": STRING}, "required": ["a"]}}},
     [{"c": "1", "a": "2", "b": "3"}, {"a": "2"}], [{"b": "3"}, {}]),
    ({"anyOf": [{"const": "x"}, {"type": "number"}]}, ["x", 1, 2.5, -3e-5], ["y", None]),
    (NODE, [{"v": 1, "next": None}, {"v": 1, "next": {"v": 2, "next": None}}],
     [{"v": 1, "next": 1}]),
    (SAME_NAMES, [{"string": "x", "a": 1, "b": 2}], [{"string": "x", "a": 2, "b": 1}]),
    ({"title": "anything"}, [1, "a", None, [True], {"a": {}}], []),
    ({"type": "string", "format": "date"}, ["2024-01-31"], ["2024-13-01", "x"]),
    ({"type": "string", "format": "date-time"}, ["2024-01-31T23:59:00Z"], ["2024-01-31"]),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123"]),
    ({"type": "string", "pattern": r"^[A-Z]{2}-\d+(\.\d)?$"},
     ["AB-1", "AB-12.3"], ["A-1", "AB-1.23"]),
    ({"type": "string", "pattern": "^a|b.$"}, ["a", "bé"], ["b", "ac", "b\""]),
    ({"type": "string", "pattern": "^[^x]*[ -~]$"}, ["aé!"], ["xa", "a\n", "é"]),
    ({"type": "string", "pattern": r'^"\\(?:y\/)?$'}, ['"\\', '"\\y/'], ['"', "\\"]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), ENFORCED)
def test_a_schema_allows_what_satisfies_it_and_nothing_else(
    allows: Allows, schema: Any, good: list[Any], bad: list[Any]
) -> None:
    grammar = schema_grammar(schema, param="response_format")
    for value in good:
        assert allows(grammar, json.dumps(value, ensure_ascii=False)), value
    for value in bad:
        assert not allows(grammar, json.dumps(value, ensure_ascii=False)), value


def test_strings_hold_what_json_allows_and_no_more(allows: Allows) -> None:
    grammar = schema_grammar({"type": "string"}, param="response_format")
    assert allows(grammar, r'"a\u00e9\n\\"')
    assert not allows(grammar, '"a\nb"')
    assert not allows(grammar, r'"\x"')


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "integer", "minimum": 3}, "'minimum' is not supported"),
        ({"type": "frob"}, ".type must be one or more of"),
        ({"type": "object", "properties": []}, "must be an object"),
        ({"type": "string", "maxLength": 100_000}, "from 0 to 1000"),
        ({"type": "string", "minLength": 5, "maxLength": 4}, "is less than"),
        ({"type": "string", "pattern": "abc"}, "begin with '^'"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "'(' is not supported"),
        ({"type": "string", "pattern": r"^\bx$"}, r"'\b' is not supported"),
        ({"type": "string", "pattern": "^a+?$"}, "repeated already"),
        ({"type": "string", "pattern": "^(a$"}, "parentheses"),
        (
            {"type": "string", "pattern": "^a$", "maxLength": 3},
            "'maxLength' is not supported",
        ),
        (
            {"type": "string", "format": "date", "maxLength": 3},
            "'maxLength' is not supported",
        ),
        ({"type": "string", "format": "email"}, "'email' is not supported"),
        ({"$ref": "#/nowhere"}, "'#/nowhere' is not in the schema"),
        ({"$ref": "https://example.com/schema"}, "must begin with '#/'"),
        (
            {"$ref": "#", "maxLength": 2},
            "'maxLength' is not supported",
        ),
        ({"anyOf": []}, "not empty"),
        ({"anyOf": [STRING], "maxLength": 3}, "'maxLength' is not supported beside 'anyOf'"),
        ({"enum": []}, "not empty"),
        ({"enum": [1], "type": "string"}, "no value of the type"),
        ({"const": 1, "properties": {}}, "'properties' is not supported beside 'const'"),
        ({"const": float("nan")}, "a number that JSON lacks"),
        ({"type": "object", "required": ["a"]}, "'a', which is no property"),
        ({"properties": {"b": STRING}, "required": ["a"]}, "'a', which is no property"),
        ({"type": "object", "maxLength": 3}, "'maxLength' is not supported"),
        ({"properties": {"a": STRING}, "additionalProperties": STRING}, "true or false"),
        ({"type": "array", "prefixItems": [STRING], "items": STRING}, "beside prefixItems"),
        ({"type": "array", "prefixItems": [STRING], "maxItems": 5, "minItems": 2}, "excludes"),
        ({"type": "array", "minItems": 5, "maxItems": 2}, "is less than"),
        ({"allOf": [STRING, {"maxLength": 3}]}, "must be objects"),
        ({"allOf": [{"anyOf": [OBJECT]}, OBJECT]}, "'anyOf' is not supported"),
        ({"allOf": [{"properties": {"a": STRING}}, {"properties": {"a": OBJECT}}]}, "another part"),
        ({"properties": {"a": False}}, ".properties.a allows nothing"),
        ({"not": STRING}, "'not' is not supported"),
        ({"if": STRING, "type": "string"}, "'if' is not supported"),
    ],
)
def test_what_could_not_be_enforced_is_refused(schema: Any, word: str) -> None:
    with pytest.raises(ApiError) as caught:
        schema_grammar(schema, param="response_format")
    assert caught.value.status_code == 400
    assert word in str(caught.value.detail)


def test_schemas_that_go_in_circles_are_refused(model: LlamaModel) -> None:
    circle = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"const": 1}]}}}
    with pytest.raises(ApiError, match="can begin with itself"):
        check_grammar(model, schema_grammar(circle, param="x"), param="x")
    deep: Any = {"type": "string"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    with pytest.raises(ApiError, match="deep"):
        schema_grammar(deep, param="x")


def tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_tools_with_definitions_of_their_own(allows: Allows) -> None:
    """What pydantic makes of nested models; two tools may give the same name to unequal things."""
    place = {"type": "object", "properties": {"city": STRING}, "required": ["city"]}
    at = {"type": "object", "properties": {"at": {"$ref": "#/$defs/Place"}}, "required": ["at"]}
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}}}
    tools = [
        tool("go", {**at, "$defs": {"Place": place}}),
        tool("see", {**at, "$defs": {"Place": {"const": 7}}}),
        tool("grow", tree),
        {"type": "function", "function": {"name": "rest"}},
    ]
    grammar = calls_grammar(tools, several=False, opened=True)

    def call(name: str, arguments: Any) -> bool:
        text = json.dumps({"name": name, "arguments": arguments})
        return allows(grammar, f"{text}</tool_call>")

    assert call("go", {"at": {"city": "Rome"}})
    assert call("see", {"at": 7})
    assert call("grow", {"left": {"left": {}}})
    assert call("rest", {})
    assert not call("go", {"at": 7})
    assert not call("see", {"at": {"city": "Rome"}})
    assert not call("rest", {"a": 1})
    with pytest.raises(ApiError, match="must be an object"):
        calls_grammar([tool("x", {"type": "string"})], several=False, opened=True)


def test_property_names_are_not_taken_for_keywords() -> None:
    schema = {"type": "object", "properties": {"minimum": {"type": "integer"}}}
    assert '\\"minimum\\"' in schema_grammar(schema, param="tools")
