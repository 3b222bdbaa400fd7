"""Regular expressions of JSON Schemas, as grammars of JSON strings.

Only what means the same in both is taken. Where a pattern allows a character that JSON has to
escape ('.' allows a quote), the grammar leaves that character out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tuneserve.serve.chat.gbnf import literal
from tuneserve.serve.chat.grammar_check import LONGEST_REPETITION

_TOKEN = re.compile(
    r"""\[(?P<class>\^?(?:\\.|[^\]\\])+)\]
    |\\(?P<escape>.)
    |(?P<open>\((?:\?:)?(?!\?))
    |(?P<times>[*+?]|\{[0-9]{1,9}(?:,[0-9]{0,9})?\})
    |(?P<other>[)|.])
    |(?P<plain>[^()\[\]{}*+?|^$\\])""",
    re.VERBOSE | re.DOTALL,
)
_ITEM = re.compile(r"\\(?P<escape>.)|(?P<plain>[^\\])", re.DOTALL)

_SETS = {"d": ((48, 57),), "w": ((48, 57), (65, 90), (95, 95), (97, 122)), "s": ((32, 32),)}
"""Characters of \\d, \\w and \\s; of the white space, what may stand in a JSON string as it is."""

_ESCAPED_IN_JSON = ((0, 31), (34, 34), (92, 92))
_ANY = r'[^"\\\x00-\x1F]'

Range = tuple[int, int]


class PatternError(ValueError):
    """Why a pattern can't be enforced."""


def pattern_grammar(pattern: str) -> str:
    """GBNF of the inside of a JSON string that matches. Raises PatternError."""
    if not pattern.startswith("^") or not re.search(r"(?<!\\)(?:\\\\)*\$\Z", pattern):
        raise PatternError("a pattern must begin with '^' and end with '$'")
    parts: list[str] = []
    depth = 0
    repeatable = False
    for kind, text in _tokens(pattern[1:-1]):
        if kind == "times":
            if not repeatable:
                raise PatternError(f"'{text}' repeats nothing, or what is repeated already")
            parts[-1] += _times(text)
        else:
            parts.append(_part(kind, text))
        depth += (kind == "open") - (text == ")" and kind == "other")
        if depth < 0:
            break
        repeatable = kind not in ("times", "open") and parts[-1] != "|"
    if depth != 0:
        raise PatternError("its parentheses don't match")
    return f"({' '.join(parts)})"


def _tokens(pattern: str) -> Iterator[tuple[str, str]]:
    place = 0
    while place < len(pattern):
        found = _TOKEN.match(pattern, place)
        if found is None:
            raise PatternError(f"'{pattern[place]}' is not supported at character {place + 2}")
        place = found.end()
        kind = found.lastgroup or ""
        yield kind, found[kind]


def _part(kind: str, text: str) -> str:
    match kind:
        case "class":
            return _class(text)
        case "escape" if text in _SETS:
            return _written(_SETS[text])
        case "escape" | "plain":
            return literal(_json_escaped(_character(kind, text)))
        case "open":
            return "("
        case _:
            return _ANY if text == "." else text


def _times(text: str) -> str:
    limits = [int(part) for part in re.findall(r"[0-9]+", text)]
    if any(limit > LONGEST_REPETITION for limit in limits) or limits != sorted(limits):
        raise PatternError(f"'{text}' must go up, to {LONGEST_REPETITION} at most")
    return text


def _class(inside: str) -> str:
    """A character class without the characters that JSON escapes."""
    negated = inside.startswith("^")
    ranges = list(_ranges(inside.removeprefix("^")))
    if negated:
        return _written([*ranges, *_ESCAPED_IN_JSON], negated=True)
    for first, last in _ESCAPED_IN_JSON:
        ranges = [
            part
            for low, high in ranges
            for part in ((low, min(high, first - 1)), (max(low, last + 1), high))
            if part[0] <= part[1]
        ]
    if not ranges:
        raise PatternError(f"'[{inside}]' has no character that can stand in JSON as it is")
    return _written(ranges)


def _ranges(items: str) -> Iterator[Range]:
    found = [
        (match.lastgroup or "", match[match.lastgroup or 0]) for match in _ITEM.finditer(items)
    ]
    while found:
        kind, text = found.pop(0)
        if kind == "escape" and text in _SETS:
            yield from _SETS[text]
            continue
        low = high = ord(_character(kind, text))
        if len(found) > 1 and found[0] == ("plain", "-"):
            high = ord(_character(*found[1]))
            del found[:2]
        if low > high:
            raise PatternError(f"a range in '[{items}]' is the wrong way round")
        yield low, high


def _character(kind: str, text: str) -> str:
    """The one character meant; letters after a backslash mean others in other dialects."""
    if kind == "escape" and text.isalnum():
        raise PatternError(f"'\\{text}' is not supported")
    return text


def _json_escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if ord(character) < 32:
        raise PatternError("control characters are not supported")
    return character


def _written(ranges: Sequence[Range], *, negated: bool = False) -> str:
    parts = [_code(low) if low == high else f"{_code(low)}-{_code(high)}" for low, high in ranges]
    return f"[{'^' if negated else ''}{''.join(parts)}]"


def _code(character: int) -> str:
    return f"\\U{character:08X}"
