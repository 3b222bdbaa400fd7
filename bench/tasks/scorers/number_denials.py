"""Numbers that an answer denies: not 12, isn't 5 or 6, 12 is wrong, 12ではありません, x ≠ 12.
Nor is a number the answer that bounds it: more than 12."""

from __future__ import annotations

import re

from tuneserve.bench.tasks.scorers.denial_words import ALL_WRONG, BEFORE, BEHIND

_DIGITS = r"[-+$€£]?(?<![\d.,/])\d(?:[.,/]?\d){0,40}+(?:\s?%)?"
_LINK = r"(?:\b(?:or|nor|oder|noch|ou|ni|или|ни)\b|或)"
_UNIT = (
    r"(?:\s?[個つ人円年개명원个元岁歳]|\s?°C?|\s[^\W\d_]{1,12}(?=\s)|,?\s(?:that|which)(?=\sis\s))?"
)
_THINK = (
    r"(?:(?:do|does|did|could|would)(?:\snot|n't)|can't|cannot)\s(?:think|believe|say|guess|suppose)"
    r"(?:\s(?:that|it|this|the\s(?:answer|result|number)|would|could|should|is|be|was|to|can))*+(?:'s)?"
    r"|nicht,\sdass\s(?:es|das|die\sAntwort|das\sErgebnis)|pas\sque\s(?:ce\ssoit|c'est|la\sréponse\ssoit)"
    r"|no\s(?:creo|pienso)\sque\s(?:sea|es)|não\s(?:acho|creio)\sque\s(?:seja|é)|non\scredo\sche\ssia"
    r"|не\sдумаю,\sчто\sэто"
)
_NOT_SO = (
    r"(?:\b(?:right|correct|true|it|possible|valid|the|what|an?\s\w+\sanswer"
    r"|richtig|korrekt|möglich|die|das|bonne?|la|le|corrett[oa]|correct[oa]|corret[oa]|juist|goed"
    r"|верн\w*|ответ\w*|rätt|riktig)\b|(?=[.,;!?\n]|\Z))"
)
_NEGATED = re.compile(
    rf"(?i)(?:(?:{BEFORE}|n't|\b{_THINK}|\bkeine?n?\b|\banything\sbut\b)\s*"
    r"(?:\b(?:be|equal(?:\sto)?|exactly|quite|really|actually|the|là|é)\s+){0,2}"
    r"|(?:≠|!=|<>|\\neq?(?![A-Za-z])|=/=|\bne(?=\s\d))\s*)"
    rf"{_DIGITS}(?:\s*{_LINK}\s*{_DIGITS})*"
    rf"|{_DIGITS}(?:(?:\s*,\s*{_DIGITS}){{0,8}}\s*(?:\b(?:and|or|und|et|y|e|и)\b|和|と)\s*{_DIGITS}"
    rf"{ALL_WRONG}"
    rf"|{_UNIT}(?:{BEHIND}"
    rf"|\s(?:(?:is|was)(?:\snot\b|n't)|ist\snicht|n'est\spas|no\ses|não\sé|non\sè|is\sniet|nie\sjest"
    rf"|не|är\sinte|er\sikke)\s?{_NOT_SO}))"
)


# "At most 12" may be 12, and 3 more than 12 is 15.
_BOUND = re.compile(
    rf"(?i)(?P<other>\d(?:\s(?!(?:is|are|ist|sind|est|es|è|é|är|er)\s)[^\W\d_]{{1,20}}){{0,2}}\s[^\W\d_]{{1,12}}\s(?:than|als|que|dan|än|niż)\s{_DIGITS}"
    r"|(?<!\w)(?:no|not|nicht|pas|non|não|niet|inte|ikke|не|nie|neither|any|tidak|không)\s[^\W\d_]{1,12}"
    rf"(?:\s[^\W\d_]{{1,4}})?\s{_DIGITS}|不(?:超过|少于|多于|大于|小于){_DIGITS})"
    r"|(?:(?<!\w)(?:(?:less|more|fewer|greater|larger|smaller|higher|lower|bigger)\sthan"
    r"|(?:weniger|mehr|kleiner|größer)\sals|(?:moins|plus)\sde|(?:menos|más)\sde"
    r"|(?:menos|mais)\s(?:de|(?:do\s)?que)|(?:meno|più)\sdi|(?:minder|meer)\sdan|(?:mindre|mer)\sän"
    r"|(?:меньше|больше|более|менее)(?:,?\sчем)?|(?:mniej|więcej)\sniż|(?:ít|nhiều)\shơn"
    r"|(?:kurang|lebih)\sdari)\s(?:[$€£¥]\s?)?|(?:小于|大于|少于|多于|超过|不到|不足))"
    rf"{_DIGITS}|{_DIGITS}(?:\s?[個つ人円年개명원])?\s?(?:未満|を超え|より[多少大小]|미만|초과)"
)


def without_denied(text: str) -> str:
    """A prepared text without the numbers that it denies."""
    text = _BOUND.sub(lambda found: found[0] if found["other"] else " ", text)
    return _NEGATED.sub(" ", text)
