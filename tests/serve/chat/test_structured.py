"""Grammars and schemas: what they allow, what is refused, and that no hostile one does harm."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher

from tests.serve.chat.grammar_support import Allows
from tuneserve.chat.call_formats import CallForm
from tuneserve.llama import LlamaModel
from tuneserve.serve.api.errors import as_api_error
from tuneserve.serve.chat.grammar_errors import GrammarError
from tuneserve.serve.chat.structured import LONGEST_SCHEMAS, GrammarCompiler
from tuneserve.serve.engine import GrammarFailedError, SamplingParams, UnavailableError
from tuneserve.serve.engine.sampling import TokenSampler


def of_schema(grammars: GrammarCompiler, schema: Any) -> LLMatcher:
    return grammars.compile_answer(schema, {}, several=False, opened=False)


def refused(compile_it: Callable[[], Any]) -> dict[str, Any]:
    """The error that a client is told."""
    with pytest.raises(GrammarError) as caught:
        compile_it()
    error = as_api_error(caught.value)
    assert error.status_code == 400
    body: dict[str, Any] = dict(error.body["error"])
    assert body["code"] == "invalid_schema"
    assert len(body["message"]) < 220
    error.response()
    return body


CHAIN = "\n".join(f"r{n} ::= r{n + 1} | r{n + 1}" for n in range(60))


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ("root ::= " + "(" * 49_000 + '"a"' + ")" * 49_000, "nested more than 500 deep"),
        ('root ::= "a"{5,3}', "end must be >= start"),
        ('root ::= "a"{' + "9" * 5000 + "}", "number too large"),
        ('root ::= "a" b', "no rule 'b'"),
        ('root ::= "a" b{0}', "no rule 'b'"),
        ("root ::= " + "b" * 10_000, "no rule 'bbb"),
        ('rot ::= "a"', "no rule 'root'"),
        ("root ::= root", "no text of rule 'root' can ever end"),
        ("root ::= a\na ::= b\nb ::= a", "can ever end"),
        ('root ::= "a" root', "no text of rule 'root' can ever end"),
        ('root ::= "b" | "c" x\nx ::= "a"+ x', "no text of rule 'x' can ever end"),
        ('root ::= ("a" root){2} | "b"\nx ::= (x)', "no text of rule 'x' can ever end"),
        ("root ::= (", "not closed"),
        ('root ::= "a")', "not opened"),
        ('root ::= "a', "not expected"),
        ('root ::= "a"\n\nb "c"', "line 3"),
        (r'root ::= "\q"', "not expected"),
        ('root ::= * "a"', "can't be used"),
        ("root ::= [z-a]", "can't be used"),
        (r"root ::= [^\x00-\U0010ffff]", "it allows no text"),
        ('root ::= "a"{1000000}', "Too many items (limit 20000; ff_tokens)."),
        ("root ::= <no token at all>", "no token"),
        ('root ::= "x" <|im_end|>', "end token"),
        ('root ::= "\ud800"', "line 1: it has half a character"),
        (r'root ::= "\ud83d"', "half a character"),
        (r"root ::= [\ud83d]", "half a character"),
        (r'root ::= "\U99999999"', "line 1"),
        (r'root ::= "\UFFFFFFFF"', r"\UFFFFFFFF is beyond the characters of Unicode"),
    ],
)
def test_grammars_that_make_no_sense_are_refused(
    grammars: GrammarCompiler, grammar: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    error = refused(lambda: grammars.compile_gbnf(grammar))
    assert reason in error["message"]
    assert error["param"] == "grammar"
    assert capfd.readouterr().err == ""


def follow(model: LlamaModel, grammar: LLMatcher, *, tokens: int = 30) -> str:
    """Draw tokens from noise, as an engine does. Returns the text; raises GrammarFailedError."""
    sampler = TokenSampler(model, SamplingParams(grammar=grammar, seed=1))
    noise = np.random.default_rng(0)
    text = b""
    for _ in range(tokens):
        row = noise.normal(0, 3, model.n_vocab).astype(np.float32)
        started = time.monotonic()
        token = sampler.sample(row)
        assert time.monotonic() - started < 5
        if model.is_end(token):
            break
        text += model.token_bytes(token)
    return text.decode("utf-8", "replace")


def chain_of_references(count: int, link: Callable[[str], Any]) -> dict[str, Any]:
    defs = {f"d{n}": link(f"#/$defs/d{n + 1}") for n in range(count)}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{count}": {"type": "integer"}}}


def nested(depth: int) -> Any:
    schema: Any = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE: dict[str, Any] = {
    "fifty optional letters": "root ::= " + "[a-z]? " * 50,
    "thousands of optional letters": 'root ::= "x" ' + '"a"? ' * 3000,
    "ways that double at each rule": f'root ::= r0\n{CHAIN}\nr60 ::= "a"',
    "text that doubles at each rule": "root ::= r0\n"
    + "\n".join(f"r{n} ::= r{n + 1} r{n + 1}" for n in range(60)) + '\nr60 ::= "a"',
    "thousands of rules in a row": "root ::= r0\n"
    + "\n".join(f"r{n} ::= r{n + 1}" for n in range(6000)) + '\nr6000 ::= "a"',
    "a rule in a rule, thousands deep": "root ::= r0\n"
    + "\n".join(f'r{n} ::= "a" r{n + 1} "b"' for n in range(3500)) + '\nr3500 ::= "a"',
    "left recursion": 'root ::= root "a" | "b"',
    "left recursion behind nothing": 'root ::= e root "y" | "x"\ne ::= f\nf ::= ""',
    "nothing, repeated": 'root ::= ("a"*)*',
    "many ways to read the same": 'root ::= s\ns ::= s s s | "a" | "aa" | ""',
    "repetitions of repetitions": "root ::= (((([a-z]{0,1000}){0,1000}){0,1000}){0,1000})",
    "a billion": 'root ::= "a"{1000000000}',
    "a long text, repeated": 'root ::= "' + "a" * 1000 + '"{1000}',
    "eight thousand words": "root ::= " + " | ".join(f'"word{n}"' for n in range(8000)),
    "a text of 98,000 characters": 'root ::= root "' + "a" * 98_000 + '" | "b"',
    "a set of 98,000 characters": "root ::= root [" + "az" * 49_000 + '] | "b"',
    "open parentheses": "root ::= " + "(" * 98_000,
    "pattern": {"type": "string", "pattern": "^" + "[a-z]?" * 50 + "$"},
    "pattern in a repetition": {"type": "string", "pattern": "^([a-z]?){50}$"},
    "pattern of a million": {"type": "string", "pattern": "^((a{1000}){1000}){1000}$"},
    "pattern with a memory": {"type": "string", "pattern": "a.{200}b.{100}c"},
    "enum of 20,000": {"enum": [str(n) for n in range(20_000)]},
    "enums that meet": {"allOf": [{"enum": list(range(2000))}] * 20},
    "allOf of one, often": {
        "allOf": [{"$ref": "#/$defs/a"}] * 4000,
        "$defs": {"a": {"required": [""] * 4000}},
    },
    "choices of choices": {"allOf": [
        {"anyOf": [{"properties": {f"a{n}": {}}}, {"properties": {f"b{n}": {}}}]}
        for n in range(20)]},
    "references in a row": chain_of_references(6000, lambda to: {"$ref": to}),
    "arrays in a row": chain_of_references(5000, lambda to: {"items": {"$ref": to}}),
    "allOf in a row": chain_of_references(3000, lambda to: {"allOf": [{"$ref": to}, {}]}),
    "references that double": chain_of_references(
        60, lambda to: {"properties": {"a": {"$ref": to}, "b": {"$ref": to}}}),
    "a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "a circle and a way out": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"const": 1}]}}},
    "nested 500 deep": nested(500),
    "thousands of optional properties": {
        "type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(2000)}},
    "large multiples": {"type": "integer", "multipleOf": 99999989},
    "large multiples together": {
        "allOf": [{"type": "integer", "multipleOf": 997}, {"type": "integer", "multipleOf": 991}]},
    "many multiples": {"type": "object", "properties": {
        f"p{n}": {"type": "integer", "multipleOf": 997, "minimum": n} for n in range(500)}},
    "long strings": {"type": "string", "minLength": 10**6, "maxLength": 10**9},
    "long arrays": {"type": "array", "minItems": 10**8, "maxItems": 10**9},
    "large limits": {"type": "integer", "minimum": 10**200, "maximum": 10**400},
    "wrong options": {"x-guidance": {"lenient": True, "whitespace_pattern": "(a"}, "not": {}},
    "half a character": {"enum": ["\ud83d"]},
    "too long": {"enum": ["x" * LONGEST_SCHEMAS]},
}  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [*range(LONGEST_SCHEMAS // 3)]},
        {"properties": {f"p{n}": {} for n in range(LONGEST_SCHEMAS // 8)}},
        {"anyOf": [{"enum": ["x" * (LONGEST_SCHEMAS // 2)]}, {"const": "y" * LONGEST_SCHEMAS}]},
    ],
)
def test_a_schema_that_is_plainly_too_long_is_not_read(
    grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any]
) -> None:
    monkeypatch.setattr("tuneserve.serve.chat.structured.json_rule", None)
    with pytest.raises(GrammarError, match=f"more than {LONGEST_SCHEMAS} characters") as failure:
        of_schema(grammars, schema)
    assert failure.value.param == "response_format"


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_refused_or_followed_in_time(
    model: LlamaModel, grammars: GrammarCompiler, name: str
) -> None:
    hostile = HOSTILE[name]
    started = time.monotonic()
    try:
        if isinstance(hostile, str):
            grammar = grammars.compile_gbnf(hostile)
        else:
            grammar = of_schema(grammars, hostile)
        follow(model, grammar)
    except (GrammarError, GrammarFailedError) as error:
        assert as_api_error(error).status_code == 400
    assert time.monotonic() - started < 20


def test_a_grammar_that_takes_too_long_keeps_nobody_waiting(
    model: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread can't be ended; what it holds is a place among those compiled at once."""
    monkeypatch.setattr("tuneserve.serve.chat.structured.COMPILE_SECONDS", 0.05)
    grammars = GrammarCompiler(model)
    grammars.compile_gbnf('root ::= "a"')
    release = threading.Event()

    def work() -> Any:
        release.wait(30)

    for _ in range(2):
        with pytest.raises(GrammarError, match="can't be read within"):
            grammars._bounded(work, "grammar")
    with pytest.raises(UnavailableError):
        grammars.compile_gbnf('root ::= "a"')
    release.set()
    time.sleep(0.2)
    grammars.compile_gbnf('root ::= "a"')


