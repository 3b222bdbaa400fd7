"""Tasks whose answers are one of a few classes: what was mistaken for what, and how sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from tuneserve.bench.compare.analysis import bootstrap_of, responses, scores_of
from tuneserve.bench.compare.pairs import Pair, Response
from tuneserve.bench.compare.results import ClassComparison
from tuneserve.bench.stats.bootstrap import IntArray
from tuneserve.bench.stats.calibration import Calibration, calibrate
from tuneserve.bench.stats.classes import confusion
from tuneserve.bench.tasks.scorers import list_choices, normalise
from tuneserve.bench.tasks.scorers.choices import sole_choice
from tuneserve.bench.tasks.tasks import reference_of
from tuneserve.settings import BenchSettings

R = TypeVar("R", bound=Response)

MOST_CLASSES = 20  # more make no table that can be read
PROMPTS_A_CLASS = 3  # on average; below that references are texts rather than classes


def with_classes(pairs: Sequence[Pair], settings: BenchSettings) -> list[Pair]:
    """The pairs with the class that each answer names, where the task has classes."""
    names = class_names([reference_of(pair.example) for pair in pairs], settings)
    if not names:
        return list(pairs)
    read = class_reader(names, settings)

    def marked(response: R) -> R:
        return replace(response, read=read(response.text) or "")

    return [
        replace(
            pair,
            base=marked(pair.base),
            tuned=marked(pair.tuned),
            others={name: marked(response) for name, response in pair.others.items()},
        )
        for pair in pairs
    ]


def compare_classes(pairs: Sequence[Pair], settings: BenchSettings) -> ClassComparison | None:
    """Confusion, precision, recall and F1 of every model, of pairs `with_classes`; None where the
    task has none."""
    references = [reference_of(pair.example) for pair in pairs]
    if not (names := class_names(references, settings)):
        return None
    bootstrap = bootstrap_of([pair.example.source for pair in pairs], settings)
    same = same_class(names)
    wanted = _numbers([same(reference) for reference in references], names)
    return ClassComparison(
        names,
        [
            confusion(model, names, wanted, _numbers([a.read for a in answers], names), bootstrap)
            for model, answers in responses(pairs).items()
        ],
    )


def class_names(references: Sequence[str], settings: BenchSettings) -> list[str]:
    """The classes that the references fall into; empty where they are no classes."""
    if settings.separator:  # several references to a prompt
        return []
    if settings.task in ("choice", "likelihood", "likelihood_per_token"):
        names = list_choices(settings, references)
    elif settings.task == "exact":
        first: dict[str, str] = {}
        for reference in references:
            first.setdefault(normalise(reference), reference)
        names = sorted(first.values())
        if len(references) < PROMPTS_A_CLASS * len(names):
            return []
    else:
        return []
    return names if 2 <= len(names) <= MOST_CLASSES else []


def class_reader(names: Sequence[str], settings: BenchSettings) -> Callable[[str], str | None]:
    """Which class an answer names, as the task's scorer reads it; None for none or several."""
    if settings.task == "choice":
        return lambda answer: sole_choice(answer, names)
    return same_class(names)


def compare_calibration(pairs: Sequence[Pair], settings: BenchSettings) -> list[Calibration]:
    """How sure each model is of its choices beside how often it is right; empty where answers are
    generated."""
    bootstrap = bootstrap_of([pair.example.source for pair in pairs], settings)
    return [
        calibrate(
            model,
            np.array([max(answer.probabilities.values()) for answer in answers]),
            scores_of(answers),
            bootstrap,
        )
        for model, answers in responses(pairs).items()
        if answers[0].probabilities
    ]


def same_class(names: Sequence[str]) -> Callable[[str], str | None]:
    """Which class a text is, but for what scoring ignores; None for none of them."""
    forms = {normalise(name): name for name in reversed(names)}
    return lambda text: forms.get(normalise(text))


def _numbers(found: Sequence[str | None], names: Sequence[str]) -> IntArray:
    """The number of each class, len(names) for none: [prompts]."""
    places: dict[str | None, int] = {name: place for place, name in enumerate(names)}
    return np.array([places.get(name, len(names)) for name in found], dtype=np.int64)
