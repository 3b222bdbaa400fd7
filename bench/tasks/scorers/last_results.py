"""Which number of a last sentence is the answer where others stand behind it: what a calculation
there comes to (60 * 2 = $120 in 2 weeks), or the only one in bold (**$120** in 2 weeks).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tuneserve.bench.tasks.scorers.answer_first import SENTENCE_END
from tuneserve.bench.tasks.scorers.number_lists import equal
from tuneserve.bench.tasks.scorers.number_tokens import Number, find_numbers, prepare
from tuneserve.bench.tasks.scorers.reason_words import BECAUSE, SURELY_SINCE, THEREFORE

# An unknown alone only has a value there: with x = 3 it is 9.
_EQUALS = re.compile(
    r"(?<![^\W\d_])(?:[^=\W\d_]{2,}|[^=\w])[ ]?=[\s$€£¥₹(]*\Z|\d[ ]?=[\s$€£¥₹(]*\Z"
)
_GOES_ON = re.compile(
    rf"(?i){THEREFORE}|\b(?:so|or|oder|ou|o|means?|meaning|rounds?|rounded|about|is|ist|est|es|è"
    r"|gets?|gives?|making|which\smakes)\b|[=≈≃→⇒]"
)
"""What comes to a number of its own."""
# 3 * 4 = 12, he has 8 left; not: 15, since each has 3.
_ANOTHER = re.compile(rf"(?i)[,;](?!\s(?:{BECAUSE}|{SURELY_SINCE}))")
_CONCLUDES = re.compile(rf"(?i)[\s*_]*(?:{THEREFORE}|so\b)")
_BOLD = re.compile(r"\*\*([^*\n]{0,60}[^*\n.:)])\*\*")
_BARE = re.compile(r"[^\w]*[-+]?[\d.,/]*\d(?:\s?[%°$€£¥₹]|\s?[^\W\d_]+(?:\s[^\W\d_]+)?)?\W*")
_NEAR = 24  # characters


def place_of_result(text: str, plain: str, numbers: Sequence[Number]) -> int:
    """The place among the `numbers` of a `plain` text of the one that counts: the last one, or one
    that its sentence gives as what it comes to. `text`: the same before it was prepared."""
    last = len(numbers) - 1
    begins = max(
        (one.end() for one in SENTENCE_END.finditer(plain, 0, numbers[last].start)), default=0
    )
    here = [at for at, one in enumerate(numbers) if one.start >= begins]
    results = [at for at, one in enumerate(numbers) if _is_result(plain, one)]
    chosen = last
    if results and results[-1] in here:
        result = numbers[results[-1]]
        chosen = last if _ANOTHER.search(plain, result.end, numbers[last].start) else results[-1]
    elif (
        results
        and _CONCLUDES.match(plain, begins)
        and equal(numbers[results[-1]], numbers[here[0]], 0.0)
    ):
        chosen = here[0]
    elif (bold := _in_bold(text)) is not None:
        chosen = next((at for at in here if equal(numbers[at], bold, 0.0)), last)
    goes_on = _GOES_ON.search(
        plain, numbers[chosen].end, max(numbers[chosen].end, numbers[last].start)
    )
    return last if goes_on else chosen


def _is_result(text: str, one: Number) -> bool:
    return _EQUALS.search(text, max(0, one.start - _NEAR), one.start) is not None


def _in_bold(text: str) -> Number | None:
    """The only number in bold of the last sentence that has any number."""
    for sentence in reversed(SENTENCE_END.split(text)):
        if any(map(str.isdecimal, sentence)):
            bold = [one[1] for one in _BOLD.finditer(sentence) if any(map(str.isdecimal, one[1]))]
            found = find_numbers(prepare(bold[0])) if len(bold) == 1 else []
            return found[0] if len(found) == 1 and _BARE.fullmatch(bold[0]) else None
    return None
