"""Task number: the answer's number is the reference's."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tuneserve.bench.tasks.scorers.cues import announced, boxed
from tuneserve.bench.tasks.scorers.marks import Found, Mark, Scorer
from tuneserve.bench.tasks.scorers.number_tokens import Number, find_numbers, prepare

_DIGITS = r"[-+$€£]?(?<![\d.,/])\d[\d.,/]{0,40}+\s?%?"
# Denied in front (not 5, isn't 5 or 6) or behind (5ではない).
_NEGATED = re.compile(
    r"(?i)(?:(?:\b(?:not|cannot|nicht|pas|no es|non|не)|n't)(?:\s+be)?\s+"
    r"|(?<!是)(?:不是|并非|並非|而非)\s*)"
    rf"{_DIGITS}(?:\s*(?:\b(?:or|nor|oder|noch|ou|ni|или|ни)\b|或)\s*{_DIGITS})*"
    rf"|{_DIGITS}[個つ人円年개명원]?(?:(?:では|じゃ)な(?:く|い(?!か))|(?:[이가은는]\s?|\s)아니)"
)
# Two numbers side by side as the answer: 12 or 13, between 12 and 13, 5 apples or 6.
_BESIDE = re.compile(
    r"(?i)\s*[%°]?\s?(?:[^\W\d_]{1,20}\s+)?"
    r"(?:\b(?:or|and|to|oder|und|bis|ou|et|à|y|и|или)\s+(?:[^\W\d_]{1,8}\s+)?|\s?(?:或者?|和|か|と)\s?)[-+$€£]?[\d.]"
)
# A number and what it is made of, and nothing else: 12 = 3 * 4.
_TAKEN_APART = re.compile(r"(?P<result>[-+]?[\d.,]+) *=[\d., ()]*(?:[-+*/^×·⋅÷][\d., ()]+)+")
_RELATION = re.compile(r"[=≈≃]")
# An answer begins with a calculation if one of these stands behind its first number.
_OPERATOR = re.compile(
    r"\s*(?:[^\W\d_]{1,20}\s+)?(?:[-+*/^×·⋅÷:]|x(?=\s?\d)|(?i:times|plus|minus|mal|divided\sby|of|von|de)\b)"
    r"\s*[$€£]?(?:[\d.(\\]|[^\W\d_]\b)|\((?=\d)|[xyznab]\s*[-+=]"
)
# What follows gives the reason, or checks the result.
_REASON = re.compile(
    r"(?i)[,;(]?\s(?:because|since|as|weil|denn|da|car|puisque|parce que|porque|ya que|pois|perché"
    r"|omdat|want|потому|так как|поскольку)\s"
)
# Beside the number an answer that is nothing but the number may have a unit of two words.
_UNIT = re.compile(r"[^\W\d_]*[./°²³^\w]*(?:\s?[^\W\d_/]+)?")


def number_scorer(tolerance: float) -> Scorer:
    """Right if the answer's number equals the reference's within a relative tolerance.

    Which number of an answer counts: that in \\boxed{}, that after "####" or "the answer is", or
    else the last one. Strictly, the answer is a number with its unit and nothing else; leniently,
    any of its numbers is the one that was asked for.
    """

    def mark(answer: str, reference: str) -> Mark:
        wanted, _ = the_number(reference)
        given, found = the_number(answer)
        if wanted is None:
            return Mark(0.0, 0.0, 0.0, found)
        score = float(given is not None and _equal(given, wanted, tolerance))
        lenient = score or float(
            any(_equal(one, wanted, tolerance) for one in find_numbers(prepare(answer)))
        )
        return Mark(score, score if _is_bare(answer) else 0.0, lenient, found)

    def problem(reference: str) -> str:
        return "" if the_number(reference)[0] is not None else "has no number"

    return Scorer(mark, problem)


def the_number(text: str) -> tuple[Number | None, Found]:
    """The number that a text gives as its answer, and whether that was clear. One that the text
    denies (not 5) is none."""
    inside = boxed(text)
    if inside is not None and (numbers := find_numbers(prepare(_right_side(inside)))):
        return numbers[-1], _how_many(numbers)
    plain = prepare(text)
    for sentence, after in announced(plain):
        sentence, after = (_NEGATED.sub(" ", part) for part in (sentence, after))
        for part in (_result(sentence), sentence, after):
            if numbers := find_numbers(part):
                beside = _BESIDE.match(part, numbers[0].end) is not None
                return numbers[0], _how_many(numbers[: 1 + beside])
    if (apart := _TAKEN_APART.fullmatch(plain.strip())) and (
        numbers := find_numbers(apart["result"])
    ):
        return numbers[0], "one"
    numbers = find_numbers(_NEGATED.sub(" ", plain))
    return (numbers[-1], _how_many(numbers)) if numbers else (None, "none")


def _how_many(numbers: Sequence[Number]) -> Found:
    """Of numbers that may all be meant."""
    first = numbers[0]
    return "one" if all(_equal(first, other, 0.0) for other in numbers) else "several"


def last_number(text: str) -> float | None:
    """The value of the number that a text gives as its answer, None without one."""
    number, _ = the_number(text)
    return None if number is None else number.value


def _right_side(text: str) -> str:
    """What stands behind the last sign of equality."""
    return _RELATION.split(text)[-1]


def _result(sentence: str) -> str:
    """The part of a sentence in which the result stands: its beginning, or if that is a calculation
    or an unknown (3 + 4 = 7, x = 7) what stands behind the last sign of equality."""
    said = _REASON.split(sentence, maxsplit=1)[0]
    first = find_numbers(said)
    if first and _RELATION.search(said):
        at_once = not re.search(r"[^\W\d_]|=", re.split(r"[\d.]", said, maxsplit=1)[0])
        if at_once and not _OPERATOR.match(said, first[0].end):
            return said
    return _right_side(said)


def _equal(given: Number, wanted: Number, tolerance: float) -> bool:
    return any(
        abs(one - other) <= tolerance * max(abs(one), abs(other))
        for one in given.readings
        for other in wanted.readings
    )


def _is_bare(answer: str) -> bool:
    """Is the answer one number, with nothing but a unit and punctuation beside it?"""
    plain = prepare(answer).strip(" \t\n.*_`'\"$")
    numbers = find_numbers(plain)
    if len(numbers) != 1:
        return False
    before = re.split(r"[-+]?[.\d]", plain, maxsplit=1)[0].strip(" \\(){}[]~≈=")
    after = plain[numbers[0].end :].strip(" \\(){}[]$.!")
    unit = _UNIT.fullmatch(after) is not None
    return unit and (not before or (len(before) <= 3 and not before.isspace()))
