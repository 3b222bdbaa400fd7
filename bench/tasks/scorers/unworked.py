"""A calculation that an answer leaves as it is: 12 + 3, half of 12, 5 factorial.

Plain arithmetic is its own value, anything else no number; one of its parts is never the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tuneserve.bench.tasks.scorers.calculations import NAMED, arithmetic_at
from tuneserve.bench.tasks.scorers.number_tokens import Number

_N = r"[-+]?\d(?:[.,]?\d){0,40}+"
_FUNCTION = (
    r"half(?:\s(?:of|as\s\w+\sas))?|(?:(?:a|one|two|three)[\s-])?(?:third|quarter|fourth|fifth|tenth)s?\sof"
    r"|twice(?:\sas\s\w+\sas)?|double|triple|thrice|(?:square|cube)(?:\sroot)?\sof|root\sof"
    r"|factorial\sof|sqrt|log|ln|sin|cos|tan"
    r"|(?:die\s)?hälfte\svon|das\s(?:doppelte|dreifache)\svon|(?:drittel|viertel)\svon"
    r"|wurzel\s(?:aus|von)|quadrat\svon"
    r"|(?:moitié|double|triple|tiers|quart|carré|racine(?:\scarrée)?)\sde"
    r"|(?:mitad|doble|triple|cuadrado|tercio|cuarto|raíz(?:\scuadrada)?)\sde"
    r"|(?:metade|dobro|triplo|quadrado|terço|raiz(?:\squadrada)?)\sde"
    r"|(?:metà|doppio|triplo|quadrato|terzo|radice(?:\squadrata)?)\sdi"
    r"|helft\svan|wortel\svan|половин[аыу]\sот|корень\sиз|квадрат\sчисла"
)
_PARTS = (
    r"factorial|halves|thirds|quarters|fourths|fifths|sixths|eighths|tenths|tens|drittel|viertel"
    rf"|(?:more|less|fewer|greater|larger|higher|lower)\sthan\s{_N}"
    rf"|times\s(?:as\s\w+\sas|(?:more|less|greater|larger)\sthan)\s{_N}"
)
_UNKNOWN = re.compile(
    rf"(?i)(?<!\w)(?:{_FUNCTION})\s{{0,3}}\(?\s?(?:the\s|der\s|die\s)?{_N}\)?"
    rf"|{_N}(?:\s(?:{_PARTS})(?!\w)|\s?(?:的(?:一半|两倍|兩倍|三分之一|四分之一)|の(?:半分|二倍|2倍)"
    r"|의\s?(?:절반|반|두\s?배|2배)))"
)
_VARIABLE = re.compile(r"(?:(?<![^\W_])|(?<=\d))[a-z]\s?[+*×·÷^]\s?\Z")
# 25 + x; a letter behind which a word follows is one itself: 25 - a good result.
_PLUS_VARIABLE = re.compile(
    r"\s?(?:[+*×·÷^]\s?[a-z]|-\s?[b-df-hj-np-tv-xz]|/\s?[nxyz])(?!\w|\s[a-z]{2})"
)
_BRACKET = re.compile(r"\)\s?[+*×·÷^]\s?\Z")
_LETTER = re.compile(r"\s?[a-z](?!\w)(?!\s[a-z])")
_SUM = re.compile(rf"{NAMED.pattern}\Z")
_OF_UNKNOWN = re.compile(r"\d(?:[abcinpqtwyz]|\s?x(?!\s?[\d(]))(?!\w)")
_IS = re.compile(
    r"(?i)\s*(?:,?\s(?:which|that)\s(?:is|makes)|is|are|=|ist|est|es|è|é|,|:|\()\s*(?:the\s|die\s|la\s|el\s|le\s)?\Z"
)
_NEAR, _MOST = 160, 24  # characters and numbers in front of the one that is part of it


def worked_out(text: str, numbers: Sequence[Number], place: int) -> Number | None:
    """The number at `place` among those of a prepared text, or the value of the arithmetic that it
    is part of (12 + 3 is 15); None where that can't be told: half of 12, x + 3."""
    one = numbers[place]
    if _VARIABLE.search(text, max(0, one.start - _NEAR), one.start):
        return None
    if _PLUS_VARIABLE.match(text, one.end):
        return None
    for first in numbers[max(0, place - _MOST) : place + 1]:
        if one.start - first.start > _NEAR:
            continue
        for start in _starts(text, first.start):
            made = arithmetic_at(text, start)
            if made is not None and made.end >= one.end and "\n" not in text[start : made.end]:
                if _OF_UNKNOWN.search(text, start, made.end):
                    return None
                if _LETTER.match(text, made.end) and not text[made.end : made.end + 2].isspace():
                    return None if text[made.end : made.end + 1].isalpha() else one
                return Number(made.value, None, start, made.end)
    return None if _BRACKET.search(text, max(0, one.start - _NEAR), one.start) else one


def _starts(text: str, place: int) -> list[int]:
    """Where what begins with a number may begin: with "the sum of", brackets or the number."""
    places = [place]
    while places[-1] and text[places[-1] - 1] == "(" and len(places) < 4:
        places.append(places[-1] - 1)
    named = _SUM.search(text, max(0, place - _NEAR), place)
    return [*([named.start()] if named else []), *places[::-1]]


def not_told(text: str, one: Number) -> tuple[int, int] | None:
    """Where what a number is part of begins and ends, if that is no plain arithmetic."""
    start = max(0, one.start - _NEAR)
    for found in _UNKNOWN.finditer(text, start, one.end + _NEAR):
        if found.start() <= one.start < found.end():
            return found.span()
        if found.start() > one.start:
            break
    return None


def said_before(text: str, numbers: Sequence[Number], start: int) -> Number | None:
    """The number of which a text says that it is what begins at `start`: 6 is half of 12."""
    before = [number for number in numbers if number.end <= start]
    if before and _IS.fullmatch(text, before[-1].end, start):
        return before[-1]
    return None