GRAMMARS = [
    ('root ::= "yes" | "no"', "yes", "maybe"),
    (
        "# a comment\nroot ::=\n  a | # or\n  b\na ::= [a-c\\]-]+\n\nb ::= (\n [^a]\n)? \r\n",
        "]-ab",
        "d.",
    ),
    ('root ::= ("a" "b"?){2,3} .', "abaab!", "a!"),
    ('root ::= "\\x41\\u00e9\\"" {1} x{0,2}\nx ::= "-"', 'Aé"--', "Aé"),
    ('root ::= [^\\x00-\\x7f]+ "\\U0001F600"', "é😀", "e😀"),
    ("root ::= " + "(" * 400 + '"a"' + ")" * 400, "a", "b"),
    ('root ::= "a"{0,1000}', "a" * 999, "b"),
    ('root ::= [a-z]+ "x"', "axx", "axy"),
    ('root ::= "a" "b" | "ab" "c"', "ab", "abd"),
    ('root ::= x | "(" root ")"\nx ::= [a-z]+ "x" | "if" | .', "((lax))", "((la))"),
    ('root ::= s\ns ::= "a" s "a" | "b" s "b" | ""', "abba", "abab"),
    ('root ::= "a" | ', "", "b"),
    ('root ::= "a" root? | root root{0,2} "b"', "aab", "ba!"),
    ("root ::= a\nroot ::= \"b\"\na ::= \"a\"", "b", "a"),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "good", "bad"), GRAMMARS)
