"""Words beside numbers that are signs, powers or shares: minus 5, 12 squared, 百分之10."""

from __future__ import annotations

import re

PERCENT = (
    r"(?:(?i:per\s?cento?|pct|prozent|pour\scent|por\s(?:ciento|cento)|pro[cs]ent(?:o|u|em|ů|a|ow|y|tia)?"
    r"|percento|persen|phần\s?trăm|τοις\sεκατό|відсотк\w*|відсотків|yüzde)(?!\w)|процент"
    r"|パーセント(?!ポイント)|퍼센트(?!\s?포인트)|प्रतिशत|फ़ीसदी|(?:بال|في\sال)(?:مئة|مائة)|เปอร์เซ็นต์)"
)
"""What makes the number that it follows a share of a hundred."""
_N = r"\d(?:[.,]?\d){0,40}+"
# In front of it; "10 % 3" is something else.
_SHARES = (
    (re.compile(rf"(?:百分之\s?|(?i:\byüzde)\s|(?<![\w%])(?<!\d\s)%\s?)({_N})(?!\s?%)"), r"\1%"),
    (re.compile(r"(?<![\d時时点點])(\d{1,6})\s?(?:分之|分の|분의)\s?(\d{1,6})(?!\d)"), r"\2/\1"),
    (re.compile(rf"千分之\s?({_N})"), r"\1‰"),
)  # fmt: skip
# In words; "au moins 5" and "al menos 5" are at least 5.
_MINUS = re.compile(
    r"(?i)(?:\b(?:minus|negative|минус|meno|(?<!au )(?<!du )(?<!ou )moins"
    r"|(?<!al )(?<!o )(?<!ou )menos)\s+"
    r"|(?:マイナス|마이너스|[负負])\s?)(?=[\d.$€£])"
)
# Between two numbers they take one from the other.
_LESS = re.compile(
    r"(?i)(?P<from>\d[\d.,]{0,40}+(?:\s?[€$%])?(?:\s[^\W\d_]{1,12})?)\s+"
    r"(?:minus|moins|menos|meno|минус)\s+(?=[$€£]?\d)"
)
# Powers in words, and a fraction behind a whole number.
_IN_WORDS = (
    (re.compile(r"(?i)(?<=\d)\s?(?:squared|au\scarré|al\scuadrado|ao\squadrado|al\squadrato"
                r"|zum\squadrat|в\sквадрате|的平方|の(?:2|二)乗"
                r"|의\s?제곱)(?!\w|\s?(?:met|feet|inch|mile|cm))"), "^2"),
    (re.compile(r"(?i)(?<=\d)\s(?:cubed|au\scube|al\scubo|ao\scubo|в\sкубе)(?!\w)"), "^3"),
    (re.compile(r"(?i)(?<=\d)\s(?:(?:raised\s)?to\sthe(?:\spower\sof)?\s(?=\d{1,3}(?!\d|st|nd|rd|th))"
                r"|hoch\s(?=\d)|puissance\s(?=\d)|elevado\sa\s(?=\d)|в\sстепени\s(?=\d))"), "^"),
    (re.compile(r"(?i)(?<=\d)\sand\s(?:an?|one)[\s-]half(?!\w)"), " 1/2"),
    (re.compile(r"(?i)(?<=\d)\sand\s(?:an?|one)[\s-]quarter(?!\w)"), " 1/4"),
    (re.compile(r"(?i)(?<=\d)\sand\sthree[\s-]quarters(?!\w)"), " 3/4"),
)  # fmt: skip
# "The roots are 3 and 1/2" are two.
_AND_FRACTION = re.compile(
    r"(?i)(?P<whole>(?<![\d.,/])\d{1,4})\s(?:and|und|et|y|e|en|och|og|и|i)\s"
    r"(?P<above>\d{1,3})/(?P<below>\d{1,3})(?![\d/]|\.\d)"
)
_OF_TWO = re.compile(
    r"(?i)(?:[=,]|\b(?:are|were|both|between|or|and|roots?|solutions?|values?|numbers?"
    r"|sind|sont|son|são|sono|beide|zwischen|entre))\W{0,4}\Z"
)


def _mixed(found: re.Match[str]) -> str:
    two = _OF_TWO.search(found.string, max(0, found.start() - 16), found.start())
    if two or int(found["above"]) >= int(found["below"]):
        return found[0]
    return f"{found['whole']} {found['above']}/{found['below']}"


def with_signs(text: str) -> str:
    """Text with the signs that its words say."""
    text = _MINUS.sub(" -", _LESS.sub(r"\g<from> - ", text))
    for pattern, plain in (*_IN_WORDS, *_SHARES):
        text = pattern.sub(plain, text)
    return _AND_FRACTION.sub(_mixed, text)
