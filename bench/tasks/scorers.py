"""Score a generated answer, which its thoughts are split off from, against its reference.

A scorer gives 1.0 for a right answer and 0.0 for a wrong one; the graded ones (json, rouge_l,
chrf, python) anything between.
"""

from __future__ import annotations

import importlib
import json
import re
import runpy
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tuneserve.chat.examples import fold
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

_NUMBER = re.compile(
    r"(?:(?<!\w)[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)
_EDGE = " .,;:!?\"'`*_()[]{}“”‘’«»"
# The point of a number (.5) is no punctuation.
_START = re.compile(rf"\A(?:(?!\.\d)[{re.escape(_EDGE)}])+")

_FENCE = re.compile(r"\A```\w*\s*(.*?)\s*```\Z", re.DOTALL)
METRICS_HINT = "Install it: pip install 'tuneserve[bench]'"

Scorer = Callable[[str, str], float]
"""(answer, reference) -> score in [0, 1]"""


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
    """Text without what is ignored in a comparison: case, width, runs of space, punctuation at the
    ends; what is nothing but punctuation stays as it is."""
    folded = fold(text)
    return _START.sub("", folded.rstrip(_EDGE)) or folded


def exact(answer: str, reference: str) -> float:
    """The same text once both are normalised."""
    return float(normalise(answer) == normalise(reference))


def contains(answer: str, reference: str) -> float:
    """The reference stands in the answer as whole words, both normalised."""
    wanted = normalise(reference)
    if not wanted:
        return float(not normalise(answer))
    return float(_find_words(wanted, fold(answer)) is not None)


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
        return 0.0 if named is None else exact(named, reference)

    return first_named


def first_choice(answer: str, choices: list[str]) -> str | None:
    """The choice named first, as whole words; the longest of those that begin together."""
    text = fold(answer)
    places = [(_find_words(normalise(choice), text), choice) for choice in choices]
    named = [(place, -len(choice), choice) for place, choice in places if place is not None]
    return min(named)[2] if named else None


def _find_words(wanted: str, text: str) -> int | None:
    found = re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text)
    return found.start() if found else None


def json_fields(answer: str, reference: str) -> float:
    """Share of fields that are equal, of all that either side has; 0 where either is no JSON.

    A field is a leaf with its path; numbers are equal by value (1 and 1.0), lists by position.
    """
    try:
        given, wanted = (dict(_leaves(_parse_json(text))) for text in (answer, reference))
    except (ValueError, RecursionError):
        return 0.0
    paths = given.keys() | wanted.keys()
    equal = sum(
        path in given and path in wanted and _same(given[path], wanted[path]) for path in paths
    )
    return equal / len(paths)


def _parse_json(text: str) -> Any:
    fenced = _FENCE.match(text.strip())
    return json.loads(fenced.group(1) if fenced else text)


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """(path, value) of every leaf; an empty object or list is a leaf."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, (*path, key))
    elif isinstance(value, list) and value:
        for place, part in enumerate(value):
            yield from _leaves(part, (*path, place))
    else:
        yield path, value


def _same(first: Any, second: Any) -> bool:
    # Python's True equals 1; JSON's does not.
    return isinstance(first, bool) == isinstance(second, bool) and bool(first == second)


def rouge_l_scorer() -> Scorer:
    """ROUGE-L F1 (Lin 2004) with stemming, from the rouge-score package."""
    module = _optional("rouge_score.rouge_scorer", "rouge-score")
    scorer = module.RougeScorer(["rougeL"], use_stemmer=True)
    return lambda answer, reference: float(scorer.score(reference, answer)["rougeL"].fmeasure)


def chrf_scorer() -> Scorer:
    """chrF (Popović 2015) of each answer, in [0, 1], from the sacrebleu package."""
    metric = _optional("sacrebleu.metrics", "sacrebleu").CHRF()

    def chrf(answer: str, reference: str) -> float:
        return min(1.0, float(metric.sentence_score(answer, [reference]).score) / 100)

    return chrf


def _optional(module: str, package: str) -> Any:
    """A module of the extra 'bench', or UsageError saying how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(
            f"this task needs the package {package}", where="bench.task", hint=METRICS_HINT
        ) from None


def python_scorer(place: str) -> Scorer:
    """The user's own function, named as 'file.py:function': (answer, reference) -> bool or number
    from 0 to 1. The file is run: it is the user's own code, like a Makefile."""
    path_text, _, name = place.rpartition(":")
    if not path_text or not name.isidentifier():
        raise UsageError(
            f"task 'python' needs a function as 'file.py:function' (got '{place}')",
            where="bench.scorer",
        )
    path = Path(path_text)
    if not path.is_file() or path.suffix != ".py":
        raise UsageError("no such Python file", where=f"bench.scorer: {path}")
    try:
        function = runpy.run_path(str(path), run_name="tuneserve_user_scorer").get(name)
    except Exception as error:
        raise UsageError(f"can't be run: {_said(error)}", where=f"bench.scorer: {path}") from error
    if not callable(function):
        raise UsageError(f"has no function '{name}'", where=f"bench.scorer: {path}")

    where = f"bench.scorer: {place}"

    def scored(answer: str, reference: str) -> float:
        try:
            returned = function(answer, reference)
        except Exception as error:
            raise UsageError(f"failed: {_said(error)}", where=where) from error
        try:
            score = float(returned)
        except (TypeError, ValueError):
            raise UsageError(
                f"returned {returned!r:.40}, which is no number", where=where
            ) from None
        if not 0.0 <= score <= 1.0:
            raise UsageError(f"returned {score}, which is not between 0 and 1", where=where)
        return score

    return scored


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
