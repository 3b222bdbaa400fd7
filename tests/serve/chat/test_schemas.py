"""Everyday schemas, as pydantic, zod and people write them: taken or refused, and of
those that are taken, that valid JSON passes token by token and invalid JSON does not."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import (
    UUID4,
    BaseModel,
    DirectoryPath,
    EmailStr,
    Field,
    FilePath,
    HttpUrl,
    IPvAnyAddress,
    SecretStr,
    create_model,
)

from tuneserve.llama import LlamaModel
from tuneserve.serve.chat.grammar_errors import GrammarError
from tuneserve.serve.chat.structured import GrammarCompiler


class Place(BaseModel):
    city: str
    country: str | None = None


class Person(BaseModel):
    name: str
    age: int
    home: Place
    friends: list[Place] = Field(default_factory=list, description="where the friends live")


class Tree(BaseModel):
    label: str
    children: list[Tree] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Pet(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


OneKind = Literal["a"]


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def of(kind: Any, **field: Any) -> dict[str, Any]:
    """pydantic's schema of a model with one field, `x`."""
    return create_model("Model", x=(kind, Field(**field))).model_json_schema()


def x(*values: Any) -> list[Any]:
    return [{"x": value} for value in values]


OPEN = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
DRAFT = {"$schema": "http://json-schema.org/draft-07/schema#"}
SAFE = {"type": "integer", "minimum": -(2**53 - 1), "maximum": 2**53 - 1}

Case = tuple[dict[str, Any], list[Any], list[Any]]

