"""Numbers in running text, as people of many languages and LaTeX write them.

Dates, times, versions and digits that belong to a word (CO2, GPT-4, x_2) are no numbers. A number
that no float can hold is none.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from tuneserve.bench.tasks.scorers.currencies import CODES, with_plain_amounts
from tuneserve.bench.tasks.scorers.number_latex import without_latex
from tuneserve.bench.tasks.scorers.number_scales import as_float, with_scales
from tuneserve.bench.tasks.scorers.number_words import PERCENT, with_signs
from tuneserve.bench.tasks.scorers.texts import ascii_digits, unformatted

# Letters of scripts in which a digit that follows one belongs to the word: not those of scripts
# without spaces or with attached particles (共5个, 총5명, و5).
_LETTER = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u03ff\u0400-\u052f\u1e00-\u1fff"
_MONTH = (
    "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"

_NO_NUMBERS = "|".join(
    [
        r"https?://\S+",
        r"(?<!\d)\d{4}-\d{1,2}-\d{1,2}(?!\d)(?:[T ]?\d{1,2}:\d{2}[\d:.]*(?:Z|[-+]\d{2}:?\d{2})?)?",
        r"(?<!\d)\d{1,4}/\d{1,2}/\d{1,4}(?!\d)",
        r"(?<!\d)\d{1,2}\.\s?\d{1,2}\.\s?(?:\d{4}|\d{2})(?![\d.])",
        r"(?<!\d)\d{2,4}\s?年\s?\d{1,2}\s?月(?:\s?\d{1,2}\s?[日号號])?|\d{1,2}\s?月\s?\d{1,2}\s?[日号號]",
        r"\d{1,4}\s?년\s?\d{1,2}\s?월(?:\s?\d{1,2}\s?일)?|\d{1,2}\s?월\s?\d{1,2}\s?일",
        r"\d{1,2}\s?[時时点點]\s?\d{1,2}\s?分|\d{1,2}\s?시\s?\d{1,2}\s?분",
        r"(?<![\d.])\d+:\d+(?::\d+)*(?:\.\d+)?(?:\s?[AaPp]\.?[Mm]\b\.?)?",
        r"(?<!\d)\d{1,2}h\d{2}(?!\d)",
        rf"\b{_MONTH}\s{_DAY}(?!\d)(?:,?\s\d{{4}}(?!\d))?",
        rf"(?<!\d){_DAY}\s(?:of\s)?{_MONTH}(?![{_LETTER}])(?:,?\s\d{{4}}(?!\d))?",
        rf"\b{_MONTH}\s\d{{4}}(?!\d)",
        r"(?<![\d.])v?\d+(?:\.\d+){2,20}(?![\d,])(?<!\.\d{3})",  # a version, an address
        rf"(?<![{_LETTER}])(?!{CODES}\.?\d)[{_LETTER}]+[-_]?\d[\w]*",  # CO2, GPT-4, x_2
        r"(?<![\w.,])\d+(?![eE][-+]?\d+(?!\w))(?!(?:[kcmdµμ]?m|ft|in|yd|mi)\d\b|x10\^)[A-Za-z]+\d\w*",
        r"(?<=[\w)])_\{?\w+\}?",
        rf"(?<=[{_LETTER})\s])\^\{{?[-+]?\d+\}}?",  # m^2
        r"\d*\s?(?:√\s?\d+(?:\.\d+)?|\\sqrt(?:\[\d+\])?\s?\{?\d+\}?)",
        r"\\[dtc]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}",  # those of numbers are plain by now
        r"(?<!\d)[12]\d{3}-(?:0[1-9]|1[0-2])(?![\d.,-])",
        r"±\s?\d+(?:[.,]\d+)?",
    ]
)
_SPACE = "[ '\u066c_]"
_MANTISSA = "|".join(
    [
        r"\d{1,3}(?:,\d{3}){1,12}(?!,?\d)(?:\.\d+)?",  # 1,234.5
        r"\d{1,2}(?:,\d{2}){1,12},\d{3}(?!\d)(?:\.\d+)?",  # 12,34,567
        r"\d{1,3}(?:\.\d{3}){1,12},\d+(?![\d,])",  # 1.234,56
        r"\d{1,3}(?:\.\d{3}){2,12}(?![\d.])",  # 1.234.567
        rf"[1-9]\d{{0,2}}(?P<space>{_SPACE})\d{{3}}(?:(?P=space)\d{{3}}){{0,12}}(?!\d)"
        r"(?:[.,]\d+(?![\d,]))?",  # 1 234,5
        r"(?<!\d,)\d+,\d+(?![\d]|,\d)",  # 12,34
        r"\d+\.\d+",
        r"\d+",
        rf"(?<![\w.{_LETTER}])\.\d+",
    ]
)
_OUT_OF = (
    r"(?i:\s(?:out\sof|sur|von|su|из|de\scada|em\scada|op\sde)\s"
    r"|(?<=\b1)\sin\s(?=\d{1,9}[.!)]?\s*\Z))"
)
_NUMBER = re.compile(
    rf"(?P<none>{_NO_NUMBERS})"
    r"|(?P<sign>(?<![\w)\]}%°.,'])[-+]|(?<==\s)[-+]\s(?=\d))?"
    r"(?:"
    r"(?P<whole>(?<![\d.,])\d{1,4}[ -])?(?P<above>(?<![\d.,])\d+(?:\.\d+)?)"
    rf"(?:\s?/\s?|(?P<of>{_OUT_OF}))(?P<below>\d+(?:\.\d+)?)(?!\.?\d|/)"
    rf"|(?P<mantissa>{_MANTISSA})"
    r"(?:(?P<exponent>[eE][-+]?\d+(?!\w))"
    r"|\s?[×x*·⋅]\s?10\s?\^\s?[{(]?\s?(?P<ten>[-+]?\d+)[)}]?"
    r"|\^[{(]?(?P<power>[-+]?\d+)[)}]?)?"
    r")"
    rf"(?P<share>\s?(?:%|‰|{PERCENT}))?"
)
_LIST_MARK = re.compile(r"(?m)^[ \t]*(\d{1,3})[.)][ \t]+(?=\S)")


@dataclass(frozen=True)
class Number:
    """A number in a text: its `value`, and what it may mean beside that: 50 % is 0.5 and 50, 1 out
    of 4 is 0.25 and 1, 4 million is 4 where millions are asked for.
    `start` and `end` are its place in the prepared text, for those of a list (1,2) the list's."""

    value: float
    other: float | None
    start: int
    end: int

    @property
    def readings(self) -> tuple[float, ...]:
        return (self.value,) if self.other is None else (self.value, self.other)