def test_grammars_mean_what_llama_cpp_means_by_them(
    grammars: GrammarCompiler, allows: Allows, grammar: str, good: str, bad: str
) -> None:
    compiled = grammars.compile_gbnf(grammar)
    assert allows(compiled, good)
    assert not allows(compiled, bad)


def test_a_grammar_can_name_tokens(model: LlamaModel, grammars: GrammarCompiler) -> None:
    start, seven = model.tokenize("<|im_start|>")[0], 7
    grammar = grammars.compile_gbnf('root ::= <|im_start|> | !<[7]> " "+')
    space = model.tokenize(" ")
    for tokens, good in (([start], True), ([seven, *space], False), ([9, *space], True)):
        matcher = grammar.deep_copy()
        assert (matcher.try_consume_tokens(tokens) == len(tokens)) is good


def test_the_grammars_that_llama_cpp_ships_are_read(
    grammars: GrammarCompiler, allows: Allows, llama_cpp_source: Path
) -> None:
    paths = {path.stem: path for path in (llama_cpp_source / "grammars").glob("*.gbnf")}
    compiled = {name: grammars.compile_gbnf(path.read_text()) for name, path in paths.items()}
    assert len(compiled) >= 5
    assert allows(compiled["json"], '{"a": [1, -2.5e3, "x\\n"], "b": {"c": null}}')
    assert not allows(compiled["json"], '{"a": [1,]}')
    assert allows(compiled["list"], "- one\n- two\n")
    assert allows(compiled["arithmetic"], "x1+2*(3-y)=7\n")


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"seed": 1}, {"seed": 1, "top_k": 40}])
def test_an_answer_ends_where_its_grammar_does(
    model: LlamaModel, grammars: GrammarCompiler, options: dict[str, Any]
) -> None:
    """Whatever the model wants: here noise, in which an end is most probable at every place."""
    schema = {
        "type": "object",
        "properties": {
            "city": {"enum": ["Paris", "Rome"]},
            "days": {"type": "integer", "minimum": 0, "maximum": 20},
            "sunny": {"type": "boolean"},
        },
        "required": ["city", "days"],
    }
    grammar = of_schema(grammars, schema)
    noise = np.random.default_rng(3)
    for _ in range(20):
        sampler = TokenSampler(model, SamplingParams(grammar=grammar, **options))
        text = ""
        for _ in range(60):
            row = noise.normal(0, 3, model.n_vocab).astype(np.float32)
            row[noise.choice(model.end_tokens)] = 30.0
            token = sampler.sample(row)
            if model.is_end(token):
                break
            text += model.token_bytes(token).decode()
        value = json.loads(text)
        assert value["city"] in ("Paris", "Rome")
        assert 0 <= value["days"] <= 20