TAKEN: dict[str, Case] = {
    "nested models": (
        Person.model_json_schema(),
        [{"name": "A", "age": 3, "home": {"city": "R"}, "friends": []},
         {"name": "A", "age": 3, "home": {"city": "R", "country": None}}],
        [{"name": "A", "age": "3", "home": {"city": "R"}}, {"name": "A", "age": 3},
         {"name": "A", "age": 3, "home": {"city": "R"}, "more": 1}]),
    "recursion": (
        Tree.model_json_schema(),
        [{"label": "a", "children": [{"label": "b", "children": []}]}],
        [{"label": "a", "children": [{"children": []}]}]),
    "discriminated union": (
        Pet.model_json_schema(),
        [{"pet": {"kind": "cat", "lives": 9}}, {"pet": {"kind": "dog", "good": True}}],
        [{"pet": {"kind": "cat", "good": True}}, {"pet": {"kind": "cow"}}]),
    "literal": (of(Literal["a", "b"]), x("a"), x("c", 1)),
    "enum": (of(Colour), x("red"), x("green")),
    "optional": (of(int | None, default=None), [{}, *x(1, None)], x("a")),
    "union of types": (of(int | str | list[bool]), x(1, "a", [True]), x([1], {})),
    "boolean and null": (
        {"type": "object", "properties": {"x": {"type": ["boolean", "null"]}}, "required": ["x"]},
        x(True, None), x(0)),
    "limits": (of(int, ge=0, le=10), x(0, 7, 10), x(-1, 11, 70)),
    "open limits": (of(float, gt=0, lt=1), x(0.5, 0.01, 0.123456789), x(0, 1, 1.5, 1 / 3)),
    "multiples": (of(int, multiple_of=5), x(0, 15, -5), x(7, 15 * 10**15)),
    "zod's integer": ({**DRAFT, "type": "object", "properties": {"x": SAFE}, "required": ["x"],
                       "additionalProperties": False}, x(1, -5), x(1.5, 2**54)),
    "length of a text": (of(str, min_length=2, max_length=4), x("ab", "abcd"), x("a", "abcde")),
    "pattern": (of(str, pattern=r"^[A-Z]{2}-\d{3}$"), x("AB-123"), x("AB-12", "xAB-123")),
    "unanchored pattern": (of(str, pattern=r"\d{3}"), x("123", "call 123 now"), x("12")),
    "e-mail": (of(EmailStr), x("a.b@example.org", "Jo.O'Neil+x@mail.example-a.co.uk"),
               x("a.b", "@example.org", "a@b", "a..b@example.org", "x" * 200 + "@example.org")),
    "IP address": (of(IPv4Address), x("192.168.0.1"), x("192.168.0.256", "1.2.3")),
    "address": (of(HttpUrl), x("https://example.org/a?b=c"), x("not one")),
    "UUID": (of(UUID), x("123e4567-e89b-12d3-a456-426614174000"), x("123e4567")),
    "date": (of(date), x("2024-02-29", "2000-02-29", "2400-02-29", "1999-12-31", "2023-11-30"),
             x("2024-13-01", "2024-04-31", "2023-02-29", "1900-02-29", "0000-01-01", "now")),
    "date and time": (
        of(datetime), x("2024-01-31T23:59:00Z", "2024-01-31T23:59:00.123456+05:30"),
        x("2024-01-31", "2024-02-30T10:00:00Z", "2024-01-31T23:59:60Z",
          "2024-01-31T23:59:00." + "0" * 30 + "Z")),
    "duration": (of(timedelta), x("P1DT2H"), x("1 day")),
    # pydantic 2.14 describes the text of a Decimal as any text: not all that passes is a number.
    "decimal": (of(Decimal), x(1.5, -3, "1.5", "one and a half"), x(True, [])),
    "learning rate": (of(float, gt=0, lt=5e-4), x(0.0002, 0.0004), x(0, 0.0005, 1)),
    "UUID of a version": (of(UUID4), x("123e4567-e89b-42d3-a456-426614174000"),
                          x("123e4567-e89b-12d3-a456-426614174000", "123e4567")),
    "secret": (of(SecretStr, min_length=3), x("abc"), x("ab", 1)),
    "paths": (of(Path | FilePath | DirectoryPath), x("a/b", "."), x(1)),
    "bytes": (of(bytes, max_length=3), x("abc"), x("abcd", 1)),
    "any IP address": (of(IPvAnyAddress), x("192.168.0.1", "fe80::1"), x("192.168.0.256", "a")),
    "map": (of(dict[str, int]), x({}, {"a": 1, "b": 2}), x({"a": "b"}, [])),
    "zod's record": (
        {"type": "object", "propertyNames": {"type": "string"},
         "additionalProperties": {"type": "number"}},
        [{}, {"a": 1.5}], [{"a": "b"}]),
    "more properties": ({**OPEN, "additionalProperties": True},
                        [{"a": "b"}, {"a": "b", "c": 1}], [{"c": 1}]),
    "tuple": (of(tuple[str, int]), x(["a", 1]), x(["a"], [1, "a"], ["a", 1, 2])),
    "length of a list": (of(list[int], min_length=1, max_length=3), x([1], [1, 2, 3]),
                         x([], [1, 2, 3, 4])),
    "allOf": (
        {"allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {"type": "integer"}}}],
         "$defs": {"base": OPEN}},
        [{"a": "x", "b": 1}, {"a": "x"}], [{"b": 1}, {"a": "x", "b": "y"}]),
}  # fmt: skip

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "set": (of(set[str]), "uniqueItems"),
    "not": ({"type": "string", "not": {"const": ""}}, "not"),
    "if and then": ({**OPEN, "if": {"required": ["b"]}, "then": {"required": ["c"]}}, "if"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_valid_json_passes_and_invalid_json_does_not(
    model: LlamaModel, grammars: GrammarCompiler, name: str
) -> None:
    schema, good, bad = TAKEN[name]
    grammar = grammars.compile_answer(schema, {}, several=False, opened=False)

    def passes(value: Any) -> bool:
        matcher = grammar.deep_copy()
        ids = model.tokenize(json.dumps(value, ensure_ascii=False), parse_special=False)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    assert [value for value in good if not passes(value)] == []
    assert [value for value in bad if passes(value)] == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_mask_can_enforce_is_refused_with_the_reason(
    grammars: GrammarCompiler, name: str
) -> None:
    schema, reason = REFUSED[name]
    with pytest.raises(GrammarError, match=reason):
        grammars.compile_answer(schema, {}, several=False, opened=False)


class Node(BaseModel):
    n: Annotated[int, Field(ge=0, le=9)]
    next: Node | None


ANSWERS: dict[str, tuple[Any, str]] = {
    "limits and multiples": (
        create_model(
            "Order",
            count=(int, Field(ge=0, le=10)),
            price=(float, Field(gt=0, lt=100, multiple_of=0.01)),
            pack=(int, Field(ge=10, le=100, multiple_of=5)),
            share=(float, Field(ge=0, le=1)),
        ),
        '{"count": 5000, "price": 1.234567, "pack": 17, "share": 33.3333}',
    ),
    "contact": (
        create_model("Contact", mail=(EmailStr, ...), address=(IPv4Address, ...)),
        '{"mail": "anna@example.org", "address": "10.0.0.999"}',
    ),
    "decimal": (create_model("Price", amount=(Decimal, ...)), '{"amount": 12.50}'),
    "patterns": (
        create_model(
            "Codes",
            plate=(str, Field(pattern=r"^[A-Z]{2}-\d{3}$")),
            code=(str, Field(pattern=r"\d{3}", max_length=12)),
        ),
        '{"plate": "my car", "code": "none"}',
    ),
    "choices": (
        create_model("Choice", colour=(Colour, ...), kind=(OneKind, ...)),
        '{"colour": "green", "kind": "b"}',
    ),
    "dates": (
        create_model("Dates", day=(date, ...), at=(datetime, ...), id=(UUID, ...)),
        '{"day": "2023-02-29", "at": "yesterday", "id": 7}',
    ),
    "union": (Pet, '{"pet": {"kind": "cat", "good": true}}'),
    "recursion": (Node, '{"n": 1, "next": {"n": 77, "next": null}}'),
}
"""Models, and what the model is asked for: mostly what they don't take."""


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.7, "seed": 5}])
@pytest.mark.parametrize("name", ANSWERS)
def test_what_openai_parses_comes_back_as_pydantic_wants_it(
    client: Any, name: str, sampling: dict[str, Any]
) -> None:
    if name == "recursion" and sampling["temperature"]:
        pytest.skip("a sampled answer of this model may go deeper without end")
    kind, example = ANSWERS[name]
    answer = client.chat.completions.parse(
        model="demo",
        messages=[{"role": "user", "content": f"Repeat exactly this JSON:\n{example}"}],
        response_format=kind,
        max_tokens=300,
        **sampling,
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, kind)


def test_more_properties_come_if_the_schema_says_so(client: Any) -> None:
    wanted = {
        "name": "notes",
        "schema": {
            "type": "object",
            "properties": {"a": {"enum": ["x"]}},
            "required": ["a", "b", "c"],
            "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9},
        },
    }
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Numbers, as JSON."}],
        response_format={"type": "json_schema", "json_schema": wanted},
        max_tokens=400,
        temperature=0,
    )
    value = json.loads(answer.choices[0].message.content)
    assert list(value)[:3] == ["a", "b", "c"]
    assert value["a"] == "x"
    assert all(isinstance(value[key], int) for key in ("b", "c"))