def find_numbers(text: str) -> list[Number]:
    """The numbers of a text that `prepare` has made plain, in order. The numbers of list items
    (1. …, 2. …) count only if there are no others."""
    return list(_numbers(without_list_marks(text))) or list(_numbers(text))


def without_list_marks(text: str) -> str:
    """A text of the same length with spaces for the numbers of list items. One such line that
    doesn't begin at 1 is none: 206. Babies have more."""
    marks = _LIST_MARK.findall(text)
    alone = len(marks) == 1 and int(marks[0]) > 1
    return text if alone else _LIST_MARK.sub(_blank, text)


def number_at(text: str, place: int) -> Number | None:
    """The number that begins at a place of a prepared text, None where none does."""
    found = _NUMBER.match(text, place)
    if found is None or found["none"] is not None:
        return None
    number = next(_numbers(text, place), None)
    return number if number is not None and number.start == place else None


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


_SAME = str.maketrans(
    dict.fromkeys("\u2212\ufe63\uff0d\u2013\u2012\u2010\u2011", "-")
    | dict.fromkeys("\u00a0\u2007\u2009\u202f\u2002\u2003\u2005\u2006\u2008\u200a\u3000", " ")
    | dict.fromkeys("’ʼ＇", "'")
    | dict.fromkeys("\u2044\u2215／", "/")
    | {"（": " (", "）": ")", "［": " [", "］": "]", "【": " [", "】": "]"}
    | {"＋": "+", "％": "%", "٪": "%", "٫": ".", "．": ".", "＝": "=", "：": ":", "＾": "^"}
)
_SIGN_APART = re.compile(r"(?m)(^|[=:]\s?)−\s(?=\d)")  # a hyphen would be the mark of a list
_OF_PI = re.compile(r"\s?[*×·⋅]?\s?π(?:\s?/\s?(?P<below>\d{1,9})(?![\d.,]*\d))?(?!\w)")


def prepare(text: str) -> str:
    """Text with every digit, sign, separator and LaTeX command that numbers need in one form."""
    text = _SIGN_APART.sub(r"\1−", ascii_digits(unformatted(text))).translate(_SAME)
    # A comma of full width is one of thousands before three digits, or else one of the sentence.
    text = re.sub(r"(?<=\d)，(?=\d{3}(?!\d))", ",", text).replace("，", ", ")
    if not text.isascii():
        text = "".join(_small_digits(text))
    text = re.sub(r"(?<=\d)\*\*(?=-?\d)", "^", without_latex(text))
    text = with_signs(text)
    text = re.sub(r"(?<=\d),(?=[-+]\d)", ", ", text)  # 3,-3
    text = re.sub(r"(?<![\w\\])([$€£¥₹]\s?\d[\d.,]{0,20})\s?m(?!\w)", r"\1M", text)  # £5m
    text = with_plain_amounts(text)
    # Emphasis and dollars around a number are no part of it.
    return re.sub(r"(?<![\w\\])[$€£¥₹]\s?(?=[-+]?[\d.])|\*\*|``?", "", text) if text else text


