"""The grammar of a call's arguments where they are no JSON object, in Lark, from their schema.

Bounded are the names of the arguments, their order, which of them must be there, and each value's
type; of texts `enum`, `const` and lengths up to LONGEST_COUNTED; within tagged arguments all of a
value that is no text. What is inside lists and objects of the other styles is any literal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from tuneserve.chat.argument_styles import ArgumentStyle, BareKeys, Python, Tagged
from tuneserve.serve.chat.call_arguments.values import types_of

WriteMark = Callable[[str], str]
"""A mark in Lark: its own token or its characters."""
WriteSchema = Callable[[Mapping[str, Any]], str]
"""JSON of a schema in Lark."""

LONGEST_COUNTED = 1000
"""Characters up to which a text's length is bounded: each is a state of the grammar."""

_ANY = r"(.|\n)"
_WORDS = {"boolean": "true|false|True|False", "null": "null|None"}
_NUMBERS = {
    "integer": r"-?(0|[1-9][0-9]{0,15})",
    "number": r"-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,9})?",
}
_PYTHON_TEXT = r"'([^'\\]|\\(.|\n))*'" + "|" + r'"([^"\\]|\\(.|\n))*"'


class ArgumentGrammar:
    """Rules of the arguments of a function in a style. `lines` are those made so far, their names
    told apart by `prefix`; call_rules has the rule BLANK that they use."""

    def __init__(
        self, style: ArgumentStyle, mark: WriteMark, as_json: WriteSchema, *, prefix: str
    ) -> None:
        self._style = style
        self._mark = mark
        self._as_json = as_json
        self._prefix = prefix
        self.lines: list[str] = []
        self._count = 0

    def _name(self, kind: str) -> str:
        self._count += 1
        return (
            f"{kind}{self._prefix}x{self._count}"
            if kind == "v"
            else f"V{self._prefix}X{self._count}"
        )

    def add(self, parameters: Mapping[str, Any]) -> str:
        """The name of a rule of all arguments that a schema allows."""
        root = dict(parameters)
        given = root.get("properties")
        properties: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
        required = set(root.get("required") or ())
        is_open = bool(root.get("additionalProperties", "properties" not in root))
        if isinstance(self._style, BareKeys):
            properties = dict(sorted(properties.items(), key=lambda pair: pair[0].lower()))
        pairs = [
            (self._pair(key, schema, root), key in required) for key, schema in properties.items()
        ]
        others = self._other_pair() if is_open else ""
        match self._style:
            case Tagged():
                listed = [f"{pair}{'' if needed else '?'}" for pair, needed in pairs]
                return self._rule(" ".join([*listed, f"{others}*" if others else '""']))
            case Python():
                return self._rule(f'"(" {self._separated(pairs, others, "/, ?/")} ")"')
            case BareKeys():
                return self._rule(f'"{{" {self._separated(pairs, others, "/, ?/")} "}}"')

    def _rule(self, body: str) -> str:
        name = self._name("v")
        self.lines.append(f"{name}: {body}")
        return name

    def _terminal(self, body: str) -> str:
        name = self._name("V")
        self.lines.append(f"{name}: {body}")
        return name

    def _separated(self, pairs: list[tuple[str, bool]], others: str, separator: str) -> str:
        """Pairs in order, those that need not be there left out, with the separator between."""
        rest = self._rule(f"({separator} {others})*" if others else '""')
        first = self._rule(f"({others} {rest})?" if others else '""')
        for pair, needed in reversed(pairs):
            first = self._rule(f"{pair} {rest}" + ("" if needed else f" | {first}"))
            rest = self._rule(f"{separator} {pair} {rest}" + ("" if needed else f" | {rest}"))
        return first

    def _pair(self, key: str, schema: Any, root: Mapping[str, Any]) -> str:
        schema = schema if isinstance(schema, Mapping) else {}
        types = types_of(schema, root)
        match self._style:
            case Tagged():
                return self._tagged(json.dumps(key), schema, types, root)
            case Python():
                return self._rule(f"{json.dumps(key)} /= ?/ {self._python(schema, types)}")
            case BareKeys():
                return self._rule(f'{json.dumps(key)} ":" {self._bare(schema, types)}')

    def _other_pair(self) -> str:
        match self._style:
            case Tagged():
                return self._tagged(r"/[^<>\"=\n]+/", {}, frozenset(), {})
            case Python():
                return self._rule(f"/[^=,()'\"\\n]+/ /= ?/ {self._python({}, frozenset())}")
            case BareKeys():
                return self._rule(f'/[^:,{{}}<>]+/ ":" {self._bare({}, frozenset())}')

    # -- tagged -------------------------------------------------------------------------------

    def _tagged(
        self, key: str, schema: Mapping[str, Any], types: frozenset[str], root: Mapping[str, Any]
    ) -> str:
        style = self._style
        assert isinstance(style, Tagged)
        begin = f"BLANK? {self._written(style.key_begin)} {key}"
        as_text = f"{self._written(style.text_begin)} {self._text(schema, style.value_end)}"
        if "string" in types or not types:
            told_apart = style.text_begin != style.json_begin
            if not told_apart or types == {"string"}:
                return self._rule(f"{begin} {as_text}")
            whole = schema if types else {"type": ["number", "boolean", "null", "array", "object"]}
        else:
            whole = schema
        if types and types <= set(_WORDS):
            words = "|".join(_WORDS[name] for name in sorted(types))
            value = f"/{words}/"
        else:
            defined = {key: root[key] for key in ("$defs", "definitions") if key in root}
            value = self._rule(self._as_json({**defined, **whole}))
        other = f"{self._written(style.json_begin)} {value} {self._written(style.value_end)}"
        mixed = "string" in types or not types
        return self._rule(f"{begin} ({as_text} | {other})" if mixed else f"{begin} {other}")

    def _text(self, schema: Mapping[str, Any], end: str) -> str:
        """A text and the mark behind it."""
        fixed = _fixed(schema)
        if fixed is not None:
            texts = " | ".join(json.dumps(one, ensure_ascii=False) for one in map(str, fixed))
            return f"({texts}) {self._written(end)}"
        of_length = _ANY + _length(schema)
        mark = self._mark(end.strip())
        if mark.startswith("<["):
            return f"{self._terminal(f'/{of_length}/')} {mark}"
        closed = _escaped(end)
        once = f"~/{_ANY}*{_escaped(end.strip())}{_ANY}+/"
        return self._terminal(f"/{of_length}{closed}/ & {once}")

    def _written(self, text: str) -> str:
        """A form's text: its marks as tokens where they are some, white space as it is."""
        terms = [
            self._mark(part) if self._mark(part).startswith("<[") else json.dumps(part)
            for part in re.split(r"(<[^<>\s]+>)", text)
            if part
        ]
        return " ".join(terms)

    # -- Python and bare keys -----------------------------------------------------------------

    def _python(self, schema: Mapping[str, Any], types: frozenset[str]) -> str:
        if (fixed := _fixed(schema)) is not None:
            written = {form for one in fixed for form in (repr(one), json.dumps(one))}
            return f"({' | '.join(json.dumps(one) for one in sorted(written))})"
        return self._literal(types, f"/{_PYTHON_TEXT}/", f"/{_PYTHON_TEXT}/ /: ?/")

    def _bare(self, schema: Mapping[str, Any], types: frozenset[str]) -> str:
        style = self._style
        assert isinstance(style, BareKeys)
        quote = self._written(style.quote)
        if (fixed := _fixed(schema)) is not None:
            texts = [
                f"{quote} {json.dumps(one)} {quote}"
                if isinstance(one, str)
                else json.dumps(json.dumps(one))
                for one in fixed
            ]
            return f"({' | '.join(texts)})"
        text = f"{quote} {self._text(schema, style.quote)}"
        return self._literal(types, text, '/[^:,{}<>]+/ ":"')

    def _literal(self, types: frozenset[str], text: str, key: str) -> str:
        """A value of some types (none: any); what is within lists and objects is any literal."""
        name = self._name("v")
        number, words = _NUMBERS["number"], "|".join(_WORDS.values())
        inner = f"{name}any"
        self.lines.append(f"{inner}: {text} | /{number}/ | /{words}/ | {name}list | {name}object")
        self.lines.append(f'{name}list: "[" ({inner} (/, ?/ {inner})*)? "]"')
        self.lines.append(f'{name}object: "{{" ({key} {inner} (/, ?/ {key} {inner})*)? "}}"')
        ways = {
            "string": text,
            "array": f"{name}list",
            "object": f"{name}object",
            **{kind: f"/{pattern}/" for kind, pattern in (_NUMBERS | _WORDS).items()},
        }
        chosen = [ways[kind] for kind in sorted(types) if kind in ways] or [inner]
        return self._rule(" | ".join(chosen))


def _fixed(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) and values else None


def _length(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    least = least if type(least) is int and 0 < least <= LONGEST_COUNTED else 0
    if type(most) is int and least <= most <= LONGEST_COUNTED:
        return f"{{{least},{most}}}"
    return f"{{{least},}}" if least else "*"


def _escaped(text: str) -> str:
    return re.sub(r"([.^$*+?()\[\]{}|\\/])", r"\\\1", text).replace("\n", "\\n")