def test_objects_of_many_optional_properties_are_no_trouble(
    grammars: GrammarCompiler, allows: Allows
) -> None:
    schema = {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(250)}}
    grammar = of_schema(grammars, schema)
    started = time.monotonic()
    assert allows(grammar, '{"p3": 1, "p240": 2}')
    assert not allows(grammar, '{"p240": 1, "p3": 2}')
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("depth", [60, 100, 200])
def test_deep_schemas_are_read_or_refused_at_once(grammars: GrammarCompiler, depth: int) -> None:
    whole: dict[str, Any] = {"type": "string"}
    definitions: dict[str, Any] = {f"d{depth}": {"type": "string"}}
    for level in reversed(range(depth)):
        whole = {"type": "object", "properties": {"a": whole}, "required": ["a"]}
        inner = {"$ref": f"#/$defs/d{level + 1}"}
        definitions[f"d{level}"] = {"type": "object", "properties": {"a": inner}}
    begun = time.monotonic()
    if depth == 60:
        grammars.compile_answer(whole, {}, several=False, opened=False)
    else:
        with pytest.raises(GrammarError, match="nested too deep"):
            grammars.compile_answer(whole, {}, several=False, opened=False)
    by_reference = {"$ref": "#/$defs/d0", "$defs": definitions}
    grammars.compile_answer(by_reference, {}, several=False, opened=False)
    assert time.monotonic() - begun < 2.0


