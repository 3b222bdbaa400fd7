"""What llama.cpp would make of a grammar, worked out before it is asked.

Its parser recurses for every parenthesis, its search for left recursion visits a rule once for
every way to it, and a repetition `{5,3}` never ends: a short text can take the process down. What
it refuses, it prints whole. So a grammar is read here first, and only a sound one is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

DEEPEST_NESTING = 500
LONGEST_REPETITION = 1000
MOST_RULES_REPEATED = 2000
"""llama.cpp's own limit for rules inside of a repetition times its count."""

MOST_ELEMENTS = 300_000
"""Characters and references of all rules, with repetitions written out."""

MOST_VISITS = 5_000_000
LONGEST_WAY = 5_000
"""Rules that begin with each other: how often in all, and how deep, llama.cpp follows them."""

_ESCAPE = r'\\(?:[tnr\\"\[\]-]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})'
_TOKEN = re.compile(
    rf"""(?P<space>(?:[ \t]|\#[^\r\n]*)+)
    |(?P<newline>\r\n|\r|\n)
    |"(?P<literal>(?:{_ESCAPE}|[^"\\])*)"
    |\[\^?(?P<class>(?:{_ESCAPE}|[^\]\\])*)\]
    |!?(?P<id><\[[0-9]{{1,9}}\]>)
    |!?(?P<token><(?!\[)[^>]*>)
    |(?P<name>[A-Za-z0-9-]+)
    |(?P<define>::=)
    |(?P<times>[*+?]|\{{[ \t]*[0-9]+[ \t]*(?:,[ \t]*[0-9]*[ \t]*)?\}})
    |(?P<other>[().|])""",
    re.VERBOSE,
)
_CHARACTER = re.compile(rf"{_ESCAPE}|.", re.DOTALL)


MOST_OPTIONS = 1000
"""Rules that one place leaves open, skipping what may be left out: the time that llama.cpp takes
for a token grows with its third power."""

LONGEST_SHOWN = 64
"""Characters of a rule's name in a message."""


class GrammarError(ValueError):
    """Why a grammar can't be used."""


def check_text(grammar: str, *, is_token: Callable[[str], bool]) -> None:
    """Raise GrammarError unless llama.cpp can safely read the grammar. `is_token`: does a text
    such as `<think>` stand for one token of the vocabulary?"""
    if "\0" in grammar:
        raise GrammarError("it has a NUL character")
    try:
        grammar.encode()
    except UnicodeEncodeError:
        raise GrammarError("it is not valid Unicode") from None
    _check_beginnings(_Reader(grammar, is_token).read())


@dataclass(slots=True)
class _Rule:
    """`sequences` are its alternatives; a symbol is a rule's name, or None for characters."""

    sequences: list[list[str | None]] = field(default_factory=lambda: [[]])


@dataclass(slots=True)
class _Group:
    """What the reader is in: a rule of its own, or a parenthesis. `item` begins the symbols that a
    repetition would repeat; `elements` is their size, `weight` llama.cpp's count of their rules."""

    name: str
    rule: _Rule
    names_before: int
    item: int = 0
    elements: int = 0
    weight: int = 1


