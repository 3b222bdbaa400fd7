"""Task json: the share of fields that are equal, whatever stands around the JSON.

Whether an answer is JSON at all is a matter of form: it is told beside the content.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tuneserve.bench.tasks.scorers.marks import Found, Mark, Scorer
from tuneserve.bench.tasks.scorers.number_scales import MOST_DIGITS
from tuneserve.bench.tasks.scorers.texts import fold

_FENCE = re.compile(r"```\w*[ \t]*\n?(.*?)```", re.DOTALL)
_TRAILING_COMMA = re.compile(r",(?=\s*[}\]])")
_BARE_KEY = re.compile(r"([{,]\s*)([A-Za-z_]\w*)\s*:")
_COMMENT = re.compile(r"//[^\n\"]*$|/\*.*?\*/", re.MULTILINE)
_STRAIGHT = str.maketrans("“”„", '"""')
_MOST_PAIRS = 10_000  # of list elements compared with each other
_MOST_STARTS = 50  # brackets in prose at which JSON may begin
_LARGEST_LITERAL = 100_000  # characters that are read as Python


class _Missing:
    """Stands for an answer without JSON."""


MISSING = _Missing()


def json_scorer(*, unordered: bool) -> Scorer:
    """Share of the fields that are equal, of all that either side has.

    A field is a leaf with its path; numbers are equal by value (1 and 1.0), types count (true is
    not 1, "1" is not 1). Lists go by position, or with `unordered` as the elements fit best.
    Strictly, the answer is nothing but valid JSON without a key twice (a code fence around it is
    allowed); leniently, texts are equal but for case, width and space, and numbers may be texts.
    """

    def mark(answer: str, reference: str) -> Mark:
        wanted = read_json_value(reference)[0]
        values, valid = _read_values(answer)
        given = values[0] if values else MISSING
        if given is MISSING or wanted is MISSING:
            return Mark(0.0, 0.0, 0.0, "none" if given is MISSING else "one")
        score = _share(given, wanted, unordered=unordered, loose=False)
        lenient = max(score, _share(given, wanted, unordered=unordered, loose=True))
        return Mark(score, score if valid else 0.0, lenient, _how_many(values))

    def problem(reference: str) -> str:
        return "" if read_json_value(reference)[1] else "is no JSON"

    return Scorer(mark, problem)


def json_fields(answer: str, reference: str) -> float:
    """The share of equal fields, lists by position."""
    return json_scorer(unordered=False)(answer, reference)


def read_json_value(text: str) -> tuple[Any, bool]:
    """The JSON value in a text (MISSING if there is none), and whether the text is valid JSON.

    Looked for in this order: the whole text, the last code fence, the first object or list in
    prose; each also with trailing commas, comments, bare keys, curly quotes, and as Python writes
    it.
    """
    values, valid = _read_values(text)
    return (values[0] if values else MISSING), valid


def _read_values(text: str) -> tuple[list[Any], bool]:
    """The values in a text, the one that counts first; those of prose only where no fence has one.
    And whether the text is valid JSON."""
    # Composed and decomposed letters are the same.
    stripped = unicodedata.normalize("NFC", text.strip().removeprefix("\ufeff"))
    fences = _FENCE.findall(stripped)
    bare = fences[-1] if len(fences) == 1 and stripped.startswith("```") else None
    if bare is not None and not stripped.endswith("```"):
        bare = None
    try:
        return [_strict(bare if bare is not None else stripped)], True
    except (ValueError, RecursionError):
        pass
    for candidates in ([stripped], reversed(fences), _in_prose(stripped)):
        values = [_lenient(candidate.strip()) for candidate in candidates]
        if values := [value for value in values if value is not MISSING]:
            return values, False
    return [], False


def _how_many(values: Sequence[Any]) -> Found:
    """One value, or several that differ?"""
    return "several" if any(value != values[0] for value in values[1:]) else "one"


def _strict(text: str) -> Any:
    """As the standard has it (RFC 8259), no key twice. Raises ValueError, RecursionError."""
    return json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_constant)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _lenient(text: str) -> Any:
    plain = _TRAILING_COMMA.sub("", text)
    bare = _BARE_KEY.sub(r'\1"\2":', _COMMENT.sub("", plain).translate(_STRAIGHT))
    for form in (text, plain, _TRAILING_COMMA.sub("", bare)):
        try:
            return json.loads(form, strict=False)
        except (ValueError, RecursionError):
            pass
    if text[:1] not in ("{", "[") or len(text) > _LARGEST_LITERAL:
        return MISSING
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return MISSING
    return _as_json(value)


