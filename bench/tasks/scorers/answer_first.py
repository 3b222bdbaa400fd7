"""A number that an answer gives first, and what follows and only explains it: 8 apples, because Tom
has 5 and Ann has 3; 8: 5 red and 3 green; 22, and an explanation behind a blank line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from tuneserve.bench.tasks.scorers.calculations import TOTAL
from tuneserve.bench.tasks.scorers.corrections import CORRECTION
from tuneserve.bench.tasks.scorers.number_lists import equal
from tuneserve.bench.tasks.scorers.number_tokens import (
    Number,
    find_numbers,
    number_at,
    without_list_marks,
)
from tuneserve.bench.tasks.scorers.reason_words import (
    BECAUSE,
    CONCLUDES,
    SINCE,
    SURELY_SINCE,
    THEREFORE,
)

_WORD = r"[^\W\d_]{1,20}"
_UNIT = rf"(?: ?[%°]? ?{_WORD}(?:/{_WORD})?[²³]?(?: {_WORD}){{0,2}}?| ?[%€$£¥₹]|)"
SENTENCE_END = re.compile(r"[.!?](?=\s|\Z)|[。！？।؟\n]")
_BECAUSE = re.compile(
    rf"(?i)[^\n.!?;:,\d]{{0,30}}?(?:[\s,;(—–-]{{0,3}}{BECAUSE}"
    rf"|\s?[,;—–-][ \t]{{0,2}}(?:{SURELY_SINCE}|da|as(?!\s(?:well|of|much|many)\b))\s|\ssince\s)"
)
"""Behind the number that an answer begins with. Further back a reason may be a step: we multiply 4
by 3 because there are 3 boxes, which gives 12."""
# In front of a number that an answer begins with.
_START = re.compile(
    rf"(?i)[\s*_~\"'(]*(?:(?:so|thus|sum|summe|共|총|모두|{TOTAL})\s?:?\s{{0,2}})?[*_]*(?=[-+]?\.?\d)"
)
_APART = re.compile(rf"{_UNIT}[*_)\"']*(?P<gap>[ \t]*[.!,:;。]?[*_]*\s*)")
_LABEL = re.compile(
    r"(?i)[*_#>\s-]*(?:(?:explanations?|reason(?:ing)?|working|work|steps?|calculations?|proof|check"
    r"|here's\s(?:how|why)|erklärung|begründung|rechnung|rechenweg|lösungsweg|schritt|explication"
    r"|étape|raisonnement|calculs?|explicación|razonamiento|cálculos?|paso|explicação|justificativa"
    r"|passo|spiegazione|calcolo|passaggi\w*|uitleg|berekening|förklaring|forklaring|объяснение"
    r"|пояснение|решение|вычисление|шаг|пояснення|wyjaśnienie|obliczenia|vysvětlení|açıklama"
    r"|giải\sthích|penjelasan|selitys|magyarázat|εξ[ήη]γηση|explicație|التفسير|الشرح|व्याख्या)(?!\w)"
    r"|なぜなら|왜냐하면|解释|解釋|解析|说明|說明|理由|步骤|解説|説明|설명|풀이|이유|คำอธิบาย)"
)
_REASON_LINE = re.compile(rf"(?i){BECAUSE}|{SINCE}\s")
_SHARE = re.compile(
    rf"(?i){_UNIT}\s?[,;(、]?\s?(?:\b(?:of\swhich|of\sthem|including|incl|davon|darunter|dont"
    r"|de\slos\scuales|de\slas\scuales|dos\squais|das\squais|di\scui|waarvan|varav|hvoraf|из\sних"
    r"|в\sтом\sчисле)(?!\w)|其中|包括|うち|内訳|이\s?중)"
)
# Between a number and its parts. Behind a comma only where an answer begins with it.
_PARTS = re.compile(rf"{_UNIT}[*_]*\s?(?::|—|\n+[ \t]*[-*•](?=\s))")
_PARTS_OF_FIRST = re.compile(rf"{_UNIT}\s?,(?=\s)")
_SENTENCE = re.compile(rf"{_UNIT}\s?[)*_]*(?:[.!]\s+|[。！])(?=\S)")
_SAYS_MORE = re.compile(rf"{CONCLUDES.pattern}|[=≈≃→]")
_RESULT = re.compile(r"[=≈≃→]\s*[$€£¥₹*_]*\Z")
_GIVES_WORDS = (
    r"\b(?:giv(?:es?|ing)|gets?|getting|result\w*|yield\w*|obtain\w*|comes?\sto|ends?\sup"
    r"|ending\sup|final\w*|leav(?:es?|ing)|erhalten|erhält|bekommen|bekommt|ottien\w+|obt\w+|donne\w*"
    r"|получа\w+|получи\w+)\b|得|共"
)
_GIVES = re.compile(rf"(?i){_GIVES_WORDS}")
_TURNS = re.compile(
    rf"{CONCLUDES.pattern}|{_GIVES_WORDS}|\b(?:is|are|has|have|times|ist|sind|hat|est|es|son|ha)\b|[→⇒]|:\s?[$€£¥₹]?[-+]?\d"
)
_LATER = re.compile(
    rf"{CONCLUDES.pattern}|\b(?:then|now|next|afterwards|dann|jetzt|nun|danach|puis|ensuite|maintenant"
    r"|luego|ahora|entonces|después|então|agora|depois|poi|adesso|потом|теперь|затем)\b|[=≈≃→⇒]"
    r"|:\s?[$€£¥₹]?[-+]?\d[\d.,]*\W*\Z|然后|现在|それから|그리고"
)
"""Goes on to another number: 5 apples. Then 3 more."""
_CHECK = re.compile(
    r"(?im)(?:^|(?<=[.!?]\s))[*_#> \t-]{0,12}(?:(?:check(?:ing)?|verification|probe|vérification"
    r"|comprobación|verificación|verificação|verifica|prova|проверка|kontrolle)\s?:|验证[:：]|検算[:：]|검산[:：]"
    r"|(?:to|let['’]s|let\sme|(?:we|you|i)\s(?:can|will))\s(?:double[-\s])?(?:check|verify)\b)"
)
_BEGINS = re.compile(r"(?:[.!?]\s|[。！？\n])[\s$€£¥₹*_-]*\Z")
_TAKES_ON = re.compile(rf"{CORRECTION.pattern}|{THEREFORE}|\bso\b")
_MOST_PARTS, _LONGEST, _NEAR = (
    12,
    400,
    24,
)  # numbers; characters of a sentence, in front of a number
_EXACT = 1e-9  # relative


def answer_first(text: str) -> str:
    """A prepared text without what only explains or checks the number in front of it."""
    check = _CHECK.search(text)
    if check and find_numbers(text[: check.start()]) and not _TAKES_ON.search(text, check.end()):
        text = text[: check.start()]
    start = _START.match(text)
    first = number_at(text, start.end()) if start else None
    if first is not None and (_is_explained(text, first) or _is_sentence(text, first)):
        return text[: first.end]
    return _without_parts(text if first is None else _without_reason(text, first))


def _without_reason(text: str, first: Number) -> str:
    """Without the rest of the sentence where it gives the reason for the number in front of it."""
    found = _BECAUSE.match(text, first.end)
    if found is None:
        return text
    end = _sentence_end(text, found.end())
    # Else 5 + 3 = 8 is how 5 is checked, and 3 of 8 how it is found.
    goes_on = _TURNS.search(text, found.end(), end)
    if goes_on and _decides(text[found.end() : end], first):
        return text
    return f"{text[: first.end]} {text[end:]}"


def _is_explained(text: str, first: Number) -> bool:
    """Does all that follows the number that a text begins with explain it?"""
    if _SHARE.match(text, first.end) and _sentence_end(text, first.end) >= len(text.rstrip()):
        return not CONCLUDES.search(text, first.end)
    apart = _APART.match(text, first.end)
    rest = text[apart.end() :] if apart else ""
    if apart is None or not rest or not re.search(r"[\n。]", apart["gap"]):
        return False
    told = _LABEL.match(rest) or _REASON_LINE.match(rest)
    explains = told or (apart["gap"].count("\n") > 1 and _comes_back(rest, first))
    return bool(explains) and not CORRECTION.search(rest) and not _decides(rest, first)


def _is_sentence(text: str, first: Number) -> bool:
    """Is the number that a text begins with a sentence, and nothing behind it comes to another?"""
    end = _SENTENCE.match(text, first.end)
    if end is None or without_list_marks(text)[first.start].isspace():
        return False
    rest = text[end.end() :]
    numbers = find_numbers(rest)
    if not numbers or CORRECTION.search(rest):
        return False
    if equal(numbers[-1], first, _EXACT):
        return True
    place = end.end() + numbers[-1].start
    if _BEGINS.search(text, max(first.end, place - _NEAR), place):  # 48 apples
        return False
    return not (_LATER.search(rest) or _decides(rest, first))


def _comes_back(rest: str, first: Number) -> bool:
    """Is the number named again, or made of those that follow?"""
    numbers = find_numbers(rest)
    if any(equal(one, first, _EXACT) for one in numbers):
        return True
    if len(numbers) == 2 and first.value and numbers[1].value:
        one, other = (number.value for number in numbers)
        if first.value in (one - other, one / other):
            return True
    return _made_of(numbers[:_MOST_PARTS], first) is not None


def _decides(rest: str, first: Number) -> bool:
    """Does a text come to another number than the one before it?"""
    numbers = find_numbers(rest)
    if not numbers:
        return False
    if _RESULT.search(rest, 0, numbers[-1].start) or _GIVES.search(rest):
        return not equal(numbers[-1], first, _EXACT)
    if _comes_back(rest, first):
        return False
    *before, last = (one.value for one in numbers[-_MOST_PARTS:])
    if last in (first.value + sum(before), first.value * math.prod(before)):
        return _TURNS.search(rest) is not None
    ends = [end.end() for end in SENTENCE_END.finditer(rest, 0, numbers[-1].start)]
    return CONCLUDES.search(rest, ends[-1] if ends else 0) is not None


def _without_parts(text: str) -> str:
    """Without the parts that stand behind a number and give it as their sum or product."""
    numbers = find_numbers(text)
    start = _START.match(text)
    kept, place = [], 0
    for at, one in enumerate(numbers):
        begins = start is not None and start.end() == one.start
        link = _PARTS.match(text, one.end)
        if link is None and begins:
            link = _PARTS_OF_FIRST.match(text, one.end)
        if link is None or one.start < place:
            continue
        made = _made_of(numbers[at + 1 : at + 1 + _MOST_PARTS], one)
        if made is None or ("\n" not in link[0] and made.end > _sentence_end(text, link.end())):
            continue
        end = _sentence_end(text, made.end)
        if _SAYS_MORE.search(text, link.end(), end):
            continue
        kept.append(f"{text[place : one.end]} ")
        place = end
    return "".join([*kept, text[place:]])


def _made_of(parts: Sequence[Number], whole: Number) -> Number | None:
    """The last of the numbers whose sum or product is a whole, None where it is not."""
    total, product = 0.0, 1.0
    for at, one in enumerate(parts):
        total, product = total + one.value, product * one.value
        if one.value <= 0:
            return None
        if at and whole.value in (total, product):
            return one
    return None


def _sentence_end(text: str, place: int) -> int:
    """Where the sentence ends that goes on at a place."""
    found = SENTENCE_END.search(text, place, place + _LONGEST)
    return found.start() if found else min(len(text), place + _LONGEST)
