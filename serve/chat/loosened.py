"""Schemas of tools that can't be enforced as they are, loosened until they can.

A model chooses freely whether to call a tool, so one odd keyword in one of forty is no reason to
refuse the conversation: what of the schemas can be enforced is, and the client is told of the rest.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tuneserve.chat.call_formats import HERMES, CallForm
from tuneserve.serve.chat.grammar_errors import GrammarError
from tuneserve.serve.chat.json_schema import function_param, refers_nowhere, subschemas
from tuneserve.serve.chat.structured import COMPILE_SECONDS, GrammarCompiler

if TYPE_CHECKING:
    from llguidance import LLMatcher

Schema = Mapping[str, Any]
Function = Mapping[str, Any]
ANY_OBJECT: Schema = {"type": "object", "additionalProperties": True}

_UNENFORCEABLE = (
    "not", "if", "then", "else", "uniqueItems", "contains", "minContains", "maxContains",
    "propertyNames", "dependentRequired", "dependentSchemas", "dependencies",
    "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
_BOUNDS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength",
    "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "pattern", "format",
    "patternProperties", "const", "enum", "default",
)  # fmt: skip
_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_REMEMBERED = 256
_KNOWN: WeakKeyDictionary[GrammarCompiler, dict[bytes, tuple[Schema, list[str]]]] = (
    WeakKeyDictionary()
)
"""What schemas became, by their digest: a chat sends the same tools with every turn."""


def compile_calls(
    grammars: GrammarCompiler,
    schema: Schema | None,
    functions: Mapping[int, Function],
    *,
    must_call: bool,
    form: CallForm = HERMES,
    **options: Any,
) -> tuple[LLMatcher, tuple[str, ...]]:
    """`grammars.compile_answer`, and what of the functions' schemas it does not enforce:
    `tools[3].function.parameters: format`. They are loosened where need be, unless a function
    `must_call`ed or is strict. Raises GrammarError for those, for what the form leaves open of a
    strict function's, and for `schema`; and UnavailableError."""
    options["form"] = form
    lost: dict[int, list[str]] = {}
    if must_call:
        matcher = grammars.compile_answer(schema, functions, **options)
    else:
        matcher, functions, lost = _as_far_as_possible(grammars, schema, functions, options)
    for place, left_open in grammars.left_open(functions, form).items():
        if functions[place].get("strict"):
            reason = f"the form of this model's calls leaves open: {', '.join(left_open)}"
            raise GrammarError(reason, param="").of(function_param(place), functions[place]["name"])
        lost[place] = [*dict.fromkeys([*lost.get(place, ()), *left_open])]
    told = (f"{function_param(place)}: {', '.join(lost[place])}" for place in sorted(lost))
    return matcher, tuple(told)


def _as_far_as_possible(
    grammars: GrammarCompiler,
    schema: Schema | None,
    functions: Mapping[int, Function],
    options: dict[str, Any],
) -> tuple[LLMatcher, Mapping[int, Function], dict[int, list[str]]]:
    """The grammar, the functions with the schemas that it enforces, and what they lost."""
    loosener = Loosener(grammars)
    if not any(loosener.knows(function.get("parameters") or {}) for function in functions.values()):
        try:
            return grammars.compile_answer(schema, functions, **options), functions, {}
        except GrammarError as error:
            if not error.param.startswith("tools"):
                raise
    notes: dict[int, list[str]] = {}
    loose: dict[int, Function] = {}
    for place, function in functions.items():
        loose[place] = function
        parameters, lost = loosener.loosened(function.get("parameters") or {})
        if lost and function.get("strict"):
            # The reason why it can't be enforced as it is.
            grammars.compile_answer(None, {place: function}, **options)
        elif lost:
            loose[place], notes[place] = {**function, "parameters": parameters}, lost
    try:
        return grammars.compile_answer(schema, loose, **options), loose, notes
    except GrammarError as error:
        strict = any(function.get("strict") for function in functions.values())
        if strict or not error.param.startswith("tools"):
            raise
    # Each can be enforced, but not all together.
    free = {place: {**one, "parameters": ANY_OBJECT} for place, one in functions.items()}
    matcher = grammars.compile_answer(schema, free, **options)
    return matcher, free, {place: ["all"] for place in functions}