def _as_json(value: Any) -> Any:
    """A Python literal as JSON; MISSING for a set, bytes and keys that are no texts."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            return MISSING
        return {key: _as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    return value if value is None or isinstance(value, str | int | float | bool) else MISSING


def _in_prose(text: str) -> Iterator[str]:
    """Every object or list in a text that closes, the outermost ones, from the left."""
    place, tried = 0, 0
    while tried < _MOST_STARTS:
        starts = [at for bracket in "{[" if (at := text.find(bracket, place)) >= 0]
        if not starts:
            return
        start = min(starts)
        end = _closing(text, start)
        if end is not None:
            yield text[start:end]
        place = end if end is not None else start + 1
        tried += 1


def _closing(text: str, start: int) -> int | None:
    """The end of the bracket that opens at `start`; brackets in quotes don't count."""
    depth, quote, escaped = 0, "", False
    for place in range(start, len(text)):
        char = text[place]
        if quote:
            if escaped or char == "\\":
                escaped = not escaped
            elif char == quote:
                quote = ""
        elif char == '"':
            quote = char
        elif char in "{[":
            depth += 1
        elif char in "}]":
            depth -= 1
            if depth == 0:
                return place + 1
    return None


def _share(given: Any, wanted: Any, *, unordered: bool, loose: bool) -> float:
    try:
        equal, total = _fit(given, wanted, unordered, loose)
    except RecursionError:
        return 0.0
    return equal / total


def _fit(given: Any, wanted: Any, unordered: bool, loose: bool) -> tuple[int, int]:
    """Leaves that are equal, and leaves that either side has at some place."""
    if isinstance(given, dict) and isinstance(wanted, dict) and given and wanted:
        pairs = [(given[key], wanted[key]) for key in given.keys() & wanted.keys()]
        alone = [given[key] for key in given.keys() - wanted.keys()]
        alone += [wanted[key] for key in wanted.keys() - given.keys()]
    elif isinstance(given, list) and isinstance(wanted, list) and given and wanted:
        # Past the limit lists go by position: comparing all with all would take too long.
        if unordered and len(given) * len(wanted) <= _MOST_PAIRS:
            return _fit_lists(given, wanted, loose)
        pairs = list(zip(given, wanted, strict=False))
        alone = [*given[len(wanted) :], *wanted[len(given) :]]
    elif _is_leaf(given) and _is_leaf(wanted):
        return int(_same(given, wanted, loose)), 1
    else:
        pairs, alone = [], [given, wanted]
    fits = [_fit(one, other, unordered, loose) for one, other in pairs]
    equal = sum(found for found, _ in fits)
    return equal, sum(total for _, total in fits) + sum(map(_count, alone))


def _fit_lists(given: Sequence[Any], wanted: Sequence[Any], loose: bool) -> tuple[int, int]:
    """Every element beside the one that it fits best, each once (the assignment problem)."""
    from scipy.optimize import linear_sum_assignment

    fits = np.array([[_fit(one, other, True, loose) for other in wanted] for one in given])
    # Among assignments with as many equal leaves the one with the fewest leaves in all.
    worth = fits[..., 0] - fits[..., 1] / (1 + fits[..., 1].sum())
    rows, columns = linear_sum_assignment(worth, maximize=True)
    equal, total = fits[rows, columns].sum(axis=0)
    alone = [one for place, one in enumerate(given) if place not in set(rows)]
    alone += [one for place, one in enumerate(wanted) if place not in set(columns)]
    return int(equal), int(total) + sum(map(_count, alone))


def _is_leaf(value: Any) -> bool:
    """A scalar, or an empty object or list."""
    return not (isinstance(value, dict | list) and value)


def _count(value: Any) -> int:
    """The leaves of a value."""
    if _is_leaf(value):
        return 1
    return sum(map(_count, value.values() if isinstance(value, dict) else value))


def _same(first: Any, second: Any, loose: bool) -> bool:
    # Python's True equals 1; JSON's does not.
    if isinstance(first, bool) == isinstance(second, bool) and bool(first == second):
        return True
    if not loose or isinstance(first, bool) or isinstance(second, bool):
        return False
    if isinstance(first, str) and isinstance(second, str) and fold(first) == fold(second):
        return True
    one, other = _number(first), _number(second)
    return one is not None and one == other


def _number(value: Any) -> float | None:
    """A number, also where it stands in a text."""
    if not isinstance(value, str | int | float) or len(str(value)) > MOST_DIGITS:
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
