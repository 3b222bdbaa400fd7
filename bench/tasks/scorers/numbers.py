"""Task number: the answer's number is the reference's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tuneserve.bench.tasks.scorers.answer_first import answer_first
from tuneserve.bench.tasks.scorers.brackets import RELATION, without_brackets
from tuneserve.bench.tasks.scorers.calculations import (
    result_of,
    spelt_out,
    without_calculations,
)
from tuneserve.bench.tasks.scorers.corrections import last_correction
from tuneserve.bench.tasks.scorers.cues import announced, boxed
from tuneserve.bench.tasks.scorers.denials import CLAUSE_END, Mention
from tuneserve.bench.tasks.scorers.last_results import place_of_result
from tuneserve.bench.tasks.scorers.marks import Found, Mark, Scorer
from tuneserve.bench.tasks.scorers.next_question import first_block
from tuneserve.bench.tasks.scorers.number_denials import without_denied
from tuneserve.bench.tasks.scorers.number_lists import (
    BEGINS,
    UNIT,
    equal,
    how_many,
    is_all_said,
    is_open,
    is_rate_of,
    list_of,
    side_by_side,
)
from tuneserve.bench.tasks.scorers.number_tokens import Number, find_numbers, prepare
from tuneserve.bench.tasks.scorers.reason_words import REASON
from tuneserve.bench.tasks.scorers.unworked import not_told, said_before, worked_out

# A number and what it is made of, and nothing else: 12 = 3 * 4, 10 = 5% of 200.
_TAKEN_APART = re.compile(
    r"(?P<result>[-+]?[\d.,]+) *=[\d., ()%]*(?:(?:[-+*/^×·⋅÷]|\b(?:of|von|de|di|от)\b)[\d., ()%]+)+"
)
# An answer begins with a calculation if one of these stands behind its first number.
_OPERATOR = re.compile(
    r"\s*(?:[^\W\d_]{1,20}\s+)?(?:[-+*/^×·⋅÷:]|x(?=\s?\d)|(?i:times|plus|minus|mal|divided\sby|of|von|de)\b)"
    r"\s*[$€£]?(?:[\d.(\\]|[^\W\d_]\b)|\((?=\d)|[xyznab]\s*[-+=]"
)
_UNIT_ALONE = re.compile(r"\s?[^\W\d_]{1,20}(?=[.,;!)]|\s*\Z)")
_YEAR = re.compile(r"(?<![\d.,])[12]\d{3}(?![\d,]|\.\d)")
_NEAR = 48  # characters between what belongs together


def number_scorer(tolerance: float) -> Scorer:
    """Right if the answer's number equals the reference's within a relative tolerance.

    Which number of an answer counts: that in \\boxed{}, that after "####" or "the answer is", or
    else the last one. An answer that gives several (12 or 13) is right where all of them stand in
    the reference. Strictly, the answer is a number with its unit and nothing else; leniently, any
    of its numbers is the one that was asked for.
    """

    def among(answer: str, references: Sequence[str]) -> Mark:
        each = [given_in(reference).values for reference in references]
        wanted = [value for values in each for value in values]
        given = given_in(answer)

        def covers(values: Sequence[Number], others: Sequence[Number]) -> bool:
            return all(any(equal(one, other, tolerance) for other in others) for one in values)

        if not wanted:
            return Mark(0.0, 0.0, 0.0, given.found)
        score = float(given.number is not None and covers(given.values, wanted))
        whole = any(values and covers(values, given.values) for values in each)
        lenient = score or float(
            any(equal(one, other, tolerance)
                for one in _every_number(_own_answer(answer)) for other in wanted)
        )  # fmt: skip
        bare = _is_bare(answer) or list_of(prepare(answer))
        strict = score if whole and bare else 0.0
        return Mark(score, strict, lenient, given.found)

    def problem(reference: str) -> str:
        return "" if given_in(reference).number is not None else "has no number"

    return Scorer(lambda answer, reference: among(answer, [reference]), problem, among)


class Given(NamedTuple):
    """The `number` that a text gives as its answer, None for none, and others that it gives
    `beside` it, with nothing that chooses between them: 12 or 13."""

    number: Number | None
    found: Found
    beside: tuple[Number, ...] = ()

    @property
    def values(self) -> tuple[Number, ...]:
        return self.beside if self.number is None else (self.number, *self.beside)


def the_number(text: str) -> tuple[Number | None, Found]:
    """The number that a text gives as its answer, and whether that was clear."""
    given = given_in(text)
    return given.number, given.found


def given_in(text: str) -> Given:
    """What a text gives as its answer. A number that the text denies (not 5) is none, and so is a
    box without a number that can be read (\\sqrt{4}): no other number is meant then."""
    text = _own_answer(text)
    inside = boxed(text)
    if inside is not None:
        inside = without_denied(without_brackets(without_calculations(prepare(inside))))
        if several := list_of(inside):
            return _several(several, several[-1])
        right = _right_side(inside)
        if numbers := find_numbers(right):
            joined = side_by_side(right, numbers) == len(numbers)
            if own := _calculated(right, numbers, len(numbers) - 1):
                return own
            return _several(numbers if joined else numbers[-1:], numbers[-1], numbers)
        if any(char.isdecimal() for char in boxed(text) or ""):
            return Given(None, "none")
    plain = without_calculations(spelt_out(prepare(text)))
    for sentence, after in announced(plain):
        corrected, settled = _corrected(f": {after}")  # "12. " is no mark of a list there
        if corrected is not None:
            return Given(corrected, "one")
        sentence, after = (without_denied(part) for part in (sentence, after))
        sentence = result_of(after) or sentence
        if several := list_of(sentence):
            return _several(several, several[0])
        for part in (_result(sentence), sentence, after):
            if numbers := find_numbers(part):
                if own := _calculated(part, numbers, 0):
                    return own
                given = _several(numbers[: side_by_side(part, numbers)], numbers[0])
                return given if settled else given._replace(found="several")
    if (apart := _TAKEN_APART.fullmatch(plain.strip())) and (
        numbers := find_numbers(apart["result"])
    ):
        return Given(numbers[0], "one")
    plain = without_brackets(without_denied(plain))
    if several := list_of(plain):
        return _several(several, several[-1])
    plain = answer_first(plain)
    numbers = find_numbers(plain)
    if not numbers:
        return Given(None, "none")
    place = len(numbers) - 1 if is_open(plain, numbers) else place_of_result(text, plain, numbers)
    if own := _calculated(plain, numbers, place):
        return own
    if place < len(numbers) - 1:
        return Given(numbers[place], "one")
    if len(numbers) == 2 and is_rate_of(plain, *numbers) and is_all_said(plain, *numbers):
        return Given(numbers[0], "one")
    last = numbers[-2:] if is_open(plain, numbers) else numbers[-1:]
    return _several(last, numbers[-1], numbers)


def _calculated(text: str, numbers: Sequence[Number], place: int) -> Given | None:
    """What a text gives where its number at `place` is part of a calculation that is not worked
    out; None where it is part of none."""
    one = numbers[place]
    if span := not_told(text, one):
        if said := said_before(text, numbers, span[0]):
            return Given(said, "one")
        behind = [at for at, number in enumerate(numbers) if number.start >= span[1]]
        if not behind:
            return Given(None, "none")
        return _calculated(text, numbers, behind[0]) or Given(numbers[behind[0]], "one")
    value = worked_out(text, numbers, place)
    return None if value is one else Given(value, "none" if value is None else "one")


def _corrected(text: str) -> tuple[Number | None, bool]:
    """The number that a text decides on when it takes another one back: 12. No, 13. Where it takes
    one back, and decides on none, it is not settled (second value) which it means."""
    numbers = find_numbers(text)
    mentions = [Mention(repr(one.value), one.start, _end_in(text, one)) for one in numbers]
    found = last_correction(text, mentions)
    if found is None:
        return None, True
    if found.decided is None:
        return None, all(named == repr(numbers[0].value) for named in found.named)
    behind = (one for one in numbers if one.start >= found.end)
    return next(one for one in behind if repr(one.value) == found.decided), True


def _end_in(text: str, one: Number) -> int:
    """Where a number ends, with its unit where nothing else stands in its clause."""
    alone = not CLAUSE_END.split(text[max(0, one.start - _NEAR) : one.start])[-1].strip(" $€£*_")
    unit = _UNIT_ALONE.match(text, one.end) if alone else None
    return unit.end() if unit else one.end


def _several(given: Sequence[Number], chosen: Number, of: Sequence[Number] | None = None) -> Given:
    """The number `chosen` from those that are `given` side by side; how many were found is said
    `of` all."""
    beside = tuple(one for one in given if not equal(one, chosen, 0.0))
    return Given(chosen, how_many(given if of is None else of), beside)


def _every_number(text: str) -> list[Number]:
    """The numbers of a text, and the years of its dates."""
    plain = prepare(text)
    years = (Number(float(one[0]), None, *one.span()) for one in _YEAR.finditer(plain))
    return [*find_numbers(plain), *years]


def _own_answer(text: str) -> str:
    """A text without the questions that it goes on to ask."""
    return first_block(text, lambda before: bool(find_numbers(prepare(before))), _is_answered)


def _is_answered(text: str) -> bool:
    """Does a text say its answer, or begin with it?"""
    plain = prepare(text)
    if BEGINS.match(plain) or boxed(text) is not None:
        return bool(find_numbers(plain))
    return any(find_numbers(after) for _, after in announced(plain))


def last_number(text: str) -> float | None:
    """The value of the number that a text gives as its answer, None without one."""
    number, _ = the_number(text)
    return None if number is None else number.value


def _right_side(text: str) -> str:
    """What stands behind the last sign of equality."""
    return RELATION.split(text)[-1]


def _result(sentence: str) -> str:
    """The part of a sentence in which the result stands: its beginning, or if that is a calculation
    or an unknown (3 + 4 = 7, x = 7) what stands behind the last sign of equality."""
    said = REASON.split(sentence, maxsplit=1)[0]
    first = find_numbers(said)
    if first and RELATION.search(said):
        at_once = not re.search(r"[^\W\d_]|=", re.split(r"[\d.]", said, maxsplit=1)[0])
        if at_once and not _OPERATOR.match(said, first[0].end):
            return said
    return _right_side(said)


def _is_bare(answer: str) -> bool:
    """Is the answer one number, with nothing but a unit and punctuation beside it?"""
    plain = prepare(answer).strip(" \t\n.*_`'\"$")
    numbers = find_numbers(plain)
    if len(numbers) != 1:
        return False
    before = re.split(r"[-+]?[.\d]", plain, maxsplit=1)[0].strip(" \\(){}[]~≈=")
    after = plain[numbers[0].end :].strip(" \\(){}[]$.!")
    unit = UNIT.fullmatch(after) is not None
    return unit and (not before or (len(before) <= 3 and not before.isspace()))
