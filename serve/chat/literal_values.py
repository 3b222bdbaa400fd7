"""The grammar of values in Python's literals and in JSON with bare keys, from their schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tuneserve.chat.argument_styles import BareKeys, Python
from tuneserve.serve.chat.grammar_rules import (
    Rules,
    WriteMark,
    WriteSchema,
    either,
    escaped,
    in_quotes,
)
from tuneserve.serve.chat.schema_ways import asked, fixed_values, ways, with_definitions

WORDS = {"boolean": "true|false|True|False", "null": "null|None"}
NUMBERS = {
    "integer": r"-?(0|[1-9][0-9]{0,15})",
    "number": r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,9})?",
}
SEPARATOR = "/, ?/"
_PYTHON_WORDS = {"boolean": "True|False", "null": "None"}
_DEEPEST = 16
"""Lists and objects within each other that are bounded."""
_LONGEST_LIST = 1000
_KEY = re.compile(r"[^\s=,:()\[\]{}'\"<>]+")
"""Names that can be told from what stands around them."""
_QUOTED_KEY = re.compile(r"[^'\"\\\x00-\x1f]+")


class LiteralValues:
    """Makes rules of values for the schema `root` of a function's arguments."""

    def __init__(
        self,
        style: Python | BareKeys,
        rules: Rules,
        mark: WriteMark,
        as_json: WriteSchema,
        root: Mapping[str, Any],
    ) -> None:
        self._rules = rules
        self._as_json = as_json
        self._root = root
        self._quote = mark(style.quote) if isinstance(style, BareKeys) else ""
        self._quote_text = style.quote if isinstance(style, BareKeys) else ""
        self._known: dict[str, str] = {}
        self._any = ""

    def value(self, schema: Any, path: str, *, depth: int = 0) -> str:
        """A rule of a value at a place; `depth` is 0 for an argument itself."""
        key = f"{bool(depth)}{json.dumps(schema)}"
        if key not in self._known:
            name = self._known[key] = self._rules.name()
            bodies = [self._way(way, path, depth) for way in ways(schema, self._root)]
            self._rules.rule(" | ".join(dict.fromkeys(bodies)), name)
        return self._known[key]

    def members(self, schema: Mapping[str, Any], path: str, depth: int, *, equals: bool) -> str:
        """A rule of what is within an object's braces; `equals`: as keyword arguments."""
        given = schema.get("properties")
        properties: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
        if self._quote:
            properties = dict(sorted(properties.items(), key=lambda pair: pair[0].lower()))
        needed = schema.get("required")
        required = set(map(str, needed)) if isinstance(needed, list) else set()
        if not required <= set(properties):
            self._rules.leave_open(path, ["required"])
        pairs = []
        for key, one in properties.items():
            place = f"{path}.{key}" if path else key
            if not (_KEY if self._quote or equals else _QUOTED_KEY).fullmatch(key):
                self._rules.leave_open(place)
            value = self.value(one, place, depth=depth)
            pair = self._rules.rule(f"{self._key(in_quotes(key)[1:-1], equals)} {value}")
            pairs.append((pair, key in required))
        others = ""
        more = schema.get("additionalProperties", "properties" not in schema)
        if more or more == {}:
            value = self.value(more, f"{path}.additionalProperties".lstrip("."), depth=depth)
            bare = self._quote or equals
            names = self._rules.other_keys((_KEY if bare else _QUOTED_KEY).pattern, properties)
            if self._quote:
                names = f'{names} ":"'
            elif equals:
                names = f"{names} /= ?/"
            else:
                names = f'("\'" {names} "\'" | "\\"" {names} "\\"") /: ?/'
            others = self._rules.rule(f"{names} {value}")
        return self._rules.separated(pairs, others, SEPARATOR)

    def _key(self, key: str, equals: bool) -> str:
        if self._quote:
            return f'"{key}" ":"'
        if equals:
            return f'"{key}" /= ?/'
        return f'("\'{key}\'" | "\\"{key}\\"") /: ?/'

    def _way(self, way: Mapping[str, Any], path: str, depth: int) -> str:
        kind = way.get("type") if isinstance(way.get("type"), str) else ""
        assert isinstance(kind, str)
        words = asked(way, kind)
        fixed = fixed_values(way)
        if fixed is not None:
            self._rules.leave_open(path, [word for word in words if word not in ("enum", "const")])
            return either(self._constant(one, depth) for one in fixed)
        if kind in ("array", "object") and depth >= _DEEPEST:
            self._rules.leave_open(path)
            return f"{self._any_value()}{kind}"
        bounded = _BOUNDED.get(kind, set())
        self._rules.leave_open(path, [word for word in words if word not in bounded])
        match kind:
            case "string":
                return self._text(way, path, depth)
            case "integer" | "number":
                limits = {word: way[word] for word in words if word in bounded}
                return self._rules.rule(
                    self._as_json({"type": kind, **limits}) if limits else f"/{NUMBERS[kind]}/"
                )
            case "boolean" | "null":
                inner = depth and not self._quote
                return f"/{(_PYTHON_WORDS if inner else WORDS)[kind]}/"
            case "array":
                return self._or_json(way, self._list(way, path, depth), depth)
            case "object":
                inside = self.members(way, path, depth + 1, equals=False)
                return self._or_json(way, f'"{{" {inside} "}}"', depth)
        if kind:
            self._rules.leave_open(path, ["type"])
        if self._quote or depth:
            return self._any_value()
        literals = "|".join(WORDS.values())
        listed = self._rules.rule(self._as_json({"type": ["array", "object"]}))
        return f"{self._text({}, path, 0)} | /{literals}/ | {listed} | {self._any_value()}"

    def _or_json(self, way: Mapping[str, Any], body: str, depth: int) -> str:
        """Models that write Python write objects as JSON too, and such a value is JSON throughout:
        one in both is none in either."""
        if self._quote or depth:
            return body
        whole = with_definitions(way, self._root)
        return body if whole is None else f"{body} | {self._rules.rule(self._as_json(whole))}"

    def _list(self, way: Mapping[str, Any], path: str, depth: int) -> str:
        item = self.value(way.get("items", {}), f"{path}.items", depth=depth + 1)
        least, most = way.get("minItems", 0), way.get("maxItems")
        if type(least) is not int or not 0 <= least <= _LONGEST_LIST:
            self._rules.leave_open(path, ["minItems"])
            least = 0
        if most is not None and (type(most) is not int or not least <= most <= _LONGEST_LIST):
            self._rules.leave_open(path, ["maxItems"])
            most = None
        if most == 0:
            return '"[" "]"'
        times = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        items = f"{item} ({SEPARATOR} {item}){times if times != '{0,}' else '*'}"
        return f'"[" {items} "]"' if least else f'"[" ({items})? "]"'

    def _text(self, way: Mapping[str, Any], path: str, depth: int) -> str:
        patterns = self._rules.text_patterns(way, path)
        length = self._rules.length(way, path)
        if self._quote:
            return self._quoted(patterns, length)
        free = not patterns and length == "*"
        texts = []
        for quote in "'\"":
            # What is within a list must be a literal of Python's: no line breaks, few escapes.
            one = rf"[^{quote}\\\x00-\x1f]" if depth else rf"[^{quote}\\]"
            if free:
                one = rf"({one}|\\['\"\\nrt])" if depth else rf"({one}|\\(.|\n))"
            body = f"/{quote}{one}{length}{quote}/"
            texts.append(" & ".join([body, *(f"/{quote}{each}{quote}/" for each in patterns)]))
        return either(map(self._rules.terminal, texts))

    def _quoted(self, patterns: list[str], length: str) -> str:
        """Between quotes that are marks."""
        if self._quote.startswith("<["):
            bodies = [rf"/(.|\n){length}/", *(f"/{each}/" for each in patterns)]
            return f"{self._quote} {self._rules.terminal(' & '.join(bodies))} {self._quote}"
        end = escaped(self._quote_text)
        bodies = [rf"/(.|\n){length}{end}/", *(f"/{each}{end}/" for each in patterns)]
        once = rf"~/(.|\n)*{end}(.|\n)+/"
        return f"{self._quote} {self._rules.terminal(' & '.join([*bodies, once]))}"

    def _constant(self, value: Any, depth: int) -> str:
        if self._quote:
            return self._bare_constant(value)
        # JSON's words are not Python's, within which all is Python.
        as_json = not depth or isinstance(value, str)
        written = [repr(value), json.dumps(value, ensure_ascii=False) if as_json else repr(value)]
        if isinstance(value, str) and not depth and not re.search(r"['\"\\]", value):
            written = [f"'{value}'", f'"{value}"']
        return either(map(in_quotes, written))

    def _bare_constant(self, value: Any) -> str:
        if isinstance(value, str):
            return (
                f"{self._quote} {in_quotes(value)} {self._quote}"
                if value
                else (f"{self._quote} {self._quote}")
            )
        if isinstance(value, list):
            inside = ' "," '.join(map(self._bare_constant, value))
            return f'"[" {inside} "]"'
        if isinstance(value, dict):
            pairs = sorted(value.items(), key=lambda pair: pair[0].lower())
            inside = ' "," '.join(
                f"{in_quotes(key + ':')} {self._bare_constant(one)}" for key, one in pairs
            )
            return f'"{{" {inside} "}}"'
        return in_quotes(json.dumps(value))

    def _any_value(self) -> str:
        """The name of a rule of any literal."""
        if not self._any:
            name = self._any = self._rules.name()
            text = self._text({}, "", 1)
            words = "|".join((WORDS if self._quote else _PYTHON_WORDS).values())
            key = '/[^:,{}<>]+/ ":"' if self._quote else f"{text} /: ?/"
            number = NUMBERS["number"]
            self._rules.rule(f"{text} | /{number}/ | /{words}/ | {name}array | {name}object", name)
            self._rules.rule(f'"[" ({name} ({SEPARATOR} {name})*)? "]"', f"{name}array")
            pair = f"{key} {name}"
            self._rules.rule(f'"{{" ({pair} ({SEPARATOR} {pair})*)? "}}"', f"{name}object")
        return self._any


_NUMERIC = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_BOUNDED = {
    "string": {"pattern", "format", "minLength", "maxLength"},
    "integer": _NUMERIC,
    "number": _NUMERIC,
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
"""What rules bound of a value; what can't be of a text or a list is told where it is written."""
