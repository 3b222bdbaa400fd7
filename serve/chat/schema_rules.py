"""JSON Schema as rules of a grammar that allow only JSON that satisfies it.

Every form of schema names the keywords it enforces; any other keyword beside them is refused, so
that nothing is dropped silently. Where JSON Schema leaves freedom, the grammar may take less of it:
an object has its properties in their order and no others, numbers have at most 16 digits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tuneserve.serve.chat.gbnf import literal
from tuneserve.serve.chat.grammar_check import LONGEST_REPETITION
from tuneserve.serve.chat.patterns import PatternError, pattern_grammar

DEEPEST_SCHEMA = 64

ANNOTATIONS = frozenset(
    {
        "title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated",
        "readOnly", "writeOnly", "$defs", "definitions", "discriminator",
    }
)  # fmt: skip
TYPES: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset(),
    "integer": frozenset(),
    "boolean": frozenset(),
    "null": frozenset(),
}
"""Each type and the keywords that bound it."""

PRIMITIVES = {
    "ws": '" "?',
    "char": r'[^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "string": r'"\"" char* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": 'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "member": 'string ":" ws value',
    "object": '"{" ws (member ("," ws member)* ws)? "}"',
    "array": '"[" ws (value ("," ws value)* ws)? "]"',
    "value": "object | array | string | number | boolean | null",
}
_DATE = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
_TIME = (
    '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? '
    '("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])'
)
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": ' "-" '.join(f"[0-9a-fA-F]{{{count}}}" for count in (8, 4, 4, 4, 12)),
}

Schema = Mapping[str, Any]


class SchemaError(ValueError):
    """Why a schema can't be enforced."""


class Property(NamedTuple):
    """A member of an object: its name, the GBNF of its value, and must it be there?"""

    name: str
    value: str
    required: bool


class SchemaRules:
    """Collects the rules of one grammar; several schemas can share it."""

    def __init__(self) -> None:
        self._rules = dict(PRIMITIVES)
        self._names: dict[str, str] = {}

    def add(self, body: str) -> str:
        """The name of a rule with this body; equal bodies share one."""
        if body not in self._names:
            self._names[body] = self.reserve()
            self._rules[self._names[body]] = body
        return self._names[body]

    def reserve(self) -> str:
        """A name for a rule that `define` gives its body: it may refer to itself."""
        name = f"r{len(self._rules)}"
        self._rules[name] = ""
        return name

    def define(self, name: str, body: str) -> None:
        self._rules[name] = body

    def add_schema(self, schema: Any) -> str:
        """GBNF of one value that satisfies the schema; `#` in it is the schema itself. Raises
        SchemaError."""
        return _Document(self, schema).convert(schema, "schema", 0)

    def add_object(self, properties: Sequence[Property]) -> str:
        """GBNF of an object with these members in this order and no others."""
        pairs = [
            self.add(f'{literal(json_text(one.name))} ":" ws {one.value}') for one in properties
        ]
        if not pairs:
            return self.add('"{" ws "}"')
        # `tail`: what may follow once a member is there; `heads`: the ways to begin.
        tail = ""
        heads: list[str] = []
        for one, pair in zip(reversed(properties), reversed(pairs), strict=True):
            head = f"{pair} {tail}".strip()
            heads = [head] if one.required else [head, *heads]
            more = f'"," ws {pair}' if one.required else f'("," ws {pair})?'
            tail = self.add(f"{more} {tail}".strip())
        members = f"({' | '.join(heads)}) ws"
        if not any(one.required for one in properties):
            members = f"({members})?"
        return self.add(f'"{{" ws {members} "}}"')

    def text(self) -> str:
        return "\n".join(f"{name} ::= {body}" for name, body in self._rules.items())


