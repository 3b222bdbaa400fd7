"""GBNF, llama.cpp's notation of grammars, read and written as Lark."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Hashable
from itertools import pairwise

from tuneserve.llama import LlamaModel
from tuneserve.serve.chat.endings import ending_keys
from tuneserve.serve.chat.grammar_errors import HALF_CHARACTER, GrammarError

DEEPEST_NESTING = 500
LONGEST_SEQUENCE = 2_000
"""Parts of a rule, signs of repetition among them, that follow one another: llguidance's time grows
with the square of those that may be empty (0.5 s for 2,000, 6 s for 14,000)."""
LONGEST_SHOWN = 64
"""Characters of a rule's name in a message."""

_ESCAPE = r'\\(?:[tnr\\"\[\]-]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8})'
_GBNF = re.compile(
    rf"""(?P<space>(?:[ \t]|\#[^\r\n]*)+)
    |(?P<newline>\r\n|\r|\n)
    |"(?P<literal>(?:{_ESCAPE}|[^"\\])*)"
    |\[(?P<class>\^?(?:{_ESCAPE}|[^\]\\])*)\]
    |(?P<token>!?<[^>]*>)
    |(?P<rule>[A-Za-z0-9-]+)[ \t]*::=
    |(?P<name>[A-Za-z0-9-]+)
    |(?P<times>[*+?]|\{{[ \t]*[0-9]+[ \t]*(?:,[ \t]*[0-9]*[ \t]*)?\}})
    |(?P<other>[().|])""",
    re.VERBOSE,
)
_MAY_BE_ABSENT = re.compile(r"lark(?:[*?]|\{0+[,}])")
_CHARACTER = re.compile(rf"{_ESCAPE}|.", re.DOTALL)

Item = tuple[str, str]
"""('text', what it stands for), ('rule', its name) or ('lark', as Lark writes it)."""
Rules = dict[str, list[Item]]


def read_gbnf(text: str, model: LlamaModel) -> Rules:
    """The rules of a grammar; a parenthesis becomes a rule of its own. Without recursion, in time
    proportional to the text."""
    rules: Rules = {}
    open_rules: list[str] = []
    place = 0

    def refused(reason: str) -> GrammarError:
        line = text.count("\n", 0, place) + 1
        return GrammarError(f"line {line}: {reason}", param="grammar")

    while place < len(text):
        found = _GBNF.match(text, place)
        kind = found.lastgroup if found else None
        if found is None or kind is None:
            raise refused("a character, an escape or a quote is not expected here")
        inside = found[kind]
        current = rules[open_rules[-1]] if open_rules else None
        if kind == "newline" and len(open_rules) == 1 and current and current[-1] != ("lark", "|"):
            open_rules.clear()
        elif kind == "rule" and not open_rules:
            rules[inside] = []
            open_rules.append(inside)
        elif kind not in ("space", "newline"):
            if current is None or kind == "rule":
                raise refused("a rule 'name ::= …' is expected")
            if found[0] == "(":
                if len(open_rules) > DEEPEST_NESTING:
                    raise refused(f"parentheses are nested more than {DEEPEST_NESTING} deep")
                open_rules.append(f"({len(rules)}")
                rules[open_rules[-1]] = []
            elif found[0] == ")":
                if len(open_rules) == 1:
                    raise refused("a parenthesis is closed that was not opened")
                closed = open_rules.pop()
                rules[open_rules[-1]].append(("rule", closed))
            else:
                try:
                    current.append(_item(kind, inside, model))
                except ValueError as error:
                    raise refused(str(error)) from None
        place = found.end()
    if len(open_rules) > 1:
        raise refused("a parenthesis is not closed")
    for name, items in rules.items():
        ends = [-1, *(at for at, item in enumerate(items) if item == ("lark", "|")), len(items)]
        if max(after - before for before, after in pairwise(ends)) > LONGEST_SEQUENCE:
            reason = (
                f"rule '{name[:LONGEST_SHOWN]}' has more than {LONGEST_SEQUENCE} parts in a row"
            )
            raise GrammarError(reason, param="grammar")
    used = {name for items in rules.values() for kind, name in items if kind == "rule"}
    for name in ({"root"} | used) - set(rules):
        raise GrammarError(f"it has no rule '{name[:LONGEST_SHOWN]}'", param="grammar")
    return rules


