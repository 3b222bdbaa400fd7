"""What a text says against the choices that it names: "not B", "B is wrong", "A: no. B: yes".

Negation is no matter of a few rules in any language. What they can't tell is doubtful, so that it
is counted rather than guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tuneserve.bench.tasks.scorers.denial_words import ALL_WRONG, BEFORE, BEHIND, WRONG
from tuneserve.bench.tasks.scorers.rejections import (
    CONCEDED,
    CONCEDES,
    DISAGREES,
    EXCEPT,
    EXCEPTED,
    LESS_THAN,
    PREFERRED_TO,
    REJECTED,
    REJECTS,
    THE_REST_IS_WRONG,
)

_DENIER = (
    rf"(?:(?:{BEFORE}|(?<!\w)(?:no|without|non|(?:(?<=[.,;!?]\s)|(?<![^\n]))nu"
    r"|(?:anything|everything|any|all) (?:but|except|other than)|far from|kein\w*)(?!\w))"
    r"|(?:不选|不選|不))"
)
_TO_THE_CHOICE = (
    r"[-\s]*(?:(?:a|an|the|really|very|options?|choices?|answers?|be|to be|ein\w*|eine|die|der|das"
    r"|une?|le|la|les|el|los|opción|вариант\w*|ε[ίι]ναι|η|το|là|đáp án|phải|jest|to|jawaban"
    r"|pilihan|em)\s+){0,3}[\"'(\[*_「『]*\Z"
)
_NEGATION_BEFORE = re.compile(rf"(?i){_DENIER}{_TO_THE_CHOICE}")
_REJECTED_BEFORE = re.compile(rf"(?i){REJECTS}{_TO_THE_CHOICE}")
_PREFERRED_TO = re.compile(rf"(?i){PREFERRED_TO}{_TO_THE_CHOICE}")
_EXCEPT = re.compile(rf"(?i){EXCEPT}{_TO_THE_CHOICE}")
_REST_IS_WRONG = re.compile(rf"(?i){ALL_WRONG}|{THE_REST_IS_WRONG}")
_EXCEPTED = re.compile(rf"(?i){EXCEPTED}")
_CONCEDES, _CONCEDED = re.compile(rf"(?i){CONCEDES}"), re.compile(rf"(?i){CONCEDED}")
_LESS_THAN = re.compile(rf"(?i){LESS_THAN}")
_NEGATION_AFTER = re.compile(
    rf"[\"')\]*_」』]*(?:(?i:{BEHIND}|{ALL_WRONG})|\s?(?:"
    rf"[?？]+\s*(?:(?i:no|nope|nein|non|нет|{DISAGREES})(?!\w)|不|いいえ|아니)"
    rf"|(?:all\s)?(?:is|are|was|were|seems?)\s(?:all\s)?(?:not\b|{WRONG})"
    r"|(?:all\s)?fails?\b|(?:isn't|aren't)\b))"
)
_REJECTED_AFTER = re.compile(rf"(?i)[\"')\]*_」』]*{REJECTED}")
# Somewhere before a choice in its clause these may deny it, weaken it, or do something else.
_DOUBT = re.compile(
    r"(?i)(?<!\w)(?:not|no|never|neither|nor|without|cannot|hardly|barely|scarcely|less|\w+n't"
    r"|nicht|kein\w*|nie|kaum|weniger|pas|jamais|moins|nunca|menos|não|non|meno|niet|geen|ikke|inte"
    r"|не|нет|менее|nie|ej|ei|nem|değil|yok|δεν|[όο]χι|bukan|tidak|không|ليس|ليست|لا|غير)(?!\w)|[不没沒]|नहीं|ไม่"
)
# The same behind it, in languages that put it there.
_DOUBT_AFTER = re.compile(
    r"[^。、，．！？.,!?\n]{0,16}?(?:(?<!違い)(?<!違いは)な[いく]|ません|않|아니|못|नहीं)"
)
_NO_DOUBT = re.compile(r"(?i)\b(?:no doubt|without (?:a )?doubt|not only|no question)\b")
CLAUSE_END = re.compile(
    r"(?i)[.,;:!?\n—。，；：！？、।؟،]|\b(?:but|so|therefore|hence|thus|because|since|also|aber"
    r"|sondern|mà(?=\slà)|utan|vaan|hanem|lecz|nego|melainkan|tapi|değil|αλλ[άα]|بل|mais|sino|pero|donc|но|а)\b|而是|但|แต่"
)
# Between the choices of a list that one denial is about: A, B and C are wrong.
_SENTENCE_END = re.compile(r"[.!?](?=\s|\Z)|[\n。！？]")
_COMMA = re.compile(r"\s*[,、，]\s*\Z")
_AND = re.compile(
    r"(?i)\s*,?\s*(?:and|or|nor|&|und|oder|noch|ni|et|ou|y|o|e|и|или|和|或者?|と|や|または|及|및|또는)\s*\Z"
)
_LISTED = re.compile(r"\s*(?:[,;/|、，；]|\n\s*[-*•]|\s)\s*")
_WORD = re.compile(r"\w")
# Every choice with a judgement of its own, behind its text or not: A: no. B) Paris – correct.
_JUDGEMENT = re.compile(
    r"(?i)(?:\s?[).:–—-]+\s[^\n;]{1,80}?)??[\"')\]*_.]*\s*(?:[:=→(–—-]|\bis\b|\bist\b|\best\b|\bes\b|(?<=[).])\s|\s(?=[✓✔✗✘✅❌]))[\s*_]*"
    r"(?:(?P<yes>yes|true|correct[oae]?|right|ja|richtig|oui|vrai|sí|verdadero|corrett[oa]|corret[oa]|juist|да|верно|是|对|正确|はい|✓|✔|✅)"
    r"|(?P<no>no|false|incorrect[oae]?|wrong|nein|falsch|non|faux|falso|incorret[oa]|errad[oa]|sbagliat[oa]|onjuist|нет|неверно|否|错|错误|いいえ"
    r"|✗|✘|❌))(?!\w)"
)
_OF_A_SCALE = re.compile(r"(?i)\d\s*(?:/|(?:out\s+)?of|von|sur|de|su|из)\s*\Z")
CONTEXT = 48  # characters in front of a choice that can deny it
_NEAR = 4  # choices that stand beside a conceded one


@dataclass(frozen=True)
class Mention:
    """A choice that stands in a text, with its place. `denied`: "not B", "B is wrong". `doubtful`:
    a negation stands in its clause, and no rule says of what ("I would not call it B"). `judged`:
    what is said of it beside other choices: "A: no. B: yes". `conceded`: a word of concession
    stands in its clause, and its sentence says another: "although it begins B, it is C"."""

    choice: str
    start: int
    end: int
    denied: bool = False
    doubtful: bool = False
    judged: bool | None = None
    conceded: bool = False


def with_denials(text: str, found: Sequence[Mention]) -> list[Mention]:
    """Mentions with what a text says against them. A denial before or behind a list (A, B or C) is
    about all of it."""
    befores = [-1, *(one.end for one in found)]
    before = [_denied_before(text, one, end) for one, end in zip(found, befores, strict=False)]
    behinds = [*(one.start for one in found), len(text)][1:]
    after = [_denied_after(text, one, start) for one, start in zip(found, behinds, strict=True)]
    for first, last in _lists(text, found):
        for place in range(first, last + 1):
            before[place] |= before[first]
            after[place] |= after[last]
    judged = _judgements(text, found)
    said = [
        replace(one, judged=True)
        if _is_excepted(text, one)
        else replace(
            one,
            denied=before[place] or after[place] if judged[place] is None else not judged[place],
            doubtful=judged[place] is None and _is_doubtful(text, found, place),
            judged=judged[place],
        )
        for place, one in enumerate(found)
    ]
    return _weighed(text, said)


def first_list(text: str, found: Sequence[Mention]) -> Sequence[Mention]:
    """The first mention with those that stand side by side with it: A or B, both A and B, A, B or
    C; a text that is nothing but choices (A, B; A B; one a line) is one too."""
    first, last = next(_lists(text, found), (1, 1))
    if first == 0:
        return found[: last + 1]
    between = [text[one.end : other.start] for one, other in pairwise(found)]
    outside = text[: found[0].start] + text[found[-1].end :]
    if all(map(_LISTED.fullmatch, between)) and not _WORD.search(outside):
        return found
    return found[:1]


def without_idioms(text: str, found: Sequence[Mention]) -> list[Mention]:
    """The mentions without the "no" of "no doubt"."""
    idioms = [one.span() for one in _NO_DOUBT.finditer(text)]
    return [
        one
        for one in found
        if not any(start <= one.start and one.end < end for start, end in idioms)
    ]


def _lists(text: str, found: Sequence[Mention]) -> Iterator[tuple[int, int]]:
    """The first and the last mention of every list: A, B and C; A, B, C; A、B. "A, B" may be two
    clauses."""
    first, mark = 0, ""
    for place in range(1, len(found) + 1):
        between = ""
        if place < len(found):
            between = text[found[place - 1].end : found[place].start][:CONTEXT]
        comma = between.strip() if _COMMA.match(between) else ""
        if _AND.match(between):
            yield first, place
        elif comma and mark in ("", comma):
            mark = comma
            continue
        elif place - first > (1 if mark == "、" else 2):
            yield first, place - 1
        first, mark = place - bool(comma), comma


def _judgements(text: str, found: Sequence[Mention]) -> list[bool | None]:
    """What a text says of every mention (A: no. B: yes), None for nothing; all of it only where at
    least two choices are judged."""
    ends = [*(one.start for one in found), len(text)][1:]
    judged = [_JUDGEMENT.match(text, one.end, end) for one, end in zip(found, ends, strict=True)]
    if len({one.choice for one, said in zip(found, judged, strict=True) if said}) < 2:
        return [None] * len(found)
    return [None if said is None else said["yes"] is not None for said in judged]


def _is_excepted(text: str, one: Mention) -> bool:
    """Are all others said to be wrong: all but B are wrong?"""
    before = text[max(0, one.start - CONTEXT) : one.start]
    behind = text[one.end : one.end + CONTEXT]
    if _EXCEPTED.match(behind):
        return True
    return _EXCEPT.search(before) is not None and _REST_IS_WRONG.match(behind) is not None


def _weighed(text: str, found: Sequence[Mention]) -> list[Mention]:
    """Mentions with what is only conceded."""
    weighed: list[Mention] = []
    for place, one in enumerate(found):
        if one.denied or one.doubtful:
            weighed.append(one)
            continue
        before = text[max(0, one.start - CONTEXT) : one.start].replace("’", "'")
        conceded = _CONCEDES.search(_clause(before)) or _CONCEDED.match(text, one.end)
        near = found[max(0, place - _NEAR) : place + _NEAR + 1] if conceded else ()
        gives_way = any(_is_beside(text, one, other) for other in near)
        weighed.append(replace(one, conceded=gives_way))
    return weighed


def _is_beside(text: str, one: Mention, other: Mention) -> bool:
    """Does a sentence say another choice as well?"""
    between = text[min(one.end, other.end) : max(one.start, other.start)]
    said = other.choice != one.choice and not other.denied and not other.doubtful
    return said and _SENTENCE_END.search(between) is None


def _denied_before(text: str, one: Mention, previous: int) -> bool:
    """`previous`: where the choice before it ends."""
    start = max(0, one.start - CONTEXT)
    before = text[start : one.start].replace("’", "'")
    if text[one.start].isdecimal() and _OF_A_SCALE.search(before) is not None:
        return True
    if _NEGATION_BEFORE.search(before) is not None:
        return True
    # What is negated itself (can't rule out) denies nothing.
    if rejected := _REJECTED_BEFORE.search(before):
        return _DOUBT.search(_clause(before[: rejected.start()])) is None
    preferred = _PREFERRED_TO.search(before)
    # Only where its clause names what is preferred.
    return preferred is not None and (
        preferred.start() - len(_clause(before[: preferred.start()])) <= previous - start
    )


def _denied_after(text: str, one: Mention, following: int) -> bool:
    """`following`: where the next choice begins."""
    behind = text[one.end : one.end + CONTEXT].replace("’", "'")
    if _NEGATION_AFTER.match(behind) is not None:
        return True
    return _REJECTED_AFTER.match(behind[: following - one.end]) is not None


def _clause(before: str) -> str:
    """What stands in front of a place in its clause."""
    return CLAUSE_END.split(before)[-1]


def _is_doubtful(text: str, found: Sequence[Mention], place: int) -> bool:
    """Does a negation stand in the clause of a mention, outside of the choices themselves?"""
    one = found[place]
    start = max(0, one.start - CONTEXT)
    before = text[start : one.start].replace("’", "'")
    for other in found[max(0, place - CONTEXT) : place]:
        if other.start >= start:
            before = (
                before[: other.start - start]
                + " " * (other.end - other.start)
                + before[other.end - start :]
            )
    clause = _LESS_THAN.sub(" ", _NO_DOUBT.sub(" ", _clause(before)))
    if _DOUBT.search(clause) is not None:
        return True
    following = found[place + 1].start if place + 1 < len(found) else len(text)
    return _DOUBT_AFTER.match(text[one.end : min(following, one.end + CONTEXT)]) is not None