class _Document:
    """One schema whose parts refer to each other."""

    def __init__(self, rules: SchemaRules, root: Any) -> None:
        self._rules = rules
        self._root = root
        self._referred: dict[str, str] = {}

    def convert(self, schema: Any, path: str, depth: int) -> str:
        """GBNF of a value that satisfies a part of the schema."""
        if depth > DEEPEST_SCHEMA:
            raise SchemaError(f"{path} is nested more than {DEEPEST_SCHEMA} deep")
        if schema is True:
            return "value"
        if schema is False:
            raise SchemaError(f"{path} allows nothing")
        bounds = _bounds(schema, path)
        for keyword, form in self._forms().items():
            if keyword in bounds:
                return form(bounds, path, depth)
        return self._typed(bounds, path, depth)

    def _forms(self) -> Mapping[str, Callable[[Schema, str, int], str]]:
        return {
            "$ref": self._reference,
            "const": self._values,
            "enum": self._values,
            "anyOf": self._alternatives,
            "oneOf": self._alternatives,
            "allOf": self._all_of,
        }

    def _reference(self, schema: Schema, path: str, depth: int) -> str:
        _only(schema, {"$ref"}, path)
        pointer = schema["$ref"]
        if pointer not in self._referred:
            target = self._target(pointer, path)
            # Known before it is converted, since it may refer to itself.
            name = self._referred[pointer] = self._rules.reserve()
            self._rules.define(name, self.convert(target, pointer, depth + 1))
        return self._referred[pointer]

    def _target(self, pointer: Any, path: str) -> Any:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise SchemaError(f"{path}.$ref must begin with '#/'")
        target = self._root
        for step in pointer.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key.isascii() and key.isdigit():
                target = dict(enumerate(target)).get(int(key[:9]))
            else:
                target = target.get(key) if isinstance(target, Mapping) else None
            if target is None:
                raise SchemaError(f"{path}: '{pointer}' is not in the schema")
        return target

    def _values(self, schema: Schema, path: str, _: int) -> str:
        keyword = "const" if "const" in schema else "enum"
        _only(schema, {keyword, "type"}, path)
        values = [schema["const"]] if keyword == "const" else _items(schema, "enum", path)
        allowed = _types(schema, path) if "type" in schema else list(TYPES)
        values = [value for value in values if any(_is(value, one) for one in allowed)]
        if not values:
            raise SchemaError(f"{path}.{keyword} has no value of the type")
        try:
            return self._rules.add(" | ".join(literal(json_text(value)) for value in values))
        except ValueError:
            raise SchemaError(f"{path}.{keyword} has a number that JSON lacks") from None

    def _alternatives(self, schema: Schema, path: str, depth: int) -> str:
        keyword = "anyOf" if "anyOf" in schema else "oneOf"
        _only(schema, {keyword}, path)
        parts = [
            self.convert(part, f"{path}.{keyword}.{number}", depth + 1)
            for number, part in enumerate(_items(schema, keyword, path))
        ]
        return self._rules.add(" | ".join(parts))

    def _all_of(self, schema: Schema, path: str, depth: int) -> str:
        """One part is itself; several must be objects, whose properties are put together."""
        parts = _items(schema, "allOf", path)
        if len(parts) == 1 and len(schema) == 1:
            return self.convert(parts[0], f"{path}.allOf.0", depth + 1)
        rest = {key: value for key, value in schema.items() if key != "allOf"}
        merged: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
        named = [(f"{path}.allOf.{number}", part) for number, part in enumerate(parts)]
        for name, part in [(path, rest), *named]:
            self._merge(merged, part, name)
        return self._typed(merged, path, depth)

    def _merge(self, merged: dict[str, Any], part: Any, path: str) -> None:
        seen: set[str] = set()
        while isinstance(part, Mapping) and isinstance(pointer := part.get("$ref"), str):
            if pointer in seen:
                raise SchemaError(f"{path}: '{pointer}' refers to itself")
            seen.add(pointer)
            part = self._target(pointer, path)
        bounds = _bounds(part, path)
        _only(bounds, {"type", "properties", "required"}, path)
        if bounds.get("type", "object") != "object":
            raise SchemaError(f"{path}: of several parts in allOf all must be objects")
        for key, value in _mapping(bounds, "properties", path).items():
            if merged["properties"].setdefault(key, value) != value:
                raise SchemaError(f"{path}: '{key}' is in another part of allOf too")
        merged["required"] += _required(bounds, path)

    def _typed(self, schema: Schema, path: str, depth: int) -> str:
        """A value of one of the types, each bounded by its own keywords."""
        keywords = set(schema) - {"type"}
        types = _types(schema, path) if "type" in schema else _types_of(keywords, path)
        unknown = keywords - frozenset().union(*(TYPES[one] for one in types))
        if unknown:
            raise SchemaError(_unsupported(path, min(unknown)))
        forms = {"object": self._object, "array": self._array, "string": self._string}
        parts = []
        for one in types:
            bounds = {key: value for key, value in schema.items() if key in TYPES[one]}
            parts.append(forms[one](bounds, path, depth) if bounds else one)
        return parts[0] if len(parts) == 1 else self._rules.add(" | ".join(parts))

    def _object(self, schema: Schema, path: str, depth: int) -> str:
        properties = _mapping(schema, "properties", path)
        required = set(_required(schema, path))
        if missing := required - set(properties):
            raise SchemaError(f"{path}.required names '{min(missing)}', which is no property")
        others = schema.get("additionalProperties", True)
        if isinstance(others, Mapping):
            if "properties" in schema:
                raise SchemaError(
                    f"{path}.additionalProperties beside properties can only be true or false"
                )
            return self._map(self.convert(others, f"{path}.additionalProperties", depth + 1))
        if not isinstance(others, bool):
            raise SchemaError(f"{path}.additionalProperties must be true, false or a schema")
        if others and "properties" not in schema:
            return "object"
        members = []
        for key, part in properties.items():
            value = self.convert(part, f"{path}.properties.{key}", depth + 1)
            members.append(Property(key, value, key in required))
        return self._rules.add_object(members)

    def _map(self, value: str) -> str:
        member = self._rules.add(f'string ":" ws {value}')
        return self._rules.add(f'"{{" ws ({member} ("," ws {member})* ws)? "}}"')

    def _array(self, schema: Schema, path: str, depth: int) -> str:
        least, most = _limits(schema, "minItems", "maxItems", path)
        items, first = schema.get("items", True), schema.get("prefixItems")
        if first is not None or isinstance(items, list):
            key = "items" if first is None else "prefixItems"
            if first is not None and items not in (True, False):
                raise SchemaError(f"{path}: items beside prefixItems is not supported")
            return self._tuple(_items(schema, key, path), least, most, f"{path}.{key}", depth)
        if most == 0 or items is False:
            if least:
                raise SchemaError(f"{path} allows no items and asks for {least}")
            return self._rules.add('"[" ws "]"')
        item = self.convert(items, f"{path}.items", depth + 1)
        more = self._rules.add(f'"," ws {item}')
        times = _times(max(0, least - 1), None if most is None else most - 1)
        several = f"{item} {more}{times} ws"
        if not least:
            several = f"({several})?"
        return self._rules.add(f'"[" ws {several} "]"')

    def _tuple(
        self, parts: Sequence[Any], least: int, most: int | None, path: str, depth: int
    ) -> str:
        """All the items that are described, one after the other."""
        if least > len(parts) or (most is not None and most < len(parts)):
            raise SchemaError(f"{path} has {len(parts)} items, which minItems or maxItems excludes")
        items = [
            self.convert(part, f"{path}.{number}", depth + 1) for number, part in enumerate(parts)
        ]
        listed = ' "," ws '.join(items)
        return self._rules.add(f'"[" ws {listed} ws "]"')

    def _string(self, schema: Schema, path: str, _: int) -> str:
        if "pattern" in schema:
            _only(schema, {"pattern"}, path)
            try:
                inside = pattern_grammar(str(schema["pattern"]))
            except PatternError as error:
                raise SchemaError(f"{path}.pattern: {error}") from None
        elif "format" in schema:
            _only(schema, {"format"}, path)
            if schema["format"] not in FORMATS:
                raise SchemaError(f"{path}: the format '{schema['format']}' is not supported")
            inside = self._rules.add(FORMATS[schema["format"]])
        else:
            inside = f"char{_times(*_limits(schema, 'minLength', 'maxLength', path))}"
        return self._rules.add(rf'"\"" {inside} "\""')


