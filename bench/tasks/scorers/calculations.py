"""A total beside the sum or product that gives it: 15 in total (12 + 3); 2 + 3, that is 5.

Such a calculation is worked out. Where its value is the total's the text says the same thing twice,
whatever words stand between the two.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tuneserve.bench.tasks.scorers.number_tokens import Number, find_numbers, number_at
from tuneserve.bench.tasks.scorers.reason_words import THEREFORE

_MOST_TERMS, _MOST_DEPTH = 24, 4
_EXACT, _ROUNDED = 1e-9, 0.01  # relative
_S = r"\s{0,3}"  # bounded: several beside each other would take long over long runs
_MONEY = r"[\s$€£¥₹]{0,4}"
# Behind a number: 12 red apples, as few words as can be.
_UNIT = r"(?:\s?[%°€£$₹¥]|\s?[^\W\d_]{1,20}?(?:\s[^\W\d_]{1,20}){0,3}?|)"
_OPERATOR = re.compile(
    rf"(?i){_UNIT}{_S}(?:"
    r"(?P<add>\+|\b(?:plus|más|mais|più|плюс)\b|加上?|더하기|プラス|たす)"
    r"|(?P<subtract>-|\bless\b|[减減]去?|빼기|ひく)"
    r"|(?P<multiply>[*×·⋅]|(?<![^\W\d_])x(?=\s?[\d(])"
    r"|\b(?:times|multiplied\sby|mal|fois|multiplié\spar|por|vezes|volte|keer|gånger"
    r"|умножить\sна)\b|乘以?|곱하기|かける|(?<=%)\s?\b(?:of|von|de|di|от)\b)"
    r"|(?P<divide>[/÷]|\b(?:divided\sby|geteilt\sdurch|divisé\spar|dividido\s(?:por|entre|para)"
    r"|diviso|разделить\sна)\b|除以|나누기|割る)"
    r"|(?P<joint>,?\s?(?:&|\b(?:and|und|et|y|e|en|och|og|i|и)\b)|[,;、]|[和与與と]|그리고)"
    rf"){_S}"
)
NAMED = re.compile(
    r"(?i)(?:(?:the|die|das|la|le|el|il|lo|o|a)\s)?(?:"
    r"(?P<add>sum|summe|somme|suma|somma|soma|сумма|сумме)"
    r"|(?P<multiply>product|produkt|produit|producto|prodotto|produto|произведение)"
    r")\s(?:(?:of|von|aus|de|di)\s)?"
)
TOTAL = (
    r"(?:\b(?:in\s(?:total|all|sum|summe|totale|totaal)|all\stogether|altogether|together|combined"
    r"|overall|total|insgesamt|zusammen|gesamt|en\s(?:tout|total)|au\stotal|(?:no|ao)\stotal"
    r"|ao\stodo|samen|totalt|sammanlagt|i\salt|всего|итого|вместе|в\sсумме|łącznie|razem|celkem"
    r"|toplam)\b|合計|总共|總共|一共|全部で)"
)
"""That a number is a total, in words."""
_SAME = (
    r"(?:\b(?:that(?:\sis|['’]s)(?:\sto\ssay)?|which\s(?:is|makes|gives|equals)"
    r"|in\sother\swords|namely|equals|equal\sto|makes|making|giving"
    r"|das\s(?:heißt|heisst|ist|sind|macht)|nämlich|ergibt"
    r"|c['’]est[- ]à[- ]dire|soit|es\sdecir|o\ssea|esto\ses|ou\sseja|isto\sé|cioè|ossia"
    r"|oftewel|dat\swil\szeggen|ofwel|det\svill\ssäga|dvs|то\sесть|czyli|yani|tức\slà|yaitu)\b"
    r"|也就是说?|也就是說|就是|[即等]于?|等於|すなわち|つまり|즉|यानी|अर्थात|أي|≈|≃|→|⇒)"
)
# What is concluded may be a number of its own (3 + 4, so 2 are left), and so are the others here.
_SO = rf"(?:{THEREFORE}|\b(?:so|also|итого|is|ist|est|es|è)\b|=)"
_ABOUT = r"(?:\s?(?:about|approximately|roughly|etwa|ungefähr|environ|около|约|約|약))?"
_FOLLOWS = re.compile(
    rf"(?i){_UNIT}{_S}(?:(?P<total>{TOTAL}){_S})?(?:"
    rf"(?P<bracket>[(\[]){_S}(?:(?P<equals>=)|(?:{_SAME}|{TOTAL}|from\b|so\b)|)[\s,:]{{0,4}}"
    rf"|,?{_S}(?:{_SAME}|=|\b(?:is|are|ist|sind|est|es|son|è)\b)[\s,:]{{0,4}}"
    rf"|(?P<pause>[,;:–-]){_S})"
)
_RESULT = re.compile(
    rf"(?i){_UNIT}(?:{_S}[(\[]{_S}(?:{_SAME})?|{_S}[,;.、，。]?{_S}(?:(?P<same>{_SAME})|{_SO}"
    r"|(?P<either>\b(?:or|oder|ou|o|или)\b)))"
    rf"[\s,:]{{0,4}}{_ABOUT}{_MONEY}"
)
_BEHIND = r"(?:[.,;!?](?!\d)|[\])\n。，；]|\Z)"
_BEHIND_RESULT = re.compile(rf"(?i){_UNIT}{_S}(?:{TOTAL}{_S})?{_BEHIND}")
_END = re.compile(rf"(?i){_UNIT}(?:{_S}{TOTAL})?(?={_S}{_BEHIND})")
_BRACKET_END = re.compile(rf"(?i){_UNIT}(?:{_S}{TOTAL})?{_S}[)\]](?!\s?[-+*/×·⋅÷=^\d])")
_CLOSE = re.compile(rf"{_UNIT}{_S}\)")
_AGAIN = re.compile(rf"{_UNIT}{_S}={_MONEY}")
_START = re.compile(r"[\s*_~$€£¥₹]{0,8}")
_OPEN = re.compile(rf"{_MONEY}(?P<bracket>\()?{_MONEY}")
_IN_A_CALCULATION = re.compile(r"(?:[-+*/^×·⋅÷]|(?<![^\W\d_])x)[\s$€£(]{0,4}\Z")
_ABBREVIATION = re.compile(r"(?i)\b(?:i\.\s?e|d\.\s?h|т\.\s?е|t\.\s?j)\b\.?,?|\bviz\.")
_WORD = re.compile(r"[^\W\d_]")
_NEAR = 8
_FACTOR = re.compile(r"(\d{1,15})\((?=\d)")
_PRICE = re.compile(r"(?i)[^\W\d_]\spor\s")  # 3 manzanas por 12 euros
_APART = re.compile(r"[^-]*(?:\s-\s[^-]*)+")
# 12 - 3 of them are red
_TAIL = re.compile(r"\s?(?:[^\W\d_]{1,20}|[€$%°]\w?)?\s?(?:[.,;:!?)\]}=$\n。，]|\Z)")
_DIVIDED = re.compile(r"[÷]|[^\W\d_]{3,}")


class Calculation(NamedTuple):
    """What a text calculates: `value`, where it ends, by which operations. `joint`: "and" or a
    comma is one of them, so that it may be a list as well."""

    value: float
    end: int
    operations: frozenset[str]
    joint: bool
    named: bool = False

    @property
    def certain(self) -> bool:
        """Can it be nothing else? 3-5 may be a range, 12 and 3 a list, 1/2 a fraction."""
        return (self.named or not self.joint) and bool(self.operations & {"add", "multiply"})


def spelt_out(text: str) -> str:
    """Abbreviations of "that is" written out: their points would end a sentence."""
    return _ABBREVIATION.sub("that is", text)


def without_calculations(text: str) -> str:
    """A text without the calculations that stand behind their result: 15 in total (12 + 3),
    15, that is 12 + 3. One behind = in brackets gives it whatever its value is."""
    kept, place = [], 0
    for one in find_numbers(text):
        end = _end_of_calculation(text, one) if one.start >= place else None
        if end is not None:
            kept.append(f"{text[place : one.end]} ")
            place = end
    return "".join([*kept, text[place:]])


def result_of(text: str) -> str | None:
    """The result, with its unit, of the calculation that a text begins with: 2 + 3, that is 5.
    None where it gives none."""
    start = _START.match(text)
    made = calculation_at(text, start.end()) if start else None
    link = _RESULT.match(text, made.end) if made else None
    result = number_at(text, link.end()) if link else None
    end = _BEHIND_RESULT.match(text, result.end) if result else None
    if made is None or link is None or result is None or end is None:
        return None
    if made.certain:
        stands = link["same"] is not None or _gives(made, result, _ROUNDED)
    else:  # 1/3, that is 0.333; 2 and 3, or 5
        stands = link["either"] is None and _gives(made, result, _EXACT)
    return text[result.start : end.end()] if stands else None


def calculation_at(text: str, place: int) -> Calculation | None:
    """The calculation that begins at a place; None for a number alone."""
    named = NAMED.match(text, place)
    joint = "multiply" if named is not None and named["multiply"] else "add"
    found = _read(text, named.end() if named else place, joint, 0)
    if found is None or not found.operations:
        return None
    return found._replace(named=named is not None)


def arithmetic_at(text: str, place: int) -> Calculation | None:
    """The plain arithmetic that begins at a place, without any list: 12 + 3, 2(3 + 4), 8 - 5."""
    if (factor := _FACTOR.match(text, place)) is not None:
        made = arithmetic_at(text, factor.end() - 1)
        return made and made._replace(value=made.value * float(factor[1]))
    named = NAMED.match(text, place)
    if named is not None:
        return calculation_at(text, place)
    made = _read(text, place, "", 0)
    if made is None or not made.operations:
        return None
    if made.operations & {"add", "multiply"}:
        return None if _PRICE.search(text, place, made.end) else made
    if made.operations == {"subtract"}:  # 5-8 and 5 - 8 are ranges
        apart = _APART.fullmatch(text, place, made.end) and _TAIL.match(text, made.end)
        return made if made.value > 0 and apart else None
    return made if _DIVIDED.search(text, place, made.end) else None


def _end_of_calculation(text: str, one: Number) -> int | None:
    """Where the calculation ends that follows a number as what gives it."""
    if _IN_A_CALCULATION.search(text, max(0, one.start - _NEAR), one.start):
        return None
    link = _FOLLOWS.match(text, one.end)
    if link is None:
        return None
    total = link["total"] is not None or NAMED.match(text, link.end()) is not None
    made = calculation_at(text, link.end()) if link["pause"] is None or total else None
    if made is None:
        return None
    place = made.end
    if link["bracket"] is None:
        end = _END.match(text, place)
        return end.end() if end and _gives(made, one, _EXACT) else None
    if (again := _AGAIN.match(text, place)) and (result := number_at(text, again.end())):
        place = result.end
    end = _BRACKET_END.match(text, place)
    if made.joint and not (total or _WORD.search(text, link.end(), made.end)):
        return None  # 5 (2, 3)
    given = _gives(made, one, _EXACT) or (link["equals"] is not None and made.certain)
    return end.end() if end and given else None


def _gives(made: Calculation, result: Number, tolerance: float) -> bool:
    return any(
        abs(made.value - one) <= tolerance * max(abs(made.value), abs(one))
        for one in result.readings
    )


def _read(text: str, place: int, joint: str, depth: int) -> Calculation | None:
    """Terms with operators between them, those in brackets worked out."""
    values: list[float] = []
    signs: list[str] = []
    operations: set[str] = set()
    is_joint, end = False, place
    while len(values) < _MOST_TERMS:
        term = _term(text, place, joint, depth)
        if term is None:
            break
        values.append(term.value)
        operations |= term.operations
        is_joint |= term.joint
        end = term.end
        operator = _OPERATOR.match(text, end)
        if operator is None or operator.lastgroup is None:
            break
        sign = operator.lastgroup
        if sign == "joint" and not joint:
            break
        signs.append(joint if sign == "joint" else sign)
        place = operator.end()
        is_joint |= sign == "joint" and _term(text, place, joint, depth) is not None
    if not values:
        return None
    signs = signs[: len(values) - 1]
    value = _worked_out(values, signs)
    return (
        None
        if value is None
        else Calculation(value, end, frozenset(operations | {*signs}), is_joint)
    )


def _term(text: str, place: int, joint: str, depth: int) -> Calculation | None:
    opened = _OPEN.match(text, place)
    if opened is None:
        return None
    if opened["bracket"] is None:
        number = number_at(text, opened.end())
        if number is None:
            return None
        divides = frozenset({"divide"} if "/" in text[number.start : number.end] else ())
        return Calculation(number.value, number.end, divides, False)
    inside = _read(text, opened.end(), joint, depth + 1) if depth < _MOST_DEPTH else None
    close = _CLOSE.match(text, inside.end) if inside else None
    return inside._replace(end=close.end()) if inside and close else None


def _worked_out(values: list[float], signs: list[str]) -> float | None:
    """Products before sums; None where something is divided by zero."""
    total, term, sign = 0.0, values[0], 1.0
    for operation, value in zip(signs, values[1:], strict=True):
        if operation == "multiply":
            term *= value
        elif operation == "divide":
            if not value:
                return None
            term /= value
        else:
            total += sign * term
            term, sign = value, 1.0 if operation == "add" else -1.0
    return total + sign * term
