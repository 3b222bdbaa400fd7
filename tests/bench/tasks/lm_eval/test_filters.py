"""Filters and exact_match: what lm-eval 0.4.13 makes of the same answers (its results are written
down here)."""

from __future__ import annotations

from typing import Any

import pytest

from tuneserve.bench.tasks.lm_eval.config import FilterConfig, FilterStep, MetricConfig
from tuneserve.bench.tasks.lm_eval.documents import Document
from tuneserve.bench.tasks.lm_eval.filters import exact_match, make_filter
from tuneserve.bench.tasks.scorers import ScorerError
from tuneserve.bench.tasks.scorers.bounded_patterns import BoundedPatterns
from tuneserve.settings import BenchSettings

DOCUMENT = Document({"choices": ["Guilty", "Guilty of Romance", "Not guilty!"]}, "data:1")
PATTERNS = BoundedPatterns(BenchSettings(scorer_seconds=5), "task.yaml")


def filtered(answer: str, *steps: dict[str, Any]) -> str:
    config = FilterConfig(name="own", filter=[FilterStep(**step) for step in steps])
    return make_filter(config, lambda *_: "place", PATTERNS)(answer, DOCUMENT)


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
    scorer = exact_match(metric, lambda text, _: text, DOCUMENT, ["Paris", "Lutetia"], PATTERNS)
    assert scorer(answer, "") == score


def test_an_answer_in_which_nothing_is_found_is_counted() -> None:
    config = FilterConfig(name="own", filter=[FilterStep(function="regex")])
    apply = make_filter(config, lambda *_: "place", PATTERNS)
    scorer = exact_match(MetricConfig(metric="exact_match"), apply, DOCUMENT, ["5"], PATTERNS)
    assert scorer.mark("none", "").found == "none"
    assert scorer.mark("#### 5", "").found == "one"


ENDLESS = "a" * 40 + "!"
"""Takes (a+)+$ longer than the sun will shine."""


@pytest.mark.parametrize(
    "step",
    [
        {"function": "regex", "regex_pattern": "(a+)+$"},
        {"function": "multi_choice_regex", "regex_pattern": "(a+)+$"},
        {"function": "multi_choice_regex", "regexes_to_ignore": ["(a+)+$"]},
    ],
)
def test_a_pattern_that_takes_too_long_costs_one_answer(step: dict[str, Any]) -> None:
    patterns = BoundedPatterns(BenchSettings(scorer_seconds=0.3), "task.yaml")
    apply = make_filter(
        FilterConfig(name="own", filter=[FilterStep(**step)]), lambda *_: "place", patterns
    )
    with pytest.raises(ScorerError, match=r"the pattern '\(a\+\)\+\$' took longer") as caught:
        apply(ENDLESS, DOCUMENT)
    assert caught.value.where == "task.yaml"
    assert apply("Answer: A and aaa", DOCUMENT) in ("aaa", "(A)")


def test_a_pattern_that_takes_too_long_on_a_reference_is_refused() -> None:
    patterns = BoundedPatterns(BenchSettings(scorer_seconds=0.3), "task.yaml")
    metric = MetricConfig(metric="exact_match", regexes_to_ignore=["(a+)+$"])
    with pytest.raises(ScorerError, match=r"took longer than 0\.3 s"):
        exact_match(metric, lambda text, _: text, DOCUMENT, [ENDLESS], patterns)