def json_text(value: Any) -> str:
    """A value as JSON, characters as they are. Raises ValueError for what JSON lacks (NaN)."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _bounds(schema: Any, path: str) -> Schema:
    """The schema without what bounds nothing."""
    if not isinstance(schema, Mapping):
        raise SchemaError(f"{path} must be an object")
    return {key: value for key, value in schema.items() if key not in ANNOTATIONS}


def _only(schema: Iterable[str], keywords: set[str], path: str) -> None:
    """Raise SchemaError if there are other keywords than these, which are enforced together."""
    if others := set(schema) - keywords:
        beside = ", ".join(sorted(keywords & set(schema)))
        message = f"the keyword '{min(others)}' is not supported beside '{beside}'"
        raise SchemaError(f"{path}: {message}" if beside else _unsupported(path, min(others)))


def _unsupported(path: str, keyword: str) -> str:
    return f"{path}: the keyword '{keyword}' is not supported here"


def _types(schema: Schema, path: str) -> list[str]:
    given = schema["type"]
    types = given if isinstance(given, list) else [given]
    if not types or not all(isinstance(one, str) and one in TYPES for one in types):
        raise SchemaError(f"{path}.type must be one or more of {', '.join(TYPES)}")
    return types


def _types_of(keywords: set[str], path: str) -> list[str]:
    """The types that a schema without 'type' is of: what its keywords bound, or any."""
    if not keywords:
        return ["object", "array", "string", "number", "boolean", "null"]
    types = [one for one, bounding in TYPES.items() if keywords & bounding]
    if len(types) != 1:
        raise SchemaError(_unsupported(path, min(keywords)))
    return types


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "null":
            return value is None
    kinds: Mapping[str, type] = {"object": dict, "array": list, "string": str, "boolean": bool}
    return isinstance(value, kinds[kind])


def _items(schema: Schema, key: str, path: str) -> list[Any]:
    value = schema[key]
    if not isinstance(value, list) or not value:
        raise SchemaError(f"{path}.{key} must be a list that is not empty")
    return value


def _mapping(schema: Schema, key: str, path: str) -> Schema:
    value = schema.get(key, {})
    if not isinstance(value, Mapping):
        raise SchemaError(f"{path}.{key} must be an object")
    return value


def _required(schema: Schema, path: str) -> list[str]:
    names = schema.get("required", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SchemaError(f"{path}.required must be a list of names")
    return names


def _limits(schema: Schema, least: str, most: str, path: str) -> tuple[int, int | None]:
    for key in (least, most):
        value = schema.get(key, 0)
        if type(value) is not int or not 0 <= value <= LONGEST_REPETITION:
            raise SchemaError(f"{path}.{key} must be from 0 to {LONGEST_REPETITION}")
    low, high = schema.get(least, 0), schema.get(most)
    if high is not None and high < low:
        raise SchemaError(f"{path}.{most} is less than {path}.{least}")
    return low, high


def _times(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"
