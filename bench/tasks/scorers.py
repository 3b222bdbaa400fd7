"""Score a generated answer against its reference; thoughts are split off first.

A scorer gives 1.0 for a right answer and 0.0 for a wrong one; the graded ones (json, rouge_l,
chrf, python) anything between.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tuneserve.bench.tasks.graded import chrf_scorer, json_fields, python_scorer, rouge_l_scorer
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings
from tuneserve.thoughts import CLOSE, OPEN

_NUMBER = re.compile(
    r"(?:(?<!\w)[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)
_EDGE = " .,;:!?\"'`*_()[]{}“”‘’«»"
# The point of a number (.5) is no punctuation.
_START = re.compile(rf"\A(?:(?!\.\d)[{re.escape(_EDGE)}])+")

Scorer = Callable[[str, str], float]
"""(answer, reference) -> score in [0, 1]"""


@dataclass(frozen=True)
class SplitAnswer:
    """What a model thought and what it answered; `cut_off` if the thought never ended."""

    thought: str
    answer: str
    cut_off: bool = False


def split_thought(text: str, *, opened: bool = False) -> SplitAnswer:
    """Split `<think>…</think>` off the front of a generated text.

    `opened`: the prompt itself ended inside a thought, as R1's templates do, so the text begins
    in one. A thought that never ends leaves no answer to score.
    """
    body = text.lstrip()
    inside = opened
    if body.startswith(OPEN):
        body, inside = body[len(OPEN) :], True
    thought, end, answer = body.partition(CLOSE)
    if end and (inside or OPEN not in thought):
        return SplitAnswer(thought.strip(), answer.strip())
    if inside:
        return SplitAnswer(body.strip(), "", cut_off=True)
    return SplitAnswer("", text.strip())


def make_scorer(settings: BenchSettings, references: Iterable[str]) -> Scorer:
    """The scorer of `settings.task`. Raises UsageError where it lacks what it needs.

    `references` are all reference answers: the choices, where the settings name none.
    """
    match settings.task:
        case "exact" | "likelihood" | "likelihood_per_token":
            return exact
        case "contains":
            return contains
        case "number":
            return number_scorer(settings.tolerance)
        case "regex":
            return pattern_scorer(settings.pattern)
        case "choice":
            return choice_scorer(list_choices(settings, references))
        case "json":
            return json_fields
        case "rouge_l":
            return rouge_l_scorer()
        case "chrf":
            return chrf_scorer()
        case "python":
            return python_scorer(settings.scorer)


def list_choices(settings: BenchSettings, references: Iterable[str]) -> list[str]:
    """The answers to choose from: those of the settings, or all different references."""
    choices = list(settings.choices) or sorted(set(references))
    if len(choices) < 2:
        raise UsageError(
            f"task '{settings.task}' needs at least two choices",
            where="bench.choices",
            hint="Name them, or leave the setting empty to use all reference answers.",
        )
    return choices


def normalise(text: str) -> str:
    """Text without what should not decide: case, width, runs of space, punctuation at the ends;
    what is nothing but punctuation stays as it is."""
    folded = _folded(text)
    return _START.sub("", folded.rstrip(_EDGE)) or folded


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def exact(answer: str, reference: str) -> float:
    """The same text once both are normalised."""
    return float(normalise(answer) == normalise(reference))


def contains(answer: str, reference: str) -> float:
    """The reference stands in the answer as whole words, both normalised."""
    wanted = normalise(reference)
    if not wanted:
        return float(not normalise(answer))
    return float(_find_words(wanted, _folded(answer)) is not None)


def number_scorer(tolerance: float) -> Scorer:
    """The last number in the answer equals the reference's, within a relative tolerance."""

    def number(answer: str, reference: str) -> float:
        wanted, given = last_number(reference), last_number(answer)
        if wanted is None or given is None:
            return 0.0
        return float(abs(given - wanted) <= tolerance * max(abs(wanted), abs(given)))

    return number


def last_number(text: str) -> float | None:
    """The last number written in `text` ('1,234.5', '-3', '2e5'), or None."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def pattern_scorer(pattern: str) -> Scorer:
    """What the pattern captures last (its first group, or the whole match) is the same in answer
    and reference, normalised. A reference without a match counts as what was captured."""
    if not pattern:
        raise UsageError(
            "task 'regex' needs a pattern",
            where="bench.pattern",
            hint=r"For example: pattern = 'Answer: *(\w+)'",
        )
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"not a regular expression: {error}", where="bench.pattern") from error

    def captured(text: str) -> str | None:
        matches = list(compiled.finditer(text))
        return matches[-1].group(1 if compiled.groups else 0) if matches else None

    def same_capture(answer: str, reference: str) -> float:
        given, wanted = captured(answer), captured(reference)
        if given is None:
            return 0.0
        return exact(given, reference if wanted is None else wanted)

    return same_capture


def choice_scorer(choices: list[str]) -> Scorer:
    """The first of the choices that the answer names is the reference."""

    def first_named(answer: str, reference: str) -> float:
        named = first_choice(answer, choices)
        return float(named is not None and normalise(named) == normalise(reference))

    return first_named


def first_choice(answer: str, choices: list[str]) -> str | None:
    """The choice named first, as whole words; the longest of those that begin together."""
    text = _folded(answer)
    places = [(_find_words(normalise(choice), text), choice) for choice in choices]
    named = [(place, -len(choice), choice) for place, choice in places if place is not None]
    return min(named)[2] if named else None


def _find_words(wanted: str, text: str) -> int | None:
    found = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text)
    return found.start() if found else None
