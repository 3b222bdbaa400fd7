"""Which tasks have classes, and what an answer is read as."""

from __future__ import annotations

import pytest

from tuneserve.bench.compare.classes import (
    class_names,
    compare_calibration,
    compare_classes,
    with_classes,
)
from tuneserve.bench.compare.pairs import Answer, Pair
from tuneserve.bench.tasks.scorers import make_scorer
from tuneserve.chat.examples import Example
from tuneserve.settings import BenchSettings


def answer(text: str, probabilities: dict[str, float] | None = None) -> Answer:
    right = float(text == "yes")
    return Answer(text, "", False, right, "stop", 1, 1.0, 1, probabilities=probabilities or {})


def pairs(base: str, tuned: str, reference: str = "yes", count: int = 6) -> list[Pair]:
    return [
        Pair(Example.of_turn(f"{reference}{n}", "q", reference), answer(base), answer(tuned))
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("task", "references", "names"),
    [
        ("exact", ["Yes", "yes.", "no", "No", "no", "yes"], ["Yes", "no"]),
        ("exact", ["one text", "another", "a third"], []),  # texts, not classes
        ("exact", ["yes"] * 9, []),
        ("number", ["1", "2", "1", "2", "1", "2"], []),
        ("choice", ["b", "a"], ["a", "b"]),
        ("likelihood", ["b", "a"], ["a", "b"]),
        ("choice", [str(n) for n in range(50)], []),  # no table of 50 columns
    ],
)
def test_class_names(task: str, references: list[str], names: list[str]) -> None:
    assert class_names(references, BenchSettings.model_validate({"task": task})) == names


def test_answers_are_read_as_the_scorer_reads_them() -> None:
    rows = [*pairs("I say yes", "No."), *pairs("what?", "no", reference="no")]
    settings = BenchSettings(task="choice", bootstrap=1000)
    read = with_classes(rows, settings)
    assert [pair.base.read for pair in read] == ["yes"] * 6 + [""] * 6
    assert {pair.tuned.read for pair in read} == {"no"}
    found = compare_classes(read, settings)
    assert found is not None
    base, tuned = found.models
    assert base.counts == [[0, 0, 6], [0, 6, 0], [0, 0, 0]]  # no, yes, none of them
    assert tuned.counts == [[6, 0, 0], [6, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("text", ["yes", "yes or no", "no. Wait, yes", "yes. Wait, maybe no", "no"])
def test_the_matrix_counts_as_right_what_the_scorer_does(text: str) -> None:
    settings = BenchSettings(task="choice", choices=("yes", "no"), bootstrap=1000)
    scored = make_scorer(settings, [])(text, "yes")
    rows = with_classes(pairs(text, text), settings)
    found = compare_classes(rows, settings)
    assert found is not None
    right = sum(found.models[0].counts[place][place] for place in range(2))
    assert right == scored * len(rows)


def test_calibration_only_where_choices_have_probabilities() -> None:
    assert compare_calibration(pairs("yes", "no"), BenchSettings()) == []
    sure = [
        Pair(
            Example.of_turn("q", "q", "yes"),
            answer("yes", {"yes": 0.8, "no": 0.2}),
            answer("no", {"yes": 0.3, "no": 0.7}),
        )
    ]
    base, tuned = compare_calibration(sure, BenchSettings(task="likelihood"))
    assert (base.model, tuned.model) == ("base", "tuned")
    assert (base.ece, tuned.ece) == pytest.approx((0.2, 0.7))
