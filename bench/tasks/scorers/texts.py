"""Texts compared in any script: what is ignored, where words end, what the tokens of a text are.

Unicode's general categories decide (Unicode Standard Annex 44), so that what holds for a full stop
holds for 。, ।, ؟ and 」 too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_QUOTES = dict.fromkeys("‘’‚‛ʼ＇`´", "'") | dict.fromkeys("“”„‟«»＂", '"')
_MARKS_OF_SIZE = {"<super>": "^", "<sub>": "_"}
# P* that mean something at the end of a text (50 %, C#, 3/4) are no decoration of it.
_MEANT = frozenset("%‰٪#&@/\\")
_LONG_DASHES = "\u2014\u2015"  # they part sentences, and open direct speech
_RUN = re.compile("-+|#+")
_OPENERS = frozenset("`*_~")  # of Markdown; two of them are symbols to Unicode
# Their words are written without spaces between them, or (Hangul) with particles attached.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u19e0-\u19ff\u1a20-\u1aaf"
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3040-\u30ff\u3100-\u318f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uaa60-\uaa7f\uaa80-\uaadf\uac00-\ud7ff"
    "\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
)
# Written as one number, with a sign that is no dash between two numbers or words. Dates, versions
# and lists are none.
_NUMBERS = re.compile(
    r"(?<![\d.,'])(?:(?<![\w)\]])-)?"
    r"(?:\d{1,3}(?:(?P<mark>[,.'])\d{3})(?:(?P=mark)\d{3})*(?:[.,]\d+)?|\d+[.,]\d+|\d+|\.\d+)"
    r"(?:\^-?\d+)?(?![.,']?\d)"
)
_LONGEST = 24  # characters of a number that are looked at on either side
_SIGNS = re.compile(r"(?:\+\+?|#)(?!\w)")
_GREEK_ACCENTS = frozenset("\u0300\u0301\u0342")


def _without_accent(char: str) -> str:
    parts = unicodedata.normalize("NFD", char)
    return unicodedata.normalize("NFC", "".join(one for one in parts if one not in _GREEK_ACCENTS))


# Small letters that differ in what capitals don't show: HAYIR is hayır, ΟΧΙ is όχι.
_LOST_IN_CAPITALS = {ord("ı"): "i"} | {
    place: _without_accent(chr(place))
    for place in (*range(0x370, 0x400), *range(0x1F00, 0x2000))
    if unicodedata.category(chr(place)) == "Ll"
}
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff]")


def unformatted(text: str) -> str:
    """Text without characters that are not seen: zero width spaces, soft hyphens, marks of
    direction and of byte order (category Cf), variation selectors."""
    if text.isascii():
        return text
    return "".join(
        char
        for char in text
        if unicodedata.category(char) != "Cf" and not "\ufe00" <= char <= "\ufe0f"
    )


def ascii_digits(text: str) -> str:
    """Text with the decimal digits of every script (٤, ४, ４) as 0 to 9."""
    if text.isascii():
        return text
    return "".join(
        str(unicodedata.decimal(char)) if char.isdecimal() and not char.isascii() else char
        for char in text
    )


def fold(text: str) -> str:
    """Text without what makes no other text of it: case, width, digits' script, runs of white
    space, forms of quotes and dashes, what is not seen.

    A digit that is raised or lowered behind a digit stays apart from it: 10² is 10^2, not 102.
    """
    previous = None
    while text != previous:  # folded case may compose anew, and the other way round
        previous = text
        text = _folded_once(text)
    return text


def _folded_once(text: str) -> str:
    if text.isascii():
        return " ".join(text.replace("`", "'").lower().split())
    text = ascii_digits(unformatted(text)).replace("\u0640", "")  # the stroke that fills Arabic
    text = "".join(_without_form(text))
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/")
    # Of the Turkish capital İ the dot stays behind.
    text = text.casefold().replace("i\u0307", "i")
    return " ".join(text.translate(_LOST_IN_CAPITALS).split())


def _without_form(text: str) -> Iterator[str]:
    before = " "
    for char in text:
        form = unicodedata.decomposition(char).partition(" ")[0]
        if form in _MARKS_OF_SIZE and char.isdigit():
            # A row of raised digits is one number.
            apart = before.isdecimal() and before.isascii()
            yield (_MARKS_OF_SIZE[form] if apart else "") + str(unicodedata.digit(char))
        elif form == "<fraction>" and before.isdecimal():
            yield f" {char}"
        elif char == "\u2212" or (unicodedata.category(char) == "Pd" and char not in _LONG_DASHES):
            yield "-"
        else:
            yield _QUOTES.get(char, char)
        before = char


def normalise(text: str) -> str:
    """Folded text without punctuation at its ends (categories P*, and the marks of Markdown); what
    is nothing but punctuation stays as it is. A sign or a point before a digit is no punctuation.
    """
    folded = fold(text)
    start, end = 0, len(folded)
    while start < end and (following := _edge_end(folded, start)) > start:
        start = following
    while end > start and _is_end(folded, end - 1):
        end -= 1
    return folded[start:end] or folded


def _edge_end(text: str, place: int) -> int:
    """Where the punctuation that a text begins with at `place` ends; `place` if there is none."""
    char, following = text[place], text[place + 1 : place + 2]
    if char in "-#":
        end = _RUN.match(text, place).end()  # type: ignore[union-attr]
        if text[end : end + 1] == " " or (end == len(text) and char == "-"):
            # A dash of a list or of direct speech, a heading; -x and --flag are something else.
            return end
        return place
    if char == "+":
        return place
    if char == ".":
        return place if following.isdecimal() else place + 1
    return place + (char == " " or char in _OPENERS or _is_punctuation(char))


def _is_end(text: str, place: int) -> bool:
    char = text[place]
    if char == "-":
        return place == 0 or text[place - 1] == " "
    return char == " " or char in _OPENERS or _is_punctuation(char)


def _is_punctuation(char: str) -> bool:
    return char not in _MEANT and unicodedata.category(char).startswith("P")


def find_words(wanted: str, text: str, start: int = 0) -> int | None:
    """Where `wanted` stands in `text` as whole words, None if it does not.

    A word ends where no letter, digit or mark follows. In scripts that put no spaces between words,
    and beside them, it may end anywhere but before a combining mark.
    """
    if not wanted:
        return None
    place = text.find(wanted, start)
    while place >= 0:
        if is_whole(text, place, place + len(wanted)):
            return place
        place = text.find(wanted, place + 1)
    return None


def is_whole(text: str, start: int, end: int) -> bool:
    """Does text[start:end] stand there as whole words: no part of a word, of a number (3 in 3.14,
    3,000 or -3) or of a name with signs (C in C++, A in A+)?"""
    if start and _joined(text[start - 1], text[start]):
        return False
    if end < len(text) and _joined(text[end - 1], text[end]):
        return False
    if text[start].isdecimal() or text[end - 1].isdecimal():
        around = text[max(0, start - _LONGEST) : end + _LONGEST]
        shift = max(0, start - _LONGEST)
        for number in _NUMBERS.finditer(around, max(0, start - shift - 1 - _LONGEST)):
            first, last = number.start() + shift, number.end() + shift
            if first < end and last > start and not start <= first <= last <= end:
                return False
    return not (text[end - 1].isalpha() and _SIGNS.match(text, end))


def _joined(first: str, second: str) -> bool:
    """Do two characters that follow each other belong to one word?"""
    if unicodedata.category(second).startswith("M"):
        return True
    if not (_in_word(first) and _in_word(second)):
        return False
    return not (is_unspaced(first) or is_unspaced(second))


def _in_word(char: str) -> bool:
    return char.isalnum() or char == "_" or unicodedata.category(char)[0] in "LMN"


def is_unspaced(char: str) -> bool:
    """Is a character of a script in which a word may end without a space?"""
    return _UNSPACED.match(char) is not None


def tokens(text: str) -> list[str]:
    """The tokens of a text: runs of letters, digits and marks, in lower case; of a script without
    spaces between words every character with its marks. Hangul has spaces: its tokens are words.

    Of English text they are what the package rouge-score makes: runs of a to z and 0 to 9.
    """
    found: list[str] = []
    inside = False
    for char in fold(text):
        category = unicodedata.category(char)[0]
        if category not in "LMN":
            inside = False
            continue
        alone = is_unspaced(char) and not _HANGUL.match(char)
        if found and (category == "M" or (inside and not alone)):
            found[-1] += char
        else:
            found.append(char)
        inside = inside if category == "M" else not alone
    return found