class Loosener:
    """Takes away from schemas what can't be enforced, for no longer than a grammar may take."""

    def __init__(self, grammars: GrammarCompiler) -> None:
        self._grammars = grammars
        self._end = time.monotonic() + COMPILE_SECONDS
        self._known = _KNOWN.setdefault(grammars, {})
        self._allows = lru_cache(_REMEMBERED)(self._allows_text)

    def knows(self, schema: Schema) -> bool:
        """Was it loosened before?"""
        return _digest(schema) in self._known

    def loosened(self, schema: Schema) -> tuple[Schema, list[str]]:
        """A schema of an object that can be enforced, and the names of the keywords it lost."""
        digest = _digest(schema)
        if digest in self._known:
            return self._known[digest]
        made, lost = self._made(schema)
        if lost and time.monotonic() < self._end:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[digest] = made, lost
        return made, lost

    def _made(self, schema: Schema) -> tuple[Schema, list[str]]:
        if self._can(schema):
            return schema, []
        try:
            own: dict[str, Any] = json.loads(json.dumps(schema, allow_nan=False))
        except (ValueError, RecursionError):
            return ANY_OBJECT, ["all"]
        lost = ["type"] if own.get("type", "object") != "object" else []
        own["type"] = "object"
        for step in (self._without_the_unenforceable, _without_alternatives, _without_bounds):
            lost = [*dict.fromkeys([*lost, *step(own)])]
            if self._can(own):
                return own, lost
        return ANY_OBJECT, ["all"]

    def _can(self, schema: Schema) -> bool:
        if time.monotonic() > self._end or schema.get("type", "object") != "object":
            return False
        try:
            return self._allows(json.dumps(schema))
        except (ValueError, RecursionError):
            return False

    def _allows_text(self, schema: str) -> bool:
        return self._grammars.allows(json.loads(schema))

    def _without_the_unenforceable(self, root: dict[str, Any]) -> Iterator[str]:
        for part in [*subschemas(root)]:
            for name in _UNENFORCEABLE:
                if name in part:
                    del part[name]
                    yield name
            yield from _drop(part, "$ref", lambda reference: not refers_nowhere(root, reference))
            yield from _drop(part, "type", _is_type)
            yield from _drop(part, "format", self._string_can("format"))
            yield from _drop(part, "pattern", self._string_can("pattern"))
            patterns = part.get("patternProperties")
            if isinstance(patterns, dict) and not all(map(self._string_can("pattern"), patterns)):
                del part["patternProperties"]
                part["additionalProperties"] = True
                yield "patternProperties"

    def _string_can(self, keyword: str) -> Callable[[Any], bool]:
        def can(value: Any) -> bool:
            if time.monotonic() > self._end:
                return False
            return self._allows(json.dumps({"type": "string", keyword: value}))

        return can


def _digest(schema: Schema) -> bytes:
    try:
        return hashlib.sha256(json.dumps(schema).encode()).digest()
    except (ValueError, RecursionError):
        return b""


def _drop(part: dict[str, Any], keyword: str, keep: Callable[[Any], bool]) -> Iterator[str]:
    if keyword in part and not keep(part[keyword]):
        del part[keyword]
        yield keyword


def _is_type(given: Any) -> bool:
    kinds = given if isinstance(given, list) else [given]
    return bool(kinds) and all(isinstance(kind, str) and kind in _TYPES for kind in kinds)


def _without_alternatives(root: dict[str, Any]) -> Iterator[str]:
    """Where one schema of several must hold, and no other, any of them may."""
    for part in subschemas(root):
        if "oneOf" in part:
            ways = part.pop("oneOf")
            if "anyOf" not in part:
                part["anyOf"] = ways
            yield "oneOf"


def _without_bounds(root: dict[str, Any]) -> Iterator[str]:
    for part in subschemas(root):
        for name in _BOUNDS:
            if name in part:
                del part[name]
                yield name
        if isinstance(part.get("allOf"), list):
            del part["allOf"]
            yield "allOf"
