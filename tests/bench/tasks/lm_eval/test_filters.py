"""Filters and exact_match: what lm-eval 0.4.13 makes of the same answers (its results are written
down here)."""

from __future__ import annotations

from typing import Any

import pytest

from tuneserve.bench.tasks.lm_eval.config import FilterConfig, FilterStep, MetricConfig
from tuneserve.bench.tasks.lm_eval.documents import Document
from tuneserve.bench.tasks.lm_eval.filters import exact_match, make_filter

DOCUMENT = Document({"choices": ["Guilty", "Guilty of Romance", "Not guilty!"]}, "data:1")


def filtered(answer: str, *steps: dict[str, Any]) -> str:
    config = FilterConfig(name="own", filter=[FilterStep(**step) for step in steps])
    return make_filter(config, lambda *_: "place")(answer, DOCUMENT)


@pytest.mark.parametrize(
    ("answer", "settings", "found"),
    [
        ("Sum: #### 1,234. So", {}, "1,234."),
        ("nothing", {}, "[invalid]"),
        ("nothing", {"fallback": "?"}, "?"),
        ("5 then 7", {"regex_pattern": r"(\d)", "group_select": -1}, "7"),
        ("5 then 7", {"regex_pattern": r"(\d)", "group_select": 2}, "[invalid]"),
        ("it is B", {"regex_pattern": r"\((\w)\)|is (\w)"}, "B"),
        ("x", {"regex_pattern": r"(a?)(b?)x"}, "[invalid]"),
        ("x", {"regex_pattern": r"(a?)x"}, ""),
        ("  5 ", {"regex_pattern": r"( \d )"}, "5"),
    ],
)
def test_a_pattern(answer: str, settings: dict[str, Any], found: str) -> None:
    assert filtered(answer, {"function": "regex", **settings}) == found


def test_steps_follow_one_another() -> None:
    steps: list[dict[str, Any]] = [
        {"function": "remove_whitespace"}, {"function": "uppercase"},
        {"function": "map", "mapping_dict": {"YES": "1"}, "default_value": "0"},
        {"function": "take_first"},
    ]  # fmt: skip
    assert filtered(" yes\n", *steps) == "1"
    assert filtered("no", *steps) == "0"
    assert filtered("No", {"function": "lowercase"}, {"function": "majority_vote"}) == "no"


@pytest.mark.parametrize(
    ("answer", "settings", "found"),
    [
        ("The answer is (C).", {"regex_pattern": r"(\([A-Z]\))"}, "(C)"),
        ("It is Guilty of Romance", {}, "(B)"),
        ("NOT GUILTY", {"ignore_case": True, "ignore_punctuation": True}, "(C)"),
        ("Answer: B", {}, "(B)"),
        ("who knows", {}, "[invalid]"),
    ],
)
def test_the_letter_of_a_choice(answer: str, settings: dict[str, Any], found: str) -> None:
    assert filtered(answer, {"function": "multi_choice_regex", **settings}) == found


@pytest.mark.parametrize(
    ("answer", "settings", "score"),
    [
        ("Paris", {}, 1.0),
        ("paris", {}, 0.0),
        ("paris", {"ignore_case": True}, 1.0),
        ("Paris.", {"ignore_punctuation": True}, 1.0),
        ("Par1is", {"ignore_numbers": True}, 1.0),
        ("the Paris", {"regexes_to_ignore": ["the "]}, 1.0),
        ("Lutetia", {}, 1.0),
        ("Rome", {}, 0.0),
    ],
)
def test_exact_match(answer: str, settings: dict[str, Any], score: float) -> None:
    metric = MetricConfig(metric="exact_match", **settings)
    scorer = exact_match(metric, lambda text, _: text, DOCUMENT, ["Paris", "Lutetia"])
    assert scorer(answer, "") == score


def test_an_answer_in_which_nothing_is_found_is_counted() -> None:
    config = FilterConfig(name="own", filter=[FilterStep(function="regex")])
    apply = make_filter(config, lambda *_: "place")
    scorer = exact_match(MetricConfig(metric="exact_match"), apply, DOCUMENT, ["5"])
    assert scorer.mark("none", "").found == "none"
    assert scorer.mark("#### 5", "").found == "one"