def _small_digits(text: str) -> Iterator[str]:
    """½ as 1/2, raised digits behind a digit as a power, ⑤ as 5; other raised or lowered ones are
    left."""
    circled = {char for char in text if _is_circled(char)}
    # Else they number a list.
    alone = len(circled) == 1 and not any(map(str.isdecimal, text))
    before, raised = " ", False
    for char in text:
        form = unicodedata.decomposition(char).partition(" ")[0]
        if form == "<fraction>" and unicodedata.numeric(char, 0) > 0 and char != "\u215f":
            plain = unicodedata.normalize("NFKC", char).replace("\u2044", "/")
            yield f" {plain}" if before.isdecimal() else plain
        elif alone and char in circled:
            yield f" {unicodedata.numeric(char):.0f} "
        elif form == "<super>" and (char.isdigit() or char in "⁻⁺"):
            sign = {"⁻": "-", "⁺": "+"}.get(char)
            digit = sign or str(unicodedata.digit(char))
            if raised:
                yield digit
            elif before.isdecimal():
                yield f"^{digit}"
                raised = True
            before = char
            continue
        else:
            yield char
        before, raised = char, False


def _is_circled(char: str) -> bool:
    return "①" <= char <= "⑳"


def _numbers(text: str, place: int = 0) -> Iterator[Number]:
    while (found := _NUMBER.search(text, place)) is not None:
        place = found.end()
        if found["none"] is not None:
            continue
        if found["mantissa"] is not None and _is_list(text, found):
            for part in found["mantissa"].split(","):
                yield Number(float(part), None, found.start(), place)
            continue
        value = _value(found)
        if value is None:
            continue
        value, other, place = with_scales(text, value, place)
        if (of_pi := _OF_PI.match(text, place)) is not None:
            below = int(of_pi["below"] or 1)
            value, other, place = value * math.pi / (below or math.nan), None, of_pi.end()
        if not math.isfinite(value):
            continue
        if found["sign"] is not None and found["sign"].startswith("-"):
            value, other = -value, None if other is None else -other
        if found["share"] is not None:
            other, value = value, value / (1000 if "‰" in found["share"] else 100)
        elif found["of"] is not None:
            other = as_float(found["above"])
        yield Number(value, other, found.start(), place)


def _value(found: re.Match[str]) -> float | None:
    if found["above"] is not None:
        below = as_float(found["below"])
        above = as_float(found["above"])
        whole = as_float(found["whole"][:-1]) if found["whole"] is not None else 0.0
        if not below or above is None or whole is None:
            return None
        return whole + above / below
    value = as_float(_with_point(found))
    if value is None:
        return None
    power = found["exponent"] or (f"e{found['ten']}" if found["ten"] else "")
    if power:
        # Together: the mantissa alone may be in range where the number is not.
        return as_float(f"{_with_point(found)}{power}")
    if found["power"] is None:
        return value
    try:
        return float(value ** int(found["power"]))
    except (OverflowError, ZeroDivisionError, ValueError):
        return None


def _with_point(found: re.Match[str]) -> str:
    """The mantissa as Python writes it."""
    written = re.sub(_SPACE, "", found["mantissa"])
    if found["space"] is not None:
        return written.replace(",", ".")
    commas, points = written.count(","), written.count(".")
    if commas and points:
        decimal = max(",.", key=written.rfind)
        return written.replace("," if decimal == "." else ".", "").replace(",", ".")
    if points > 1:
        return written.replace(".", "")
    if commas:
        head, *groups = written.split(",")
        thousands = all(len(group) in (2, 3) for group in groups) and len(groups[-1]) == 3
        if thousands and len(head) <= 3 and not head.startswith("0"):
            return written.replace(",", "")
        return written.replace(",", ".")
    return written


def _is_list(text: str, found: re.Match[str]) -> bool:
    """Is '1,2' what stands in brackets, two numbers?"""
    if not re.fullmatch(r"\d+,\d{1,2}", found["mantissa"] or "") or found["sign"]:
        return False
    before, after = text[: found.start()].rstrip()[-1:], text[found.end() :].lstrip()[:1]
    return f"{before}{after}" in ("()", "[]", "{}")
