"""Regular expressions from strangers' files: can matching one take for ever?

Engines that go back and try another way take exponentially long where a repetition is repeated
(`(a+)+`), where many parts in a row may be left out or chosen, and a power of the text's length for
each part of free length. What is bounded here is the number of ways, before anything is matched.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

LONGEST_EXPRESSION = 8192
MOST_FREE = 4
"""Parts of free length one after the other."""
MOST_CHOICES = 8
"""Parts that may be left out, or alternatives that begin alike, as powers of two."""
_FEW = 100
_POSIX = re.compile(r"\[:\^?[a-z]+:\]")


class ExpressionError(ValueError):
    """An expression that may take too long, or is none."""


@dataclass(frozen=True)
class _Ways:
    """`free`: parts of free length; `choices`: log2 of the ways to choose; `varies`: may one text
    match in several ways, or several texts?"""

    free: int = 0
    choices: float = 0.0
    varies: bool = False

    def then(self, other: _Ways) -> _Ways:
        return _Ways(
            self.free + other.free, self.choices + other.choices, self.varies or other.varies
        )


def check_expression(
    expression: str, *, most_free: int = MOST_FREE, most_choices: int = MOST_CHOICES
) -> int:
    """The number of parts of free length that an expression has one after the other.

    Raises ExpressionError for one that repeats a repetition or a choice, refers back, has more than
    `most_free` such parts, or more ways to choose than 2**`most_choices`.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise ExpressionError(f"has more than {LONGEST_EXPRESSION} characters")
    reader = _Reader(expression)
    ways = reader.alternatives(0)
    if reader.place < len(expression):
        raise ExpressionError("has a parenthesis too many")
    if ways.free > most_free or ways.choices > most_choices:
        raise ExpressionError("has too many parts of free length, or that may be left out")
    return ways.free


class _Reader:
    """Reads an expression's structure, of Python's and Oniguruma's syntax what both have."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def alternatives(self, depth: int) -> _Ways:
        if depth > 20:
            raise ExpressionError("is nested too deep")
        starts = [self.place]
        found = [self._sequence(depth)]
        while self._take("|"):
            starts.append(self.place)
            found.append(self._sequence(depth))
        if len(found) == 1:
            return found[0]
        ends = [*(start - 1 for start in starts[1:]), self.place]
        texts = [self.text[start:end] for start, end in zip(starts, ends, strict=True)]
        apart = all(text.isidentifier() for text in texts) and not _begin_alike(texts)
        return _Ways(
            max(one.free for one in found),
            max(one.choices for one in found) + (0.0 if apart else math.log2(len(found))),
            True,
        )

    def _sequence(self, depth: int) -> _Ways:
        ways = _Ways()
        while self.place < len(self.text) and self.text[self.place] not in "|)":
            ways = ways.then(self._repeated(self._atom(depth)))
        return ways

    def _atom(self, depth: int) -> _Ways:
        character = self.text[self.place]
        self.place += 1
        if character == "\\":
            return self._escape()
        if character == "[":
            return self._set()
        if character != "(":
            return _Ways()
        if self._take("?"):
            # (?:…), (?i:…), (?!…), (?=…); not conditions, names, atomic groups, code.
            while self.place < len(self.text) and self.text[self.place] in "ims-":
                self.place += 1
            if not (self._take(":") or self._take("!") or self._take("=")):
                raise ExpressionError("has a kind of group that is not read here")
        ways = self.alternatives(depth + 1)
        if not self._take(")"):
            raise ExpressionError("lacks a parenthesis")
        return ways

    def _escape(self) -> _Ways:
        if self.place >= len(self.text):
            raise ExpressionError("ends with a backslash")
        character = self.text[self.place]
        self.place += 1
        if character.isdigit() and character != "0":
            raise ExpressionError("refers back to a group")
        if character in "kgXRK":
            raise ExpressionError(f"has \\{character}, which is not read here")
        if character in "pPxuN" and self._take("{"):
            end = self.text.find("}", self.place)
            if end < 0:
                raise ExpressionError("lacks a brace")
            self.place = end + 1
        return _Ways()

    def _set(self) -> _Ways:
        self._take("^")
        first = True
        while self.place < len(self.text):
            character = self.text[self.place]
            if character == "[" and not (posix := _POSIX.match(self.text, self.place)):
                # Oniguruma begins another set there, Python does not.
                raise ExpressionError("has a bracket within brackets")
            self.place = posix.end() if character == "[" and posix else self.place + 1
            if character == "\\":
                self.place += 1
            elif character == "]" and not first:
                return _Ways()
            first = False
        raise ExpressionError("lacks a bracket")

    def _repeated(self, ways: _Ways) -> _Ways:
        while self.place < len(self.text):
            least, most = self._quantifier()
            if most is None:
                return ways
            if most > 1 and ways.varies:
                raise ExpressionError("repeats what is repeated, or chosen")
            if least < most:
                free = int(most > 1)
                ways = ways.then(_Ways(free, float(not free), True))
            # Lazy and possessive ones.
            if not self._take("?"):
                self._take("+")
        return ways

    def _quantifier(self) -> tuple[float, float | None]:
        """(least, most) of a quantifier at this place; most is None where there is none."""
        for sign, bounds in {"*": (0, math.inf), "+": (1, math.inf), "?": (0, 1)}.items():
            if self._take(sign):
                return bounds
        if not self.text.startswith("{", self.place):
            return 1, None
        end = self.text.find("}", self.place)
        least, comma, most = self.text[self.place + 1 : max(end, 0)].partition(",")
        if not all(part.isascii() and (part.isdigit() or not part) for part in (least, most)):
            self.place += 1  # a brace of the text
            return 1, None
        if end < 0 or not (least or most):
            self.place += 1
            return 1, None
        self.place = end + 1
        first = int(least or 0)
        last = int(most) if most else (math.inf if comma else first)
        if first > _FEW or (_FEW < last < math.inf):
            raise ExpressionError(f"repeats more than {_FEW} times")
        return first, last

    def _take(self, sign: str) -> bool:
        if not self.text.startswith(sign, self.place):
            return False
        self.place += len(sign)
        return True


def _begin_alike(texts: list[str]) -> bool:
    """Is one the beginning of another?"""
    ordered = sorted(texts)
    return any(two.startswith(one) for one, two in pairwise(ordered))
