"""Rules in Lark as they are made, and what of a schema they leave open."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tuneserve.serve.chat.grammar_errors import GrammarError
from tuneserve.serve.chat.schema_ways import asked
from tuneserve.serve.chat.text_patterns import ANY, pattern_of

WriteMark = Callable[[str], str]
"""A mark in Lark: its own token or its characters."""
WriteSchema = Callable[[Mapping[str, Any]], str]
"""JSON of a schema in Lark."""

LONGEST_COUNTED = 1000
"""Characters up to which a text's length is bounded: each is a state of the grammar."""
MOST_RULES = 20_000


class Rules:
    """`lines` are those made so far, their names told apart by `prefix`; `left_open` names what no
    rule bounds: `city.pattern`."""

    def __init__(self, param: str, prefix: str) -> None:
        self._param = param
        self._prefix = prefix
        self._count = 0
        self.lines: list[str] = []
        self.left_open: list[str] = []

    def name(self) -> str:
        """Raises GrammarError when there are too many."""
        self._count += 1
        if self._count > MOST_RULES:
            raise GrammarError("it is too complex", param=self._param)
        return f"v{self._prefix}x{self._count}"

    def rule(self, body: str, name: str = "") -> str:
        name = name or self.name()
        self.lines.append(f"{name}: {body}")
        return name

    def terminal(self, body: str) -> str:
        return self.rule(body, self.name().upper())

    def leave_open(self, path: str, keywords: Iterable[str] = ("",)) -> None:
        for keyword in keywords:
            place = ".".join(filter(None, (path, keyword)))
            if place not in self.left_open:
                self.left_open.append(place)

    def separated(self, pairs: list[tuple[str, bool]], others: str, separator: str) -> str:
        """A rule of pairs in order, those that need not be there left out, with the separator
        between."""
        rest = self.rule(f"({separator} {others})*" if others else '""')
        first = self.rule(f"({others} {rest})?" if others else '""')
        for pair, needed in reversed(pairs):
            first = self.rule(f"{pair} {rest}" + ("" if needed else f" | {first}"))
            rest = self.rule(f"{separator} {pair} {rest}" + ("" if needed else f" | {rest}"))
        return first

    def other_keys(self, expression: str, names: Iterable[str]) -> str:
        """A terminal of keys of this expression that are none of the names."""
        taken = "|".join(map(escaped, names))
        return self.terminal(f"/{expression}/" + (f" & ~/{taken}/" if taken else ""))

    def text_patterns(self, way: Mapping[str, Any], path: str) -> list[str]:
        """Expressions that a text must satisfy as a whole."""
        found = []
        for keyword in asked(way, "string"):
            if keyword not in ("pattern", "format"):
                continue
            if (expression := pattern_of(way, keyword)) is None:
                self.leave_open(path, [keyword])
            else:
                found.append(expression)
        return found

    def length(self, way: Mapping[str, Any], path: str) -> str:
        """How often a character of a text may be repeated."""
        least, most = way.get("minLength", 0), way.get("maxLength")
        if type(least) is not int or not 0 <= least <= LONGEST_COUNTED:
            self.leave_open(path, ["minLength"])
            least = 0
        if type(most) is int and least <= most <= LONGEST_COUNTED:
            return f"{{{least},{most}}}"
        if most is not None:
            self.leave_open(path, ["maxLength"])
        return f"{{{least},}}" if least else "*"


def in_quotes(text: str) -> str:
    """A text as Lark's literal."""
    return json.dumps(text, ensure_ascii=False)


def either(bodies: Iterable[str]) -> str:
    return f"({' | '.join(dict.fromkeys(bodies))})"


def escaped(text: str) -> str:
    """A text as a regular expression between slashes."""
    return re.sub(r"([.^$*+?()\[\]{}|\\/])", r"\\\1", text).replace("\n", "\\n")


__all__ = ["ANY", "LONGEST_COUNTED", "Rules", "WriteMark", "WriteSchema", "either", "escaped",
           "in_quotes"]  # fmt: skip
