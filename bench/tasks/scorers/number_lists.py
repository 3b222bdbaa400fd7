"""Numbers that stand beside each other: lists, one of two, a total with its rate."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tuneserve.bench.tasks.scorers.marks import Found
from tuneserve.bench.tasks.scorers.number_tokens import Number, find_numbers
from tuneserve.bench.tasks.scorers.unworked import not_told, worked_out

_NEAR = 48  # characters between what belongs together
# What stands between two numbers that are both given: 12 or 13, between 12 and 13, 5 apples or 6.
_UNIT_BEFORE = r"\s*[%°]?\s?(?:[^\W\d_]{1,20}(?:\s|(?=,)))?,?\s*\(?"
_OR = r"(?:\b(?:or(?!\s+rather)|oder|ou|o|ó|или)\s+(?:[^\W\d_]{1,8}\s+)?|(?:或者?|か)\s?)[-+$€£(]*"
_AND = r"(?:(?:\b(?:and|to|und|bis|et|à|y|и)\s+|&\s*)(?:(?:maybe|perhaps|about)\s+)?|[和と]\s?|-)"
_EITHER = re.compile(rf"(?i){_UNIT_BEFORE}{_OR}")
_JOINED = re.compile(rf"(?i){_UNIT_BEFORE}(?:{_OR}|{_AND})[$€£(]*")
# A word between two is a unit only where a comma or a conjunction follows: 3 plus 4 is no list.
_LISTED = re.compile(
    rf"(?i)\s*[%°]?\s?(?:(?:[^\W\d_]{{1,20}})?\s*"
    rf"(?:[,;，、；/|]\s*(?:{_OR}|{_AND})?|{_OR}|{_AND})|\s)\s*[$€£(]*"
)
_RATE = re.compile(
    r"(?i)\s?(?:[^\W\d_]{1,20}\s)?(?:per|each|apiece|pro|par|chacune?|cada|por\scada|ciascun[oa]"
    r"|na\skażd\w+|на\sкажд\w+)(?!\w|\s?cent)"
)
_AND_THEN = re.compile(r"(?:\s?[^\W\d_]{1,20}){0,3},\s?[$€£]?")
_BETWEEN = re.compile(r"(?i)\b(?:between|zwischen|entre|from|von|de|между)\s*\Z")
# The unknown in front of its value: x = 3.
_UNKNOWN = re.compile(r"(?<!\w)(?P<name>[A-Za-z])\s*[=≈]\s*(?=[-+]?[\d.])")
_MOST_LISTED = 24  # numbers of a list that are looked at for calculations
BEGINS = re.compile(r"[\s*_(\[~≈=$€£]*[-+]?\.?\d")
# Beside the number an answer that is nothing but the number may have a unit of two words.
UNIT = re.compile(r"[^\W\d_]*[./°²³^\w]*(?:\s?[^\W\d_/]+)?")


def side_by_side(text: str, numbers: Sequence[Number], joint: re.Pattern[str] = _JOINED) -> int:
    """How many numbers from the first on are given together."""
    count = 1
    while count < len(numbers) and _are_joined(text, numbers[count - 1], numbers[count], joint):
        count += 1
    return count


def is_rate_of(text: str, one: Number, other: Number) -> bool:
    """Does another number only say how a number comes about: 42 apples, 6 per child?"""
    return _RATE.match(text, other.end) is not None and _RATE.match(text, one.end) is None


def is_all_said(text: str, one: Number, other: Number) -> bool:
    """Is a text nothing but two numbers beside each other, with a unit: 42 apples, 6 …?"""
    begins = BEGINS.match(text) is not None
    return begins and _AND_THEN.fullmatch(text, one.end, other.start) is not None


def _are_joined(text: str, one: Number, other: Number, joint: re.Pattern[str]) -> bool:
    between = text[one.end : other.start]
    if is_rate_of(text, one, other):
        return False
    return other.start < one.end or (len(between) <= _NEAR and joint.fullmatch(between) is not None)


def list_of(text: str) -> list[Number]:
    """The numbers of a text that is nothing but a list of different ones: '3, -3', 'x = 3 or
    x = -3'. Otherwise none."""
    if len({found["name"] for found in _UNKNOWN.finditer(text)}) == 1:
        text = _UNKNOWN.sub("", text)
    numbers = find_numbers(text)
    if numbers and worked_out(text, numbers, 0) is not numbers[0]:
        return []
    if any(not_told(text, one) for one in numbers[:_MOST_LISTED]):
        return []
    if len(numbers) < 2 or text[: numbers[0].start].strip(" \t\n\\({[$~*_"):
        return []
    after = text[numbers[-1].end :].strip(" \t\n\\)}]$.!%°*_")
    if after and UNIT.fullmatch(after) is None:
        return []
    listed = side_by_side(text, numbers, _LISTED) == len(numbers)
    return numbers if listed and how_many(numbers) == "several" else []


def is_open(text: str, numbers: Sequence[Number]) -> bool:
    """Are the last two numbers of a text given together: I think it is 12 or 13?"""
    if len(numbers) < 2:
        return False
    one, other = numbers[-2:]
    if _are_joined(text, one, other, _EITHER):
        return True
    between = _BETWEEN.search(text[max(0, one.start - 16) : one.start]) is not None
    return between and _are_joined(text, one, other, _JOINED)


def how_many(numbers: Sequence[Number]) -> Found:
    """Of numbers that may all be meant."""
    first = numbers[0]
    return "one" if all(equal(first, other, 0.0) for other in numbers) else "several"


def equal(given: Number, wanted: Number, tolerance: float) -> bool:
    """Is a number another, within a relative tolerance, or what one of the two may mean beside its
    value? 4 million is 4 and 4,000,000, but no 4 billion."""
    return any(
        abs(one - other) <= tolerance * max(abs(one), abs(other))
        for one in given.readings
        for other in wanted.readings
        if given.value == one or wanted.value == other
    )
