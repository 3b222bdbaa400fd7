"""What a text takes back: "A. Wait, B", "A – nein, B", "A。不对，应该是B".

The choice that is decided on last is the answer. Where what follows decides on none, but names
another ("A. Wait, B may be right too"), nothing says which of them is meant.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from tuneserve.bench.tasks.scorers.denials import CLAUSE_END, CONTEXT, Mention, with_denials

CORRECTION = re.compile(
    r"(?i)(?<!\w)(?:"
    r"wait|hold on|actually|scratch that|correction|or rather|on second thoughts?|i mean|i meant"
    r"|sorry|oops|whoops|my mistake|no(?=\s?[,:;–—-])|nope"
    r"|warte|moment|halt|doch(?=,)|eigentlich|korrektur|quatsch|besser gesagt|vielmehr|ich meine"
    r"|nein(?=\s?[,:;–—-])"
    r"|attends|attendez|en fait|plutôt(?! qu)|pardon|je me corrige|non(?=\s?[,:;–—-])"
    r"|espera|en realidad|mejor dicho|perdón|corrección|aspetta|anzi|in realtà|scusa"
    r"|na verdade|aliás|ou melhor|correção|não(?=\s?[,:;–—-])"
    r"|wacht|eigenlijk|of liever|nee(?=\s?[,:;–—-])|vänta|vent|nej(?=\s?[,:;–—-])"
    r"|nie(?=\s?[,:;–—-])|czekaj|hay[ıi]r(?=\s?[,:;–—-])|dur(?=\s?[,:;–—-])|không(?=\s?[,:;–—-])"
    r"|постой|погоди|подожди|стоп|точнее|вернее|на самом деле|извините|нет(?=\s?[,:;–—-])"
    r"|انتظر|عفوا|عفوًا|في الواقع|لا(?=\s?[،,:])|रुको|रुकिए|दरअसल|असल में|नहीं(?=\s?[,:;–—-])"
    r")(?!\w)"
    r"|不对|不對|等等|等一下|更正|其实|其實|不(?=[，,：:])"
    r"|待って|訂正|違う|違います|やっぱり|やはり|いや(?=[、,])|いいえ(?=[、,])|잠깐|정정|사실은|아니(?:요|야)?(?=\s?[,:])"
)
"""Takes back what was said before it. A bare "no" does where a pause follows it."""
# Leaves it open whether the choice in its clause is meant, or adds it to another.
_OPEN = re.compile(
    r"(?i)(?<!\w)(?:maybe|perhaps|possibly|might|may|could|also|too|both|either|whether|if|why"
    r"|than|unlike|opposite|vielleicht|möglicherweise|könnte|auch|ob|als|peut-être|pourrait|aussi"
    r"|(?:mieux|meilleure?|plus|mejor|más|melhor|mais) (?:do )?que|si|quizás?|tal vez|podría"
    r"|también|forse|potrebbe|anche|talvez|poderia|também|misschien|ook|kanske|också|может"
    r"|возможно|также|ли|чем|ربما|أيضا|أيضًا|شايد|शायद|भी)(?!\w)"
    r"|可能|比|也|或许|或許|かもしれ|たぶん|も|아마|도 "
)
# Adds what follows to what was named: "A. Wait, also B".
_ADDED = re.compile(
    r"(?i)also|and|plus|as well as|additionally|auch|und|aussi|et|también|y|anche|e"
)
# Behind a choice that a clause decides on nothing more is said of it in that clause.
_DECIDED = re.compile(
    r"(?i)[\"'*_」』]*\s*(?:\Z|[)\].,:;!…\n。，；：！、।،۔—–-]"
    r"|(?:because|since|as(?!\s+well)|weil|denn|da|car|parce que|porque|ya que|perché|want|omdat"
    r"|потому|так как|लिए|है|입니다|이다|이에요|입니다만)(?!\w)|因为|因為|だ|です"
    r"|(?:is|ist|est|es|è|é)\s+(?:the\s+)?(?:right|correct|richtig|correcte?|corretta?|correcta?)(?!\w))"
)
_WORD = re.compile(r"\w+")
# What may stand before a number, or the letter of a choice, that a clause decides on: it is, the
# answer should be. Before other words it counts or names something else (vitamin C, section 4).
_SAYING = re.compile(
    r"(?i)(?:[\s\"'“”‘’*_`$€£(:=]+|\\[(\[]|(?:"
    r"it|that|this|is|its|s|was|should|must|would|will|has|have|to|be|the|my|right|correct|actual"
    r"|final|best|answer|result|option|choice|letter|number|value|solution|i|we|mean|meant|think|say"
    r"|choose|pick|make|makes|really|so|then|rather|instead|now|yes|sum|total"
    r"|es|das|die|der|ist|sind|muss|müsste|sollte|soll|wäre|sein|richtige?|antwort|lösung|ergebnis"
    r"|lautet|meine|ich|also|doch"
    r"|c|ce|est|la|le|l|réponse|bonne|doit|devrait|être|plutôt|je|veux|dire"
    r"|la|el|lo|respuesta|correcta|es|debe|debería|ser|sería|quiero|decir|resposta|correta|é|deve"
    r"|deveria|risposta|corretta|è|dovrebbe|essere|antwoord|het|juiste|moet|zijn"
    r"|это|ответ|правильный|будет|должно|должен|быть"
    r")(?!\w)|应该是|應該是|应为|应当是|就是|是|为|答案|正确答案|正しくは|正解は|答えは|は|정답은|답은)*"
)
_MOST_WORDS, _MOST_CHARACTERS = 6, 40
"""What may stand in a clause before the choice that it decides on: 'no, the answer should be B'."""
_MOST_TRIED = 8
"""Corrections before ones that change nothing are left alone: each reads all that follows it."""


class Correction(NamedTuple):
    """The last place that takes something back: `end` is where it ends, `decided` the choice that
    what follows decides on, `named` those that follow where it decides on none."""

    end: int
    decided: str | None
    named: Sequence[str] = ()


def last_correction(text: str, found: Sequence[Mention]) -> Correction | None:
    """The last correction that stands behind one of the mentions and that others, which are not
    denied, follow; None where nothing is taken back. `found`: all mentions in the text, by
    place."""
    starts, ends = [each.start for each in found], [each.end for each in found]
    tried = 0
    for one in reversed(list(CORRECTION.finditer(text))):
        before, behind = bisect_right(ends, one.start()), bisect_left(starts, one.end())
        if not before or tried == _MOST_TRIED:
            return None
        # It may be a choice itself: yes and no.
        if before < behind or behind == len(found) or starts[behind] - one.end() >= CONTEXT:
            continue
        tried += 1
        rest = _of_rest(text, one.end(), found[behind:])
        near = [each for each in rest if each.start < CONTEXT and not each.denied]
        if near:
            return _decide(text[one.end() :], one.end(), rest, near)
    return None


def _of_rest(text: str, start: int, behind: Sequence[Mention]) -> list[Mention]:
    """The mentions behind a place as what follows it has them: 'no' before it denies none."""
    moved = [
        replace(each, start=each.start - start, end=each.end - start, doubtful=False)
        for each in behind
    ]
    alone = with_denials(text[start:], [replace(each, denied=False) for each in moved])
    return [
        replace(each, denied=each.denied or one.denied, doubtful=one.doubtful)
        for each, one in zip(moved, alone, strict=True)
    ]


def _decide(
    rest: str, end: int, every: Sequence[Mention], near: Sequence[Mention]
) -> Correction | None:
    decided = {each.choice for each in every if not each.denied and _is_decided(rest, each)}
    if len(decided) == 1 and _is_decided(rest, near[0]):
        return Correction(end, near[0].choice)
    sure = [each.choice for each in near if not each.doubtful]
    return Correction(end, None, sure)


def _is_decided(rest: str, one: Mention) -> bool:
    """Does its clause say the choice, and nothing that leaves it open?"""
    before = rest[max(0, one.start - CONTEXT) : one.start]
    clause = CLAUSE_END.split(before)[-1].strip()
    short = len(clause) <= _MOST_CHARACTERS and len(_WORD.findall(clause)) <= _MOST_WORDS
    return (
        short
        and (not _is_sign(one) or _SAYING.fullmatch(clause) is not None)
        and not one.doubtful
        and _OPEN.search(clause) is None
        and _ADDED.fullmatch(rest[: one.start].strip(" ,.:;–—-")) is None
        and _DECIDED.match(rest, one.end) is not None
    )


def _is_sign(one: Mention) -> bool:
    """A number or a single letter, which texts are full of that mean something else."""
    return len(one.choice) == 1 or one.choice[-1:].isdigit()