def check_rules_end(rules: Rules) -> None:
    """Refuses a rule that goes on for ever, such as `root ::= "a" root`."""
    needs: dict[Hashable, list[list[Hashable]]] = {}
    for name, items in rules.items():
        ways: list[Hashable] = []
        for number, item in enumerate([("lark", "|"), *items]):
            following = items[number] if number < len(items) else ("", "")
            if item == ("lark", "|"):
                ways.append((name, number))
                needs[ways[-1]] = []
            elif item[0] == "rule" and not _MAY_BE_ABSENT.match("".join(following)):
                needs[ways[-1]].append([item[1]])
        needs[name] = [ways]
    ending = ending_keys(needs)
    endless = sorted((name for name in rules if name not in ending), key=_is_parenthesis)
    if endless:
        name = endless[0][:LONGEST_SHOWN]
        of = "a parenthesis" if _is_parenthesis(name) else f"rule '{name}'"
        raise GrammarError(f"no text of {of} can ever end", param="grammar")


def _is_parenthesis(name: str) -> bool:
    return name.startswith("(")


def _item(kind: str, inside: str, model: LlamaModel) -> Item:
    """Raises ValueError."""
    match kind:
        case "literal":
            return "text", "".join(map(_character, _CHARACTER.findall(inside)))
        case "class":
            return "lark", _class(inside)
        case "name":
            return "rule", inside
        case "token":
            negated, name = "^" * inside.startswith("!"), inside.removeprefix("!")
            ids = model.tokenize(name)
            if number := re.fullmatch(r"<\[([0-9]{1,9})\]>", name):
                ids = [int(number[1])]
            if len(ids) != 1:
                raise ValueError("what is between '<' and '>' is no token of this model")
            if ids[0] in model.end_tokens and not negated:
                raise ValueError("an end token is allowed where the grammar ends, not named in it")
            return "lark", f"<[{negated}{ids[0]}]>"
    return "lark", "/(?s:.)/" if inside == "." else re.sub(r"[ \t]", "", inside)


def _class(inside: str) -> str:
    """A set of characters as a regular expression, every one by its number."""
    negated = inside.startswith("^")
    written = _CHARACTER.findall(inside[negated:])
    codes = [f"\\u{{{ord(_character(one)):x}}}" for one in written]
    for number in range(1, len(written) - 1):
        if written[number] == "-" and codes[number - 1] != "-":
            codes[number] = "-"
    return f"/[{'^' * negated}{''.join(codes)}]/"


def _character(written: str) -> str:
    """The character that an escape, or itself, stands for. Raises ValueError for one that Unicode
    lacks."""
    code = ord(written[-1])
    if len(written) > 1 and written[1] in "xuU":
        code = int(written[2:], 16)
    elif len(written) > 1:
        code = ord({"t": "\t", "n": "\n", "r": "\r"}.get(written[1], written[1]))
    if code > sys.maxunicode:
        raise ValueError(f"{written} is beyond the characters of Unicode")
    if 0xD800 <= code <= 0xDFFF:
        raise ValueError(f"it has {HALF_CHARACTER}")
    return chr(code)


def lark_of_rules(rules: Rules, *, regular: bool) -> str:
    """As terminals, which are regular expressions, or else as rules whose terminals are single
    characters."""
    names = {name: f"{'R' if regular else 'r'}{number}" for number, name in enumerate(rules)}

    def written(kind: str, value: str) -> str:
        if kind == "rule":
            return names[value]
        if kind == "lark":
            return value
        parts = [value] if regular or not value else value
        return f"({' '.join(map(json.dumps, parts))})"

    lines = [f"start: {names['root']}"]
    lines += [
        f"{names[name]}: {' '.join(written(*item) for item in items)}"
        for name, items in rules.items()
    ]
    return "\n".join(lines)
