"""Score a generated answer, which its thoughts are split off from, against its reference.

A scorer gives 1.0 for a right answer and 0.0 for a wrong one; the graded ones (json, labels,
rouge_l, chrf, python) anything between. Beside the score stand a stricter and a more lenient
reading of the same answer, and how much of what was asked for was found in it
(`marks.Mark`).
"""

from __future__ import annotations

from collections.abc import Iterable

from tuneserve.bench.tasks.scorers.choices import (
    choice_scorer,
    distinct_choices,
    first_choice,
)
from tuneserve.bench.tasks.scorers.json_fields import json_fields, json_scorer
from tuneserve.bench.tasks.scorers.labels import labels_of, labels_scorer
from tuneserve.bench.tasks.scorers.marks import (
    Found,
    Mark,
    Scorer,
    ScorerError,
    against_any,
    best_mark,
    parts_of,
)
from tuneserve.bench.tasks.scorers.numbers import last_number, number_scorer
from tuneserve.bench.tasks.scorers.overlap import chrf_scorer, rouge_l_scorer
from tuneserve.bench.tasks.scorers.patterns import pattern_scorer
from tuneserve.bench.tasks.scorers.python_file import python_scorer, scorer_files, try_out
from tuneserve.bench.tasks.scorers.texts import normalise
from tuneserve.bench.tasks.scorers.words import CONTAINS, EXACT, contains, exact
from tuneserve.settings import BenchSettings

__all__ = [
    "CONTAINS",
    "EXACT",
    "Found",
    "Mark",
    "Scorer",
    "ScorerError",
    "best_mark",
    "choice_scorer",
    "contains",
    "exact",
    "first_choice",
    "json_fields",
    "json_scorer",
    "last_number",
    "list_choices",
    "make_scorer",
    "normalise",
    "number_scorer",
    "pattern_scorer",
    "python_scorer",
    "require_references",
    "scorer_files",
]


def make_scorer(settings: BenchSettings, references: Iterable[str], where: str = "") -> Scorer:
    """The scorer of `settings.task`. Raises UsageError where it lacks what it needs.

    `references` are all reference answers, which begin at `where` ('file:line'): the choices, where
    the settings name none.
    """
    scorer = _scorer(settings, references, where)
    return against_any(scorer, settings.separator) if settings.separator else scorer


def _scorer(settings: BenchSettings, references: Iterable[str], where: str) -> Scorer:
    match settings.task:
        case "exact":
            return EXACT
        case "contains":
            return CONTAINS
        case "number":
            return number_scorer(settings.tolerance)
        case "regex":
            return pattern_scorer(settings.pattern, settings)
        case "choice" | "likelihood" | "likelihood_per_token":
            return choice_scorer(list_choices(settings, references, where))
        case "labels":
            return labels_scorer(list_choices(settings, references, where))
        case "json":
            return json_scorer(unordered=settings.unordered)
        case "rouge_l":
            return rouge_l_scorer()
        case "chrf":
            return chrf_scorer()
        case "python":
            return python_scorer(settings.scorer, settings)


def list_choices(settings: BenchSettings, references: Iterable[str], where: str = "") -> list[str]:
    """The answers to choose from: those of the settings, or all different references (of task
    labels, all that stand in their lists). Raises UsageError for fewer than two."""
    named = list(settings.choices)
    if not named:
        each = list(references)
        if settings.separator:
            each = [part for one in each for part in parts_of(one, settings.separator)]
        named = labels_of(each) if settings.task == "labels" else sorted(set(each))
    named_in = where if where and not settings.choices else "bench.choices"
    return distinct_choices(named, settings.task, named_in)


def reference_hint(settings: BenchSettings) -> str:
    """What to do about references that can't be scored against."""
    match settings.task:
        case "number":
            return "Correct them, or choose a task for texts: --task exact, contains."
        case "choice" | "likelihood" | "likelihood_per_token" | "labels":
            return "Name every choice: --choices; of task labels none may be missing."
        case _:
            return "Correct them, or choose another task."


def require_references(
    settings: BenchSettings, scorer: Scorer, references: list[tuple[str, str]], where: str
) -> None:
    """Raise UsageError naming every (id, reference) that no answer can be scored against, or where
    the user's own scorer or pattern fails on answers made up for it."""
    scorer.require_references(references, where, reference_hint(settings))
    if settings.task in ("python", "regex"):
        # The user's own code or pattern: what is wrong with it shall come out before anything is
        # measured.
        try_out(scorer, [reference for _, reference in references])