def test_white_space_has_bounds(grammars: GrammarCompiler, allows: Allows) -> None:
    """Both common forms, and nothing that could go on for ever."""
    grammar = of_schema(grammars, OBJECT)
    assert allows(grammar, '{"a":1,"b":[1,2]}')
    assert allows(grammar, '{"a": 1, "b": [1, 2]}')
    for text in ('{"a":  1}', '{"a":\n1}', '{ "a": 1}', '{"a": 1} ', ' {"a": 1}'):
        assert not allows(grammar, text)


OBJECT = {"type": "object"}
STRING = {"type": "string"}
NODE = {"$defs": {"node": {**OBJECT, "properties": {"v": {"type": "integer"}, "next": {
    "anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v", "next"]}},
    "$ref": "#/$defs/node"}  # fmt: skip
LEARNING_RATE = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 5e-4}
CIRCLE = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
"""Refers to nothing but itself."""
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
    ({**OBJECT, "properties": {"a": {"type": "string", "format": None, "pattern": None},
                               "b": {"type": "string", "format": ""}, "c": {"const": None}},
      "required": None, "additionalProperties": None, "default": None},
     [{}, {"a": "x", "b": "y"}, {"c": None}], [{"a": 1}, {"c": 1}, {"d": 1}]),
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
     [{"a": "2", "b": "3", "c": "1"}, {"a": "2"}], [{"b": "3"}, {}]),
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
    ({"type": "string", "pattern": "^a|b.$"}, ["a", "ac", "bé", "xbé"], ["b", "xa"]),
    ({"type": "string", "pattern": "^[^x]*[ -~]$"}, ["aé!"], ["xa", "a\n", "é"]),
    ({"type": "string", "pattern": r'^"\\(?:y\/)?$'}, ['"\\', '"\\y/'], ['"', "\\"]),
    ({"type": "integer", "minimum": 3}, [3, 70], [2, -3]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, [1, 0.5, 1e-3], [0, 1.5, -1]),
    ({"type": "integer"}, [0, -5, 2**53 - 1], [2**53, 1.5, "1"]),
    ({"type": "number", "multipleOf": 0.01}, [1, 0.25], [0.001]),
    ({"type": "string", "maxLength": 100_000}, ["a" * 300], [1]),
    ({"type": "string", "pattern": "abc"}, ["abc", "xabcx"], ["ab"]),
    ({"type": "string", "pattern": "^a*$", "maxLength": 3}, ["aaa"], ["aaaa", "b"]),
    ({"type": "string", "format": "email"}, ["a@b.org"], ["a", "a@"]),
    ({"type": "string", "format": "ipv4"}, ["10.0.0.1"], ["10.0.0.256", "10.0.0"]),
    ({"anyOf": [STRING], "maxLength": 3}, ["abc"], ["abcd"]),
    ({"const": 1, "properties": {}}, [1], [2, {}]),
    ({**OBJECT, "required": ["a"]}, [{"a": 1}, {"a": 1, "b": 2}], [{}, {"b": 2}]),
    ({"type": "object", "properties": {"b": STRING}, "required": ["a"]},
     [{"b": "x", "a": 1}], [{"b": "x"}]),
    ({**OBJECT, "properties": {"a": STRING}, "additionalProperties": STRING},
     [{"a": "x", "b": "y"}], [{"a": "x", "b": 1}]),
    ({**OBJECT, "properties": {"a": STRING}, "additionalProperties": True},
     [{"a": "x", "b": [1]}, {"b": 1}], [{"a": 1}]),
    ({"type": "array", "prefixItems": [STRING], "items": {"type": "integer"}},
     [["a"], ["a", 1, 2]], [[1], ["a", "b"]]),
    ({"type": "array", "prefixItems": [STRING], "maxItems": 2, "minItems": 2},
     [["a", 1]], [["a"], ["a", 1, 1]]),
    ({"allOf": [STRING, {"maxLength": 3}]}, ["abc"], ["abcd"]),
    ({"allOf": [{**OBJECT, "properties": {"a": STRING}}, {"properties": {"a": {"maxLength": 2}}}]},
     [{"a": "x"}], [{"a": "xyz"}]),
    ({"properties": {"a": False, "b": STRING}, **OBJECT}, [{"b": "x"}], [{"a": 1}]),
    ({"type": "string", "title": "x", "deprecated": True, "x-mine": 1}, ["a"], [1]),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "boolean"}, [True], [1]),
    ({**OBJECT, "properties": {"a": {"$ref": "#/$defs/a%20b"}}, "$defs": {"a b": STRING}},
     [{"a": "x"}], [{"a": 1}]),
    # What pydantic up to 2.13 writes for Decimal.
    ({"anyOf": [{"type": "number"},
      {**STRING, "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}]}, [1.5, -3], ["1.5", "x"]),
    ({"anyOf": [{"type": "number"}, {**STRING, "pattern": r"^\d+$"}]}, [1.5, "12"], ["x"]),
    (LEARNING_RATE, [0.0004, 0.00049, 0.0001], [0, 0.0005, 0.001]),
    ({"exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, [0.1, "a"], [0, 0.5]),
    ({"type": "number", "exclusiveMinimum": -0.5, "exclusiveMaximum": 0}, [-0.1], [0, -0.0, -0.5]),
    ({"type": "number", "exclusiveMinimum": 5, "maximum": 5.5}, [5.1, 5.5], [5, 5.0, 5.6]),
    ({"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 0.5}, [0.1], [0]),
    ({"type": "number", "exclusiveMaximum": 1}, [0.9, 0.99, -7], [1, 1.5]),
    ({"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"maximum": 0.5}]}, [0.1], [0]),
    ({"$ref": "#/mine/0", "mine": [LEARNING_RATE]}, [0.0004], [0, 0.0005]),
    ({"type": "integer", "exclusiveMaximum": 1e16}, [0, 2**53 - 1], [10**16, 2**53]),
    ({"type": "integer", "exclusiveMinimum": 0.5, "maximum": 3.7}, [1, 3], [0, 4]),
    ({"type": "number", "minimum": 0, "maximum": 10**400}, [0, 1.5], [-1, 10**16]),
    ({"type": "integer", "multipleOf": 5}, [15, -5, 0], [7, 15 * 10**15]),
    ({"type": ["integer", "null"], "multipleOf": 5, "minimum": 0}, [15, None], [-5, 15 * 10**15]),
    ({"type": "number", "multipleOf": 0.25}, [1.25, 0.25], [0.2, 15 * 10**15]),
    ({"allOf": [{"type": "number", "minimum": 0}, {"multipleOf": 5}]}, [5], [-5, 7, 0.5]),
    ({"allOf": [{"type": "number", "multipleOf": 0.02}, {"multipleOf": 0.03}]}, [0.06], [0.02]),
    ({**STRING, "format": "password", "minLength": 3}, ["abc"], ["ab"]),
    ({**STRING, "format": "uuid4"}, ["123e4567-e89b-42d3-a456-426614174000"],
     ["123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-42d3-c456-426614174000"]),
    ({**STRING, "format": "ipvanyaddress"}, ["10.0.0.1", "::1"], ["10.0.0.256", "x"]),
    ({"anyOf": [{"$ref": "#"}, {"const": 1}]}, [1], [2]),
    ({**OBJECT, "properties": {"a": {"$ref": "#"}}}, [{}, {"a": {"a": {}}}], [{"a": 1}]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), ENFORCED)
def test_a_schema_allows_what_satisfies_it_and_nothing_else(
    grammars: GrammarCompiler, allows: Allows, schema: Any, good: list[Any], bad: list[Any]
) -> None:
    grammar = of_schema(grammars, schema)
    for value in good:
        assert allows(grammar, json.dumps(value, ensure_ascii=False)), value
    for value in bad:
        assert not allows(grammar, json.dumps(value, ensure_ascii=False)), value


def test_strings_hold_what_json_allows_and_no_more(
    grammars: GrammarCompiler, allows: Allows
) -> None:
    grammar = of_schema(grammars, STRING)
    assert allows(grammar, r'"aé\n\\\u0001"')
    assert not allows(grammar, '"a\nb"')
    assert not allows(grammar, r'"\x"')


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "frob"}, "Invalid type"),
        ({"type": "object", "properties": []}, "must be an object"),
        ({"type": "string", "minLength": 5, "maxLength": 4}, "minLength (5) is greater"),
        ({"type": "string", "pattern": "^(?=a)b$"}, "look-ahead"),
        ({"type": "string", "pattern": r"^\bx$"}, "not supported"),
        ({"type": "string", "pattern": "^(a$"}, "unclosed group"),
        ({"type": "string", "format": "date", "maxLength": 3}, "Unsatisfiable"),
        ({"type": "string", "format": "frob"}, "Unknown format: frob"),
        ({"$ref": "#/nowhere"}, "'/nowhere' does not exist"),
        ({"$ref": "https://example.com/schema"}, "https://example.com/schema"),
        ({"anyOf": []}, "anyOf is empty"),
        ({"enum": []}, "Unsatisfiable"),
        ({"enum": [1], "type": "string"}, "Unsatisfiable"),
        ({"const": float("nan")}, "a number that JSON lacks"),
        ({"type": "array", "minItems": 5, "maxItems": 2}, "minItems (5) is greater"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "'a' is unsatisfiable"),
        ({"not": STRING}, '"not"'),
        ({"if": STRING, "type": "string"}, '"if"'),
        ({"type": "array", "uniqueItems": True}, '"uniqueItems"'),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, '"propertyNames"'),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "integer", "multipleOf": 99999989}, "multipleOf are too large"),
        ({"properties": {"a": {"multipleOf": 997}, "b": {"multipleOf": 991}}}, "or too many"),
        ({"allOf": [{"type": "number", "multipleOf": 1e-7}, {"multipleOf": 997}]}, "too unlike"),
        (
            {
                "type": "number",
                "multipleOf": 997,
                "$ref": "#/$defs/a",
                "$defs": {"a": {"multipleOf": 1e-7}},
            },
            "too unlike",
        ),
        ({"type": "integer", "minimum": 1e16}, "only numbers beyond ±9007199254740991"),
        ({"type": "number", "maximum": -(10**400)}, "only numbers beyond"),
        ({"type": "number", "minimum": 5, "maximum": 3}, "minimum (5) is greater"),
        ({"type": "number", "minimum": "5"}, "Expected f64"),
        ({"type": "integer", "multipleOf": -5}, "multipleOf must be above 0"),
        (CIRCLE, "no answer can end"),
        ({**OBJECT, "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "contain itself"),
        (
            {
                **OBJECT,
                "properties": {
                    "a": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
                    }
                },
                "required": ["a"],
            },
            "contain itself",
        ),
        ({"enum": ["\ud83d"]}, "half a character"),
        ({**STRING, "format": "base64"}, "Unknown format: base64"),
        ({**STRING, "format": {}}, "format"),
        ({**STRING, "format": ["date"]}, "format"),
        (nested(500), "nested too deep"),
    ],
)
def test_what_could_not_be_enforced_is_refused(
    grammars: GrammarCompiler, schema: Any, word: str
) -> None:
    error = refused(lambda: of_schema(grammars, schema))
    assert word in error["message"]
    assert error["param"] == "response_format"


def calls_of(grammars: GrammarCompiler, *functions: Any, **options: Any) -> LLMatcher:
    ways = {"several": False, "opened": True, **options}
    return grammars.compile_answer(None, dict(enumerate(functions)), **ways)


def test_tools_with_definitions_of_their_own(grammars: GrammarCompiler, allows: Allows) -> None:
    """What pydantic makes of nested models; two tools may give the same name to unequal things."""
    place = {"type": "object", "properties": {"city": STRING}, "required": ["city"]}
    at = {"type": "object", "properties": {"at": {"$ref": "#/$defs/Place"}}, "required": ["at"]}
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}}}
    grammar = calls_of(
        grammars,
        {"name": "go", "parameters": {**at, "$defs": {"Place": place}}},
        {"name": "see", "parameters": {**at, "$defs": {"Place": {"const": 7}}}},
        {"name": "grow", "parameters": tree},
        {"name": "rest"},
        {"name": "go-on", "parameters": {"properties": {"n": {"type": "integer"}}}},
    )

    def call(name: str, arguments: Any) -> bool:
        text = json.dumps({"name": name, "arguments": arguments})
        return allows(grammar, f"{text}</tool_call>")

    assert call("go", {"at": {"city": "Rome"}})
    assert call("see", {"at": 7})
    assert call("grow", {"left": {"left": {}}})
    assert call("rest", {})
    assert call("go-on", {"n": 1})
    assert not call("go-on", [])
    assert not call("go", {"at": 7})
    assert not call("see", {"at": {"city": "Rome"}})
    assert not call("rest", {"a": 1})
    assert not call("nothing", {})


