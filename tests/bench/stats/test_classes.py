"""Confusion and calibration, beside figures counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tuneserve.bench.stats.bootstrap import Bootstrap
from tuneserve.bench.stats.calibration import calibrate
from tuneserve.bench.stats.classes import confusion

NAMES = ["negative", "neutral", "positive"]


def test_confusion_precision_recall_and_f1() -> None:
    references = np.array([0] * 4 + [1] * 3 + [2] * 5)
    answers = np.array([0, 0, 2, 3, 2, 2, 1, 2, 2, 2, 2, 0])  # 3: none of the classes
    found = confusion("tuned", NAMES, references, answers, Bootstrap(np.arange(12)))
    assert found.counts == [[2, 0, 1, 1], [0, 1, 2, 0], [1, 0, 4, 0], [0, 0, 0, 0]]
    assert [(c.references, c.answers) for c in found.classes] == [(4, 3), (3, 1), (5, 7)]
    precision, recall, f1 = (
        [getattr(each, kind).value for each in found.classes]
        for kind in ("precision", "recall", "f1")
    )
    assert precision == pytest.approx([2 / 3, 1, 4 / 7])
    assert recall == pytest.approx([2 / 4, 1 / 3, 4 / 5])
    assert f1 == pytest.approx([4 / 7, 2 / 4, 8 / 12])
    assert found.macro_f1 == pytest.approx(np.mean(f1))
    for each in found.classes:
        for estimate in (each.precision, each.recall, each.f1):
            assert estimate is not None
            assert estimate.low is not None
            assert estimate.high is not None
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_a_class_without_answers_or_references_has_no_share_of_them() -> None:
    references, answers = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0])
    base = confusion("base", NAMES, references, answers, Bootstrap(np.arange(4)))
    negative, neutral, positive = base.classes
    assert negative.recall is not None
    assert negative.recall.value == 1.0
    assert neutral.precision is None
    assert neutral.f1 is not None
    assert neutral.f1.value == 0.0
    assert positive.precision is positive.recall is positive.f1 is None
    assert base.macro_f1 == pytest.approx((4 / 6 + 0) / 2)  # of the classes that occur


def test_calibration_by_hand() -> None:
    sure = np.array([0.35, 0.4, 0.95, 1.0, 0.92])
    right = np.array([0.0, 1.0, 1.0, 1.0, 0.0])
    found = calibrate("base", sure, right, Bootstrap(np.arange(5)))
    assert [(part.low, part.prompts) for part in found.bins] == [(0.3, 2), (0.9, 3)]
    low, high = found.bins
    assert (low.sure, low.right.value) == pytest.approx((0.375, 0.5))
    assert (high.sure, high.right.value) == pytest.approx((2.87 / 3, 2 / 3))
    assert found.ece == pytest.approx((2 * 0.125 + (2.87 - 2)) / 5)
