"""Task choice: which of the given choices an answer settles on.

Choices of one letter are told from words of one letter ("A", "I") by `letters`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tuneserve.bench.tasks.scorers.conclusions import concluded, without_asked
from tuneserve.bench.tasks.scorers.corrections import last_correction
from tuneserve.bench.tasks.scorers.cues import announced, boxed
from tuneserve.bench.tasks.scorers.denials import (
    Mention,
    first_list,
    with_denials,
    without_idioms,
)
from tuneserve.bench.tasks.scorers.letters import is_in_word, is_letter, letters_of
from tuneserve.bench.tasks.scorers.marks import Found, Mark, Scorer, shortened
from tuneserve.bench.tasks.scorers.next_question import first_block
from tuneserve.bench.tasks.scorers.reason_words import BECAUSE
from tuneserve.bench.tasks.scorers.texts import find_words, fold, normalise, unformatted
from tuneserve.errors import UsageError

_REASON = re.compile(rf"(?i){BECAUSE}|\b(?:since|car)\b")
_LEADING = re.compile(
    r"(?m)^[ \t>*_(\[]*(\w)"
    r"(?:[*_ \t]*(?!\.\d|,\d)[)\].:,;：、，。—–]|[*_]*\s(?:because|since|as)\b)"
)
_CLAUSE = re.compile(r"[.,;!?\n—。，；！？]")


def distinct_choices(named: Sequence[str], task: str, where: str = "bench.choices") -> list[str]:
    """The choices without those that are the same once normalised. Raises UsageError, naming where
    they come from, for fewer than two."""
    choices = list({normalise(choice): choice for choice in reversed(named)}.values())[::-1]
    if len(choices) < 2:
        there = f", and there is only {choices[0]!r}" if choices else ""
        raise UsageError(
            f"task '{task}' needs at least two choices{there}",
            where=where,
            hint="Name them, or leave the setting empty to use all reference answers.",
        )
    return choices


def choice_scorer(choices: Sequence[str]) -> Scorer:
    """Right if the choice that the answer settles on (`settled_choice`) is the reference. One that
    gives several (A or B) is right where all of them are references. Strictly, the answer is a
    choice and nothing else; leniently, it names the reference at all."""
    known = {normalise(choice): choice for choice in choices}

    def among(answer: str, references: Sequence[str]) -> Mark:
        wanted = set(map(normalise, references))
        bare = normalise(answer) in known
        answer = own_answer(answer, choices)
        named = _settle(answer, choices)
        given = {normalise(one) for one in (named.choice, *named.beside) if one is not None}
        score = float(bool(given) and given <= wanted)
        lenient = score or float(
            any(normalise(one.choice) in wanted for one in mentions(answer, choices))
        )
        return Mark(score, score if bare else 0.0, lenient, named.found)

    def problem(reference: str) -> str:
        if normalise(reference) in known:
            return ""
        return f"is none of the choices ({', '.join(shortened(c, 30) for c in choices[:8])})"

    return Scorer(lambda answer, reference: among(answer, [reference]), problem, among)


class _Settled(NamedTuple):
    """The `choice` that an answer settles on, None for none, and others that it gives `beside` it,
    with nothing that chooses between them: A or B."""

    choice: str | None
    found: Found
    beside: tuple[str, ...] = ()


def first_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer settles on, None if it names none."""
    return settled_choice(answer, choices)[0]