class _Reader:
    """Reads a grammar as llama.cpp does, without recursing."""

    def __init__(self, text: str, is_token: Callable[[str], bool]) -> None:
        self._text = text
        self._is_token = is_token
        self._rules: dict[str, _Rule] = {}
        self._names: set[str] = set()
        self._open: list[_Group] = []
        self._elements = 0
        self._line = 1

    def read(self) -> Mapping[str, _Rule]:
        tokens = self._tokens()
        for kind, text in tokens:
            if kind == "newline":
                continue
            if kind != "name" or next(tokens, ("", ""))[0] != "define":
                raise self._error("a rule 'name ::= …' is expected")
            self._read_rule(text, tokens)
        self._check_names()
        return self._rules

    def _check_names(self) -> None:
        if "root" not in self._rules:
            raise GrammarError("it has no rule 'root'")
        # Names are looked at, not uses: llama.cpp wants a rule for `x` in `x{0}` too.
        for name in self._names - set(self._rules):
            raise GrammarError(f"it uses '{name[:LONGEST_SHOWN]}', which is no rule")

    def _read_rule(self, name: str, tokens: Iterator[tuple[str, str]]) -> None:
        self._open = [self._begin(name)]
        goes_on = True
        for kind, text in tokens:
            if kind == "newline":
                if len(self._open) == 1 and not goes_on:
                    break
                continue
            self._read_token(kind, text)
            goes_on = text == "|"
        if len(self._open) > 1:
            raise self._error("a parenthesis is not closed")

    def _read_token(self, kind: str, text: str) -> None:
        match kind, text:
            case "literal" | "class", _:
                self._add_characters(text)
            case "token", _ if not self._is_token(text):
                raise self._error("what is between '<' and '>' is no token of this model")
            case "token" | "id", _:
                self._add(None, 1)
            case "name", _:
                self._names.add(text)
                self._add(text, 1)
            case "times", _:
                self._repeat(*_bounds(text))
            case "other", "(":
                self._open_group()
            case "other", ")":
                self._close_group()
            case "other", "|":
                self._open[-1].rule.sequences.append([])
                self._open[-1].item = 0
                self._open[-1].elements = 0
            case "other", _:
                self._add(None, 1)
            case _:
                raise self._error(f"'{text}' is not expected here")

    def _tokens(self) -> Iterator[tuple[str, str]]:
        place = 0
        while place < len(self._text):
            found = _TOKEN.match(self._text, place)
            if found is None:
                raise self._error("a character, an escape or a quote is not expected here")
            place = found.end()
            kind = found.lastgroup or ""
            if kind != "space":
                yield kind, found[kind]
            self._line += len(re.findall(r"\r\n|\r|\n", found[0]))

    def _begin(self, name: str) -> _Group:
        before = len(self._names)
        self._names.add(name)
        rule = self._rules[name] = _Rule()
        return _Group(name, rule, before)

    def _made_name(self) -> str:
        # llama.cpp's names for rules of its own; '_' is in none that a grammar can have.
        return f"{self._open[0].name}_{len(self._names)}"

    def _add(self, symbol: str | None, elements: int, *, weight: int = 1) -> None:
        group = self._open[-1]
        group.item = len(group.rule.sequences[-1])
        group.elements, group.weight = elements, weight
        group.rule.sequences[-1].append(symbol)
        self._count(elements)

    def _add_characters(self, text: str) -> None:
        length = len(_CHARACTER.findall(text))
        if length:
            self._add(None, length)
        else:
            group = self._open[-1]
            group.item, group.elements = len(group.rule.sequences[-1]), 0

    def _open_group(self) -> None:
        if len(self._open) > DEEPEST_NESTING:
            raise self._error(f"parentheses are nested more than {DEEPEST_NESTING} deep")
        self._open.append(self._begin(self._made_name()))

    def _close_group(self) -> None:
        if len(self._open) == 1:
            raise self._error("a parenthesis is closed that was not opened")
        group = self._open.pop()
        self._add(group.name, 1, weight=max(1, len(self._names) - group.names_before))

    def _repeat(self, least: int, most: int | None) -> None:
        """Rewrite S{m,n} as llama.cpp does: S m times, then a rule for each that may follow."""
        group = self._open[-1]
        sequence = group.rule.sequences[-1]
        if group.elements == 0:
            raise self._error("there is nothing to repeat")
        if max(least, most or 0) > LONGEST_REPETITION:
            raise self._error(f"a repetition goes beyond {LONGEST_REPETITION}")
        if most is not None and most < least:
            raise self._error("a repetition's limits are the wrong way round")
        group.weight *= max(1, least if most is None else most)
        if group.weight > MOST_RULES_REPEATED:
            raise self._error("a repetition has too many rules in it")
        repeated = sequence[group.item :]
        optional = 1 if most is None else most - least
        self._count((max(0, least - 1) + optional) * group.elements + optional)
        sequence[group.item :] = repeated * least
        group.elements *= least
        if optional:
            sequence.append(self._add_optional(repeated, optional, endless=most is None))
            group.elements += 1

    def _add_optional(self, repeated: list[str | None], count: int, *, endless: bool) -> str:
        """Rules for `repeated` up to `count` times, or endlessly; the first one's name."""
        name = ""
        for _ in range(count):
            following = [name] if name else []
            name = self._made_name()
            self._names.add(name)
            following = [name] if endless else following
            self._rules[name] = _Rule([[*repeated, *following], []])
        return name

    def _count(self, elements: int) -> None:
        self._elements += elements
        if self._elements > MOST_ELEMENTS:
            raise self._error("it is too large once its repetitions are written out")

    def _error(self, reason: str) -> GrammarError:
        return GrammarError(f"line {self._line}: {reason}")