def test_calls_follow_each_other_if_they_may(grammars: GrammarCompiler, allows: Allows) -> None:
    call = '<tool_call>\n{"name": "rest", "arguments": {}}\n</tool_call>'
    one, several = (
        calls_of(grammars, {"name": "rest"}, opened=False, several=several)
        for several in (False, True)
    )
    assert allows(one, call)
    assert not allows(one, f"{call}\n{call}")
    assert allows(several, f"{call}\n{call}")
    assert allows(several, '<tool_call>{ "name":"rest","arguments":{}}</tool_call>')
    either = grammars.compile_answer(OBJECT, {0: {"name": "rest"}}, several=True, opened=False)
    assert allows(either, call)
    assert allows(either, '{"a": 1}')
    assert not allows(either, '{"a": 1}' + call)


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"type": "string"}, "must be an object"),
        ({"properties": {"a": {"not": {"type": "null"}}}}, '"not"'),
    ],
)
def test_the_tool_that_can_not_be_enforced_is_named(
    grammars: GrammarCompiler, parameters: Any, word: str
) -> None:
    functions = {2: {"name": "rest"}, 5: {"name": "go", "parameters": parameters}}
    for schema in (None, OBJECT):
        compile_it = partial(
            grammars.compile_answer, schema, functions, several=True, opened=schema is None
        )
        error = refused(compile_it)
        assert word in error["message"]
        assert error["param"] == "tools[5].function.parameters"


def test_marks_that_are_tokens_are_written_as_such(
    grammars: GrammarCompiler, model: LlamaModel
) -> None:
    """Qwen's <tool_call> is one token; its characters, one by one, are another thing to it."""
    start, end = model.tokenize("<jupyter_start>"), model.tokenize("<repo_name>")
    form = CallForm(begin="<jupyter_start>", end="<repo_name>")
    grammar = calls_of(grammars, {"name": "rest"}, opened=False, form=form)
    inside = model.tokenize('{"name": "rest", "arguments": {}}')
    matcher = grammar.deep_copy()
    tokens = [*start, *inside, *end]
    assert len(start) == len(end) == 1
    assert matcher.try_consume_tokens(tokens) == len(tokens)
    assert matcher.is_accepting()


def test_property_names_are_not_taken_for_keywords(
    grammars: GrammarCompiler, allows: Allows
) -> None:
    schema = {"type": "object", "properties": {"minimum": {"type": "integer"}}}
    assert allows(of_schema(grammars, schema), '{"minimum": 3}')
