"""What stands in brackets behind a number and is no answer: how it was found, what it is made of,
the same in another unit. 14 (since 7*2=14), 8 apples (5 red, 3 green), 72 km/h (20 m/s).
"""

from __future__ import annotations

import re

from tuneserve.bench.tasks.scorers.calculations import TOTAL
from tuneserve.bench.tasks.scorers.number_lists import (
    UNIT,
    equal,
    list_of,
    side_by_side,
)
from tuneserve.bench.tasks.scorers.number_tokens import Number, find_numbers
from tuneserve.bench.tasks.scorers.reason_words import CONCLUDES, REASON

RELATION = re.compile(r"[=≈≃]")
_BRACKETS = re.compile(
    rf"(?i)\s(?:[^\W\d_]{{1,20}}\s)?(?:{TOTAL}\s)?\((?P<inside>[^()]*(?:\([^()]*\)[^()]*)*)\)"
)
_CALCULATION = re.compile(r"\d\s*[-+*/^×·⋅÷]\s*\(?\d")
_ABOUT = re.compile(
    r"(?i)\s*(?:(?:about|approx\w*|roughly|around|exactly|rounded(?!\s(?:\w+\s)?to\b)"
    r"|etwa|ungefähr|ca|rund|genau|gerundet(?!\sauf\b)|environ|exactement|arrondi\w*(?!\sà\b)"
    r"|aproximad\w+|exactam\w+|redondead\w+(?!\sa\b)|arredondad\w+(?!\s(?:para|a)\b)|circa"
    r"|esattam\w+|arrotondat\w+(?!\sa\b)|ongeveer|afgerond(?!\sop\b)|около|примерно|точно"
    r"|округл\w+(?!\sдо\b)|około|asi|cirka|yaklaşık|sekitar|khoảng)(?!\w)|[≈≃~约約]|大约|およそ|약\s)"
)
_OR = (
    r"(?:(?:or|oder|ou|o|of|или|soit|i\.e\.|that\sis|equals|entspricht|cioè|es\sdecir)\s|[=或即])?"
)
_OTHER_UNIT = re.compile(
    rf"(?i)\s*{_OR}\s*[-+]?[\d.,/ ]*\d\s?(?P<unit>[€$£¥₹°%]?[^\d,;:=+*×÷(]{{0,24}})"
)
# Units of a share, not of the same: 15 (5 each).
_NO_UNIT = re.compile(
    r"(?i)\b(?:each|apiece|per|pro|je|par|chacun\w*|cada|ciascun\w*|more|less|extra|only|of|or|and|to)\b|每|各|ずつ|씩"
)
_INCLUDED = re.compile(
    r"(?i)\b(?:includ\w*|incl|of\swhich|inkl\w*|einschließlich|davon|compris\w*|dont|inclu[iyí]\w*|de\slos\scuales"
    r"|compres\w+|di\scui|waarvan|включ\w+|в\sтом\sчисле)\b|其中|包括|うち|포함"
)
# To 2 decimal places, to the nearest 10, using π = 3.14.
_HOW_EXACT = re.compile(
    r"(?i)\b(?:to|auf|à|a|para|до|op|till)\s(?:the\snearest\s[\d.]+|\d{1,2}\s(?:decimal|significant|d\.?p|s\.?f"
    r"|nachkomma|dezimal|kommastell|stellen|décimal|chiffres|casas|cifr|знак|decimal)[^\W\d_]*)"
    r"|\b(?:using|taking|with|assuming|mit|avec|con|com)\sπ\s?(?:=|≈|as|als)\s?[\d.,/]*\d"
)
_UNIT = re.compile(rf"[€$£¥₹]?(?:{UNIT.pattern})")
_NEAR = 48  # characters between what belongs together


def without_brackets(text: str) -> str:
    """A prepared text without the brackets that only explain the number before them. What is
    calculated from it stays: 3 dozen (3*12 = 36)."""
    text = _HOW_EXACT.sub(" ", text)
    kept, place = [], 0
    for found in _BRACKETS.finditer(text):
        inside = found["inside"]
        before = text[max(place, found.start() - _NEAR) : found.start("inside") - 1]
        numbers = find_numbers(before)
        unit = before[numbers[-1].end :].strip(" .") if numbers else ""
        if not numbers or (unit and _UNIT.fullmatch(unit) is None):
            continue
        if _is_reason(inside, numbers[-1]) or _is_the_same(inside, numbers[-1], unit, before):
            kept.append(text[place : found.start("inside") - 1])
            place = found.end()
    return " ".join([*kept, text[place:]])


def _is_reason(inside: str, one: Number) -> bool:
    """Does what stands in brackets say how a number was found: since 7*2=14, 7*2, 2 weeks with 7
    days each?"""
    reason = REASON.match(f" {inside} ") is not None
    worked = _CALCULATION.search(inside) or RELATION.search(inside)
    if not (reason or worked or _is_told(inside)):
        return False
    results = [find_numbers(part)[:1] for part in RELATION.split(inside)[1:]]
    given = any(result and equal(result[0], one, 1e-9) for result in results)
    return reason or given or not results


def _is_told(inside: str) -> bool:
    """Does a parenthesis tell in words what a number is made of: 3 boxes with 4 each?"""
    numbers = find_numbers(inside)
    together = side_by_side(inside, numbers) if numbers else 0
    return len(numbers) > together and not list_of(inside) and not CONCLUDES.search(inside)


def _is_the_same(inside: str, one: Number, unit: str, before: str) -> bool:
    """Does what stands in brackets give a number in another unit, or rounded, or a share of it?"""
    numbers = find_numbers(inside)
    if len(numbers) != 1:
        return False
    if _INCLUDED.search(inside):
        return CONCLUDES.search(inside) is None
    other = _OTHER_UNIT.fullmatch(inside)
    if CONCLUDES.search(other["unit"] if other else inside):
        return False
    if equal(numbers[0], one, 1e-9):  # 25 % (1 out of 4)
        return True
    if unit and other and other["unit"].strip() not in ("", unit):
        return _NO_UNIT.search(other["unit"]) is None
    near = equal(numbers[0], one, 0.01)
    if not (_ABOUT.match(inside) or (near and other)):
        return False
    # 11.97 (about 12) is rounded there.
    return not near or _decimals(inside, numbers[0]) >= _decimals(before, one)


def _decimals(text: str, one: Number) -> int:
    """How many digits stand behind the point or comma."""
    return len(re.sub(r"^[^.,]*[.,]?|\D", "", text[one.start : one.end]))
