"""Choices of one letter, told from words of one letter ("A", "I").

They are matched in their case, and where the letter stands like a word in a sentence only a mark of
a choice makes it one.
"""

from __future__ import annotations

import re
import unicodedata

from tuneserve.bench.tasks.scorers.denials import Mention
from tuneserve.bench.tasks.scorers.texts import is_whole, normalise

# Words of one letter: articles, pronouns, prepositions and conjunctions of some languages.
_LETTER_WORDS = frozenset("AIOEYUWZАИВКСОУЯ")
_LABEL_CUE = re.compile(
    r"(?i)(?:option|choice|choose|chose|pick|select|answer|letter|say|is|be|with|so|it's|→|:|=|"
    r"вариант|ответ|wähle|option|choix|opción|选项|選項|选择|選擇|选|選|是)[\s*_:]*\Z"
)
# Endings of cases that are joined to a letter: B'dir, B'nin (Turkish), B-t (Hungarian).
_ENDING = re.compile(
    r"['’](?:[dt][ıi]r?|n[ıi]n|y[ıi]|y[ae]|[dt][ae]n?|yl[ae])(?!\w)|-(?:t|[eo]s)(?![\w-])"
)
# In scripts without spaces between words a letter by itself is one beside no other letter of them,
# but for these words: "number ค", "answer", "is", "choose".
_WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_NAMES_SIGN = re.compile(r"(?:ข้อ|ตอบ|คือ|เลือก|เป็น|ຂໍ້|ແມ່ນ)\Z")
_VERB_AFTER = re.compile(
    r"\s(?:is|was|because|since|as|seems|looks|fits|applies|ist|est|es|è|or|and|oder|und|ou|et|vs|o|y|e|of|en"
    r"|stimmt|passt|mà|utan|vaan|hanem|lecz|değil|nego|tapi|بل|верно|неверно|правильно"
    r"|eller|och|og|или|и|أو)\b"
)


def is_letter(choice: str) -> bool:
    """Is a choice a single letter of a script that has cases (or a digit), as options have?"""
    label = normalise(choice)
    return len(label) == 1 and (label.isdecimal() or label.upper() != label)


def letters_of(text: str, wanted: str, choice: str, sure: bool) -> list[Mention]:
    """Where a letter (folded) stands as the name of an option: in its own case (or raised out of
    its sentence by brackets, emphasis or a point), and not like a word."""
    letter = wanted if wanted.isdecimal() else _case_of(choice)
    found: list[Mention] = []
    for place, char in enumerate(text):
        plain = unicodedata.normalize("NFKC", char)
        if plain.casefold() != wanted or not _stands_alone(text, place):
            continue
        enclosed = _is_enclosed(text, place)
        if plain != letter and not enclosed and not (sure and not text[:place].strip()):
            continue
        if not (sure or enclosed) and _is_word(text, place, plain):
            continue
        ending = _ENDING.match(text, place + 1)
        found.append(Mention(choice, place, ending.end() if ending else place + 1))
    return found


def is_in_word(text: str, place: int) -> bool:
    """Does a letter of a script that has no spaces between words, and no cases, stand in a word?"""
    if _WITHOUT_SPACES.match(text, place + 1):
        return True
    before = text[max(0, place - 8) : place]
    return _WITHOUT_SPACES.match(before[-1:]) is not None and not _NAMES_SIGN.search(before)


def _case_of(choice: str) -> str:
    """The letter of an option in the case in which it was given."""
    return next(char for char in unicodedata.normalize("NFKC", choice) if char.isalnum())


def _stands_alone(text: str, place: int) -> bool:
    if not is_whole(text, place, place + 1):
        return False
    before, after = text[place - 1 : place] if place else "", text[place + 1 : place + 2]
    # I'd, l'A, A-level, C++, C#, $A$ aside.
    joins = "'’-+#&" if text[place].isdecimal() else "'’-+#&/"
    return not (
        (
            after in joins
            and after
            and text[place + 2 : place + 3].strip()
            and not _ENDING.match(text, place + 1)
        )
        or (after in "+#" and after)
        or (before in joins and before and text[place - 2 : place - 1].isalnum())
    )


def _is_enclosed(text: str, place: int) -> bool:
    """(C), [C], "C", **C**, $C$, or C) and C. at the beginning of a line."""
    before, after = text[place - 1 : place] if place else "", text[place + 1 : place + 2]
    pairs = (
        "()",
        "[]",
        "{}",
        '""',
        "''",
        "**",
        "__",
        "``",
        "“”",
        "‘’",
        "「」",
        "『』",
        "（）",
        "$$",
    )
    if f"{before}{after}" in pairs:
        return True
    line = text[text.rfind("\n", 0, place) + 1 : place]
    return (
        not line.strip(" >*_([") and after in (")", "]", ".", ":", "、", "：", "）") and bool(after)
    )


def _is_word(text: str, place: int, letter: str) -> bool:
    """Does a letter stand in a sentence like a word: A person, I think?"""
    following = text[place + 1 :][:24]
    if not re.match(r"\s+\w", following) or following[:1] == "\n":
        return False
    if letter not in _LETTER_WORDS:
        return False
    if letter != "I" and _VERB_AFTER.match(following):
        return False
    if _LABEL_CUE.search(text[max(0, place - 16) : place]):
        # "It is A because" was taken above; "this is A hard one" is none.
        return following.lstrip()[:1].islower() and letter == "I"
    return True