def _bounds(times: str) -> tuple[int, int | None]:
    match times:
        case "*":
            return 0, None
        case "+":
            return 1, None
        case "?":
            return 0, 1
    least, comma, most = (part.strip() for part in times[1:-1].partition(","))
    if not comma:
        return _number(least), _number(least)
    return _number(least), _number(most) if most else None


def _number(digits: str) -> int:
    """A count; of one that is far too large, only that much."""
    return int(digits.lstrip("0")[:9] or "0")


def _check_beginnings(rules: Mapping[str, _Rule]) -> None:
    """Refuse rules that can begin with themselves, and more ways from rule to rule than llama.cpp
    can follow."""
    empty = _empty_rules(rules)
    beginnings = _beginnings(rules, empty)
    visits: dict[str, int] = {}
    depths: dict[str, int] = {}
    total = 0
    for name in _callees_first(beginnings):
        callees = beginnings[name]
        visits[name] = 1 + sum(visits[callee] for callee in callees)
        depths[name] = 1 + max((depths[callee] for callee in callees), default=0)
        total += visits[name]
        if total > MOST_VISITS or depths[name] > LONGEST_WAY:
            raise GrammarError(f"rule '{_written(name)}' can begin in too many ways")
    for name, rule in rules.items():
        if any(_options(sequence, visits, empty) > MOST_OPTIONS for sequence in rule.sequences):
            raise GrammarError(f"rule '{_written(name)}' leaves too many ways to go on")


def _options(sequence: Sequence[str | None], visits: Mapping[str, int], empty: set[str]) -> int:
    """The most rules that llama.cpp follows from any place of a sequence."""
    most = options = 0
    for symbol in reversed(sequence):
        following = options if symbol in empty else 0
        options = 0 if symbol is None else visits[symbol] + following
        most = max(most, options)
    return most


def _beginnings(rules: Mapping[str, _Rule], empty: set[str]) -> Mapping[str, list[str]]:
    """For each rule, the rules that can come first in it, as often as they do."""
    found: dict[str, list[str]] = {}
    for name, rule in rules.items():
        firsts = found[name] = []
        for sequence in rule.sequences:
            for symbol in sequence:
                if symbol is None:
                    break
                firsts.append(symbol)
                if symbol not in empty:
                    break
    return found


def _empty_rules(rules: Mapping[str, _Rule]) -> set[str]:
    """The rules that allow the empty text."""
    users: dict[str, list[tuple[str, int]]] = {name: [] for name in rules}
    missing: dict[tuple[str, int], int] = {}
    empty: list[str] = []
    for name, rule in rules.items():
        for number, sequence in enumerate(rule.sequences):
            if None in sequence:
                continue
            missing[name, number] = len(sequence)
            for symbol in sequence:
                users[str(symbol)].append((name, number))
            if not sequence:
                empty.append(name)
    known = set(empty)
    while empty:
        for user in users[empty.pop()]:
            missing[user] -= 1
            if missing[user] == 0 and user[0] not in known:
                known.add(user[0])
                empty.append(user[0])
    return known


def _callees_first(calls: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The names, each after all that it calls. Raises GrammarError where that goes in a circle."""
    done: set[str] = set()
    active: dict[str, Iterator[str]] = {}
    for start in calls:
        way = [] if start in done else [start]
        while way:
            name = way[-1]
            callees = active.setdefault(name, iter(calls[name]))
            callee = next((one for one in callees if one not in done), None)
            if callee is None:
                done.add(way.pop())
                del active[name]
                yield name
            elif callee in active:
                raise GrammarError(f"rule '{_written(callee)}' can begin with itself")
            else:
                way.append(callee)


def _written(name: str) -> str:
    """The rule of the grammar that a rule made for a part of it belongs to."""
    return name.partition("_")[0][:LONGEST_SHOWN]