def sole_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that an answer is scored by; None if it names none, or gives several (A or B)."""
    named = _settle(own_answer(answer, choices), choices)
    return None if named.beside else named.choice


def settled_choice(answer: str, choices: Sequence[str]) -> tuple[str | None, Found]:
    """The choice that an answer settles on, and whether that was clear.

    In this order: the whole answer, \\boxed{}, behind "the answer is", a line of its own, the only
    one that is judged right (A: no. B: yes), of words the only one behind the last colon if it
    stands first there, or the one that is concluded on (`concluded`). Else of the choices named
    and not denied the first; of choices of one letter the last, since answers repeat the
    options and think aloud before they choose. One with a negation in its clause is
    not taken, but makes the answer unclear, as does one that takes back
    what was settled (A. Wait, actually B).
    """
    return _settle(own_answer(answer, choices), choices)[:2]


def own_answer(answer: str, choices: Sequence[str]) -> str:
    """An answer without the questions that it goes on to ask."""
    known = {normalise(choice): choice for choice in choices}
    return first_block(
        answer,
        lambda text: bool(_every_mention(text, choices)),
        lambda text: _is_answered(text, choices, known),
    )


def _settle(answer: str, choices: Sequence[str]) -> _Settled:
    known = {normalise(choice): choice for choice in choices}
    named = _settled(answer, choices, known)
    return _corrected(answer, named, choices) if named.choice else named


def _is_answered(text: str, choices: Sequence[str], known: dict[str, str]) -> bool:
    """Does a text say its answer, or begin with it?"""
    begins = text.strip().partition("\n")[0]
    if normalise(begins) in known or _leading(text, known) or boxed(text) is not None:
        return True
    return any(mentions(after, choices, sure=True) for _, after in announced(text))


def _corrected(answer: str, named: _Settled, choices: Sequence[str]) -> _Settled:
    """What an answer settles on that may take back what it named first. The choice that it decides
    on last counts; where it decides on none after it took something back, all that it named."""
    text = _source(answer, choices)
    found = last_correction(text, _every_mention(answer, choices, sure=True))
    # An answer that is announced behind it is what was named.
    if found is None or boxed(text[found.end :]) is not None or any(announced(text[found.end :])):
        return named
    if found.decided is not None:
        return _Settled(found.decided, "one")
    others = dict.fromkeys([*named.beside, *found.named])
    others.pop(named.choice or "", None)
    return _Settled(named.choice, "several", tuple(others)) if others else named


def _settled(answer: str, choices: Sequence[str], known: dict[str, str]) -> _Settled:
    if whole := known.get(normalise(answer)):
        return _Settled(whole, "one")
    inside = boxed(answer)
    if inside is not None:
        inside = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", inside)
        if whole := known.get(normalise(inside)):
            return _Settled(whole, "one")
        if named := mentions(inside, choices, sure=True):
            return _first(inside, named, choices)
    for sentence, after in announced(answer):
        # A? No, B: what is asked is no answer yet.
        asked = after[len(sentence) : len(sentence) + 1] == "?"
        for part in (after,) if asked else (sentence, after):
            if whole := known.get(normalise(part)):
                return _Settled(whole, "one")
            if named := mentions(part, choices, sure=True):
                return _first(part, named, choices)
    listed = [known.get(word) for word in normalise(answer).split()]
    if len(set(listed)) > 1 and None not in listed:  # "A B C D", in which A is no article
        chosen = listed[-1 if all(map(is_letter, choices)) else 0]
        return _Settled(chosen, "several", tuple({one for one in listed if one and one != chosen}))
    lines = [known[line] for line in map(normalise, answer.splitlines()) if line in known]
    if len(set(lines)) == 1:
        return _Settled(lines[0], "one")
    source = _source(answer, choices)
    every = [one for one in _every_mention(answer, choices) if not one.conceded]
    every = without_asked(source, every)
    right = {one.choice for one in every if one.judged}
    if len(right) == 1:
        return _Settled(right.pop(), "one")
    found = [one for one in every if not one.denied and not one.doubtful]
    short = all(is_letter(choice) for choice in choices)
    if len(found) > 1 and len(_together(answer, found, choices)) == len(found):
        return _of_several(found, found[-1 if short else 0].choice)
    denied = {one.choice for one in every if one.denied}
    if short and (leading := _leading(answer, known)) and leading not in denied:
        return _Settled(leading, "one")
    if not found:
        return _Settled(None, "none")
    if short:
        found = _before_reasons(source, found)
    chosen = found[-1 if short else 0].choice
    if not short:
        begins = known.get(normalise(_CLAUSE.split(answer.strip(), maxsplit=1)[0]))
        last = _behind_colon(answer, choices, known)
        if not (begins or last) and (said := concluded(source, every)):
            return _Settled(said, "one")
        chosen = last or chosen
    different = {one.choice for one in every if not one.denied}
    return _Settled(chosen, "one" if len(different) == 1 else "several")


def _before_reasons(text: str, found: list[Mention]) -> list[Mention]:
    """The mentions in front of the first reason, if there are any: C, because A is too small."""
    reason = _REASON.search(text, found[0].end)
    return [one for one in found if reason is None or one.end <= reason.start()]


def _behind_colon(answer: str, choices: Sequence[str], known: dict[str, str]) -> str | None:
    """The choice that stands right behind the last colon, if it is the only one there."""
    _, colon, behind = unformatted(answer).replace("：", ":").rpartition(":")
    first = known.get(normalise(_CLAUSE.split(behind.strip(), maxsplit=1)[0]))
    named = {one.choice for one in mentions(behind, choices)}
    return first if colon and named == {first} else None


def mentions(text: str, choices: Sequence[str], *, sure: bool = False) -> list[Mention]:
    """The choices that stand in a text as whole words and are neither denied nor doubtful, by
    place. `sure`: here a single letter is a choice, not a word."""
    every = _every_mention(text, choices, sure=sure)
    return [one for one in every if not one.denied and not one.doubtful]


def _every_mention(text: str, choices: Sequence[str], *, sure: bool = False) -> list[Mention]:
    """All of them, by place; where several begin at one place the longest."""
    plain = unformatted(text)
    folded = fold(plain)
    found: list[Mention] = []
    for choice in choices:
        if is_letter(choice):
            found += letters_of(plain, normalise(choice), choice, sure)
        else:
            found += _words(folded, normalise(choice), choice)
    taken: list[Mention] = []
    for one in sorted(found, key=lambda each: (each.start, each.start - each.end)):
        if not taken or one.start >= taken[-1].end:
            taken.append(one)
    source = _source(text, choices)
    return with_denials(source, without_idioms(source, taken))


def _source(text: str, choices: Sequence[str]) -> str:
    """The text in which the places of mentions are."""
    plain = unformatted(text)
    return plain if all(map(is_letter, choices)) else fold(plain)


def _leading(answer: str, known: dict[str, str]) -> str | None:
    """The letter that an answer begins with, as in 'B. Paris' and 'B, because …'; None where more
    lines begin so: they repeat the options."""
    found = [
        known[letter] for letter in map(normalise, _LEADING.findall(answer)) if letter in known
    ]
    first = _LEADING.match(answer.lstrip())
    return found[0] if len(found) == 1 and first and normalise(first[1]) in known else None


def _together(text: str, found: Sequence[Mention], choices: Sequence[str]) -> Sequence[Mention]:
    """The first of the mentions in a text with those that stand beside it (A or B)."""
    return first_list(_source(text, choices), found)


def _first(text: str, found: Sequence[Mention], choices: Sequence[str]) -> _Settled:
    """The first of the mentions in a text, and those that stand beside it."""
    return _of_several(_together(text, found, choices), found[0].choice)


def _of_several(found: Sequence[Mention], chosen: str) -> _Settled:
    """One of the mentions that stand side by side, with the others."""
    beside = tuple({one.choice: None for one in found if one.choice != chosen})
    return _Settled(chosen, "several" if beside else "one", beside)


def _words(folded: str, wanted: str, choice: str) -> list[Mention]:
    found: list[Mention] = []
    place = find_words(wanted, folded)
    while place is not None:
        if len(wanted) > 1 or not is_in_word(folded, place):
            found.append(Mention(choice, place, place + len(wanted)))
        place = find_words(wanted, folded, place + len(wanted))
    return found
