"""Confusion matrix of answers that name one of a few classes; precision, recall and F1 by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tuneserve.bench.stats import intervals
from tuneserve.bench.stats.bootstrap import Bootstrap, Estimate, FloatArray, IntArray

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ClassFigures:
    """One class: `references` prompts have it as their reference, `answers` named it.

    Precision is None where no answer names the class, recall where no reference does; F1 where
    neither does.
    """

    name: str
    references: int
    answers: int
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate | None


@dataclass(frozen=True)
class Confusion:
    """One model's answers by class: `counts[reference][answer]`, where the last row and column
    are references and answers that are none of the classes. `macro_f1` is the mean F1 of the
    classes."""

    model: str
    counts: list[list[int]]
    classes: list[ClassFigures]
    macro_f1: float


def confusion(
    model: str,
    names: Sequence[str],
    references: IntArray,
    answers: IntArray,
    bootstrap: Bootstrap,
) -> Confusion:
    """`references` and `answers`, [prompts] each, are numbers of classes; len(names) stands for
    none of them."""
    counts = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64)
    np.add.at(counts, (references, answers), 1)
    classes = [
        _figures(name, references == number, answers == number, bootstrap)
        for number, name in enumerate(names)
    ]
    known = [found.f1.value for found in classes if found.f1]
    return Confusion(model, counts.tolist(), classes, float(np.mean(known)) if known else 0.0)


def _figures(name: str, wanted: Mask, given: Mask, bootstrap: Bootstrap) -> ClassFigures:
    """Of the class that the prompts marked in `wanted` have, and the answers in `given` name."""
    right = (wanted & given).astype(np.float64)
    return ClassFigures(
        name,
        references=int(wanted.sum()),
        answers=int(given.sum()),
        precision=share_among(right, given, bootstrap),
        recall=share_among(right, wanted, bootstrap),
        f1=_f1(right, wanted, given, bootstrap),
    )


def share_among(right: FloatArray, among: Mask, bootstrap: Bootstrap) -> Estimate | None:
    """The share of right ones among the marked prompts, as an accuracy with its interval; None
    where none is marked."""
    if not among.any():
        return None
    _, clusters = np.unique(bootstrap.clusters[among], return_inverse=True)
    part = replace(bootstrap, clusters=clusters)
    return intervals.accuracy(right[among], part)


def _f1(right: FloatArray, wanted: Mask, given: Mask, bootstrap: Bootstrap) -> Estimate | None:
    """2J / (1 + J), where J is the share of right ones among the prompts that have the class as
    their reference or their answer; the ends of its interval likewise."""
    shared = share_among(right, wanted | given, bootstrap)
    if shared is None:
        return None
    value, low, high = (
        None if share is None else 2 * share / (1 + share)
        for share in (shared.value, shared.low, shared.high)
    )
    assert value is not None
    return Estimate(value, low, high, shared.why_not)
