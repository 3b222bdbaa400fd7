"""The general questions: every reference is right, by program where a program can tell."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tuneserve.bench.tasks.general import general_task, kind_of, read_questions, scorer_of

QUESTIONS = read_questions()
NAMES = [question["id"] for question in QUESTIONS]


def score(question: dict[str, Any], answer: str) -> float:
    return scorer_of(question)(answer, question["answer"])


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [question for question in QUESTIONS if kind_of(question) in kinds]


def test_there_are_enough_of_several_kinds() -> None:
    assert len(QUESTIONS) >= 200
    assert len(set(NAMES)) == len({question["prompt"] for question in QUESTIONS}) == len(QUESTIONS)
    sizes = {kind: len(of_kind(kind)) for kind in map(kind_of, QUESTIONS)}
    assert len(sizes) >= 8
    assert min(sizes.values()) >= 20


@pytest.mark.parametrize("question", QUESTIONS, ids=NAMES)
def test_the_reference_is_right_and_others_are_not(question: dict[str, Any]) -> None:
    assert score(question, question["answer"]) == 1.0
    assert score(question, f" {question['answer']}\n") == 1.0
    for accepted in question.get("also", []):
        assert score(question, accepted) == 1.0
    wrong = ["", "positive", "I do not know.", *question.get("choices", [])]
    if question["score"] == "match":
        wrong = ["", "I cannot do that, sorry, for Many reasons.\n\nReally not", question["wrong"]]
    for answer in wrong:
        if answer != question["answer"]:
            assert score(question, answer) == 0.0, answer


@pytest.mark.parametrize(
    "question", [question for question in QUESTIONS if "check" in question], ids=lambda q: q["id"]
)
def test_the_check_gives_the_reference(question: dict[str, Any]) -> None:
    found = eval(question["check"])  # our own file's expressions
    if question["score"] == "number":
        assert float(found) == float(question["answer"])
        given = set(re.findall(r"\d+(?:\.\d+)?", question["prompt"].replace("a quarter", "1 4")))
        words = {"half": "2", "Double": "2", "square": "2", "Three": "3", "1 book": "1"}
        given |= {number for word, number in words.items() if word in question["prompt"]}
        # A week has seven days, and 100 is in every percentage.
        given |= {"7", "100"}
        used = set(re.findall(r"\d+(?:\.\d+)?", question["check"]))
        assert used <= given, used - given
    else:
        assert found == question["answer"]


def test_what_is_read_or_extracted_stands_in_the_text() -> None:
    for question in of_kind("reading", "extraction"):
        text, _, asked = question["prompt"].partition("\n\n")
        assert asked
        parts = [question["answer"]]
        if question["score"] == "json":
            parts = [str(value) for value in json.loads(question["answer"]).values()]
        # Two answers are one word further on: from Monday to Mondays, from 9 o'clock to nine.
        assert all(part in text for part in parts), question["id"]


def test_choices_are_named_in_the_question() -> None:
    for question in QUESTIONS:
        choices = question.get("choices", [])
        assert all(choice.lower() in question["prompt"].lower() for choice in choices)
        assert not choices or question["answer"] in choices


def test_fewer_questions_are_still_of_all_kinds() -> None:
    task = general_task(18, 8)
    assert len(task.examples) == 18
    assert {example.group for example in task.examples} == set(map(kind_of, QUESTIONS))
    assert task.max_tokens >= 48
    assert len(general_task(1000, 600).examples) == len(QUESTIONS)
