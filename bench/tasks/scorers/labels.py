"""Task labels: the set of labels that an answer names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tuneserve.bench.tasks.scorers.choices import mentions, own_answer
from tuneserve.bench.tasks.scorers.marks import Found, Mark, Scorer, shortened
from tuneserve.bench.tasks.scorers.texts import normalise


def labels_scorer(choices: Sequence[str]) -> Scorer:
    """Several labels for each prompt, in any order: F1 of the set that the answer names against the
    reference's set. Strictly, both sets are equal."""
    known = {normalise(choice): choice for choice in choices}

    def mark(answer: str, reference: str) -> Mark:
        answer = own_answer(answer, choices)
        wanted = set(_listed(reference, known))
        given = {normalise(one.choice) for one in mentions(answer, choices)}
        parts = {normalise(part) for part in _parts(answer)}
        if parts and parts <= known.keys():
            given = parts
        common = len(wanted & given)
        score = 2 * common / (len(wanted) + len(given)) if wanted or given else 1.0
        found: Found = "one" if given or not wanted else "none"
        return Mark(score, float(wanted == given), float(wanted <= given), found)

    def problem(reference: str) -> str:
        unknown = [part for part in _parts(reference) if normalise(part) not in known]
        return f"{shortened(unknown[0], 30)} is none of the choices" if unknown else ""

    return Scorer(mark, problem)


def labels_of(references: Sequence[str]) -> list[str]:
    """Every label that stands in the references, lists separated by commas, semicolons or lines."""
    return sorted({part for reference in references for part in _parts(reference)})


def _listed(reference: str, known: dict[str, str]) -> list[str]:
    return [normalise(part) for part in _parts(reference) if normalise(part) in known]


def _parts(text: str) -> list[str]:
    inner = text.strip().strip("[]{}()")
    parts = re.split(r"[,;|\n，；、،؛]", inner)
    return [stripped for part in parts if (stripped := part.strip(" \t'\"`*-•"))]
