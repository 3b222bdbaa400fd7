"""The grammar of a call's arguments where they are no JSON object, in Lark, from their schema.

Bounded are the names of the arguments, their order, which of them must be there, and their values;
what a text without quotes or the words of a style leave open of a schema is named: `left_open`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tuneserve.chat.argument_styles import ArgumentStyle, Python, Tagged
from tuneserve.serve.chat.grammar_errors import GrammarError
from tuneserve.serve.chat.grammar_rules import (
    ANY,
    Rules,
    WriteMark,
    WriteSchema,
    either,
    escaped,
    in_quotes,
)
from tuneserve.serve.chat.literal_values import WORDS, LiteralValues
from tuneserve.serve.chat.schema_ways import asked, fixed_values, types_of, ways, with_definitions

_OTHERS = ["number", "boolean", "null", "array", "object"]
_OF_ARGUMENTS = {"properties", "required", "additionalProperties"}


class ArgumentGrammar:
    """Rules of the arguments of a function in a style; call_rules has the rule BLANK that they use.
    `lines` are the rules, `left_open` what of the schema they don't bound: `city.pattern`."""

    def __init__(
        self,
        style: ArgumentStyle,
        mark: WriteMark,
        as_json: WriteSchema,
        *,
        param: str,
        prefix: str,
    ) -> None:
        self._style = style
        self._mark = mark
        self._as_json = as_json
        self._param = param
        self._rules = Rules(param, prefix)

    @property
    def lines(self) -> list[str]:
        return self._rules.lines

    @property
    def left_open(self) -> list[str]:
        return self._rules.left_open

    def add(self, parameters: Mapping[str, Any]) -> str:
        """The name of a rule of all arguments that a schema allows. Raises GrammarError."""
        try:
            return self._added(parameters)
        except (TypeError, ValueError, RecursionError) as error:
            reason = f"it is no schema, or nested too deep: {error}"
            raise GrammarError(reason, param=self._param) from error

    def _added(self, parameters: Mapping[str, Any]) -> str:
        found = ways(parameters, parameters)
        # Arguments in several ways are those of none: any.
        root = {**parameters, **found[0]} if len(found) == 1 else dict(parameters)
        rules = self._rules
        rules.leave_open("", [word for word in asked(root, "object") if word not in _OF_ARGUMENTS])
        if isinstance(self._style, Tagged):
            return rules.rule(self._all_tagged(self._style, root))
        values = LiteralValues(self._style, rules, self._mark, self._as_json, root)
        is_python = isinstance(self._style, Python)
        inside = values.members(root, "", 0, equals=is_python)
        return rules.rule(f'"(" {inside} ")"' if is_python else f'"{{" {inside} "}}"')

    def _all_tagged(self, style: Tagged, root: Mapping[str, Any]) -> str:
        given = root.get("properties")
        properties: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
        required = set(map(str, root.get("required") or ()))
        if not required <= set(properties):
            self._rules.leave_open("", ["required"])
        listed = [
            self._tagged(style, in_quotes(key), schema, root, key)
            + ("" if key in required else "?")
            for key, schema in properties.items()
        ]
        more = root.get("additionalProperties", "properties" not in root)
        if more or more == {}:
            names = self._rules.other_keys(r'[^<>"=\s]+', properties)
            listed.append(f"{self._tagged(style, names, more, root, 'additionalProperties')}*")
        return " ".join(listed) or '""'

    def _tagged(
        self, style: Tagged, key: str, schema: Any, root: Mapping[str, Any], path: str
    ) -> str:
        """A rule of an argument: alternatives behind its key, text or JSON."""
        types = types_of(schema, root)
        found = ways(schema, root)
        begin = f"BLANK? {self._written(style.key_begin)} {key}"
        as_text, as_json = self._written(style.text_begin), self._written(style.json_begin)
        end = self._written(style.value_end)
        told_apart = style.text_begin != style.json_begin
        is_text = "string" in types or not types
        bodies = []
        for way in found if is_text else ():
            if way.get("type", "string") == "string":
                text = self._text(style, way, path, only_texts=told_apart or types == {"string"})
                bodies.append(f"{as_text} {text}" if text else "")
            elif not told_apart:
                # What reads as JSON is JSON, whichever of the ways it was written in.
                self._rules.leave_open(path, asked(way, way["type"]))
                if way["type"] in WORDS:
                    bodies.append(f"{as_json} /{WORDS[way['type']]}/ {end}")
        if not is_text or (told_apart and types != {"string"}):
            bodies.append(f"{as_json} {self._json(schema, types, root, path)} {end}")
        return self._rules.rule(f"{begin} {either(filter(None, bodies))}")

    def _json(self, schema: Any, types: frozenset[str], root: Mapping[str, Any], path: str) -> str:
        """A rule of a value in JSON."""
        part = schema if isinstance(schema, Mapping) else {}
        if types and types <= set(WORDS) and not set(asked(part)) - {"$ref", "anyOf"}:
            words = "|".join(WORDS[name] for name in sorted(types))
            return f"/{words}/"
        whole = with_definitions(part, root) if types else {"type": _OTHERS}
        if whole is None or not types:
            self._rules.leave_open(path, asked(part))
            whole = {"type": sorted(types) or _OTHERS}
        return self._rules.rule(self._as_json(whole))

    def _text(self, style: Tagged, way: Mapping[str, Any], path: str, *, only_texts: bool) -> str:
        """A text and the mark behind it; '' if there is none."""
        words = asked(way, "string" if "type" in way else "")
        fixed = fixed_values(way)
        if fixed is not None:
            self._rules.leave_open(path, [word for word in words if word not in ("enum", "const")])
            texts = [one for one in fixed if isinstance(one, str) or not only_texts]
            ended = self._written(style.value_end)
            return f"{either(map(in_quotes, map(_plain, texts)))} {ended}" if texts else ""
        if "type" not in way:
            self._rules.leave_open(path, words)
            way = {}
        patterns = self._rules.text_patterns(way, path)
        others = ("pattern", "format", "minLength", "maxLength")
        self._rules.leave_open(path, [word for word in words if word not in others])
        of_length = ANY + self._rules.length(way, path)
        mark = self._mark(style.value_end.strip())
        if mark.startswith("<["):
            bodies = " & ".join(f"/{one}/" for one in (of_length, *patterns))
            return f"{self._rules.terminal(bodies)} {mark}"
        closed = escaped(style.value_end)
        once = f"~/{ANY}*{escaped(style.value_end.strip())}{ANY}+/"
        bodies = " & ".join(f"/{one}{closed}/" for one in (of_length, *patterns))
        return self._rules.terminal(f"{bodies} & {once}")

    def _written(self, text: str) -> str:
        """A form's text: its marks as tokens where they are some, white space as it is."""
        terms = [
            self._mark(part) if self._mark(part).startswith("<[") else json.dumps(part)
            for part in re.split(r"(<[^<>\s]+>)", text)
            if part
        ]
        return " ".join(terms)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
