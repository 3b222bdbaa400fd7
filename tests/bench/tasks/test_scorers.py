"""Texts normalised, answers scored."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.bench.tasks.scorers import (
    contains,
    exact,
    first_choice,
    last_number,
    make_scorer,
    normalise,
)
from tuneserve.bench.tasks.tasks import held_out_task
from tuneserve.chat.examples import Example
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Positive.", "positive", True),
        ("  **Positive**\n", "positive", True),
        ("ｐｏｓｉｔｉｖｅ", "positive", True),
        ("not positive", "positive", False),
        ("", "positive", False),
        ("New   York", "new york", True),
        ("", "[]", False),
        ("...", "{}", False),
        ("{ }", "{}", False),
        ("[]", "[]", True),
        (".5", "5", False),
        ("(.5).", ".5", True),
    ],
)
def test_exact(answer: str, reference: str, right: bool) -> None:
    assert exact(answer, reference) == right


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("The answer is Paris.", "paris", True),
        ("Parisian", "paris", False),
        ("C++ is it", "C++", True),
        ("anything", "", False),
        ("...", "{}", False),
        ("It is {}.", "{}", True),
    ],
)
def test_contains(answer: str, reference: str, right: bool) -> None:
    assert contains(answer, reference) == right


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("It costs $1,234.50 in all", 1234.5),
        ("first 3, then -4", -4.0),
        ("pages 3-5", 5.0),
        ("1.5e3 m", 1500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("In 2020, 500 came", 500.0),
        ("1,2,3", 3.0),
        ("-", None),
        ("e5", 5.0),
        ("", None),
    ],
)
def test_last_number(text: str, value: float | None) -> None:
    assert last_number(text) == value


@given(st.text())
def test_any_text_has_a_last_number_or_none(text: str) -> None:
    value = last_number(text)
    assert value is None or isinstance(value, float)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_equals_itself_however_it_is_wrapped(value: float) -> None:
    number = make_scorer(BenchSettings(task="number"), [])
    assert number(f"So the result is {value!r}", repr(value)) == 1.0


def test_number_needs_a_number_on_both_sides_and_keeps_the_tolerance() -> None:
    number = make_scorer(BenchSettings(task="number", tolerance=0.01), [])
    assert number("none", "3") == number("3", "none") == 0.0
    assert number("3.02", "3") == 1.0
    assert number("3.1", "3") == 0.0


def test_a_pattern_captures_the_answer() -> None:
    scorer = make_scorer(BenchSettings(task="regex", pattern=r"Answer: *(\w+)"), [])
    assert scorer("Answer: B. No: Answer: C", "So, Answer: c") == 1.0
    assert scorer("Answer: B", "B") == 1.0
    assert scorer("it is B", "Answer: B") == 0.0
    with pytest.raises(UsageError, match="needs a pattern"):
        make_scorer(BenchSettings(task="regex"), [])
    with pytest.raises(UsageError, match="not a regular expression"):
        make_scorer(BenchSettings(task="regex", pattern="("), [])


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("It is positive, not negative.", "positive"),
        ("NEGATIVE", "negative"),
        ("very positive indeed", "very positive"),
        ("positively", None),
        ("", None),
    ],
)
def test_the_first_choice_named_counts(answer: str, choice: str | None) -> None:
    assert first_choice(answer, ["positive", "negative", "very positive"]) == choice


def test_choices_are_the_references_where_none_are_given() -> None:
    scorer = make_scorer(BenchSettings(task="choice"), ["yes", "no", "yes"])
    assert scorer("Yes, that is so; no doubt.", "yes") == 1.0
    assert scorer("No.", "yes") == 0.0
    with pytest.raises(UsageError, match="at least two choices"):
        make_scorer(BenchSettings(task="choice"), ["yes", "yes"])


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ('{"a": 1, "b": [1, 2]}', '{"b": [1, 2], "a": 1.0}', 1.0),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 1.0),
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', 0.5),
        ('{"a": 1, "c": 2}', '{"a": 1, "b": 2}', 1 / 3),
        ('{"a": true}', '{"a": 1}', 0.0),
        ("{}", "{}", 1.0),
        ("{}", '{"a": 1}', 0.0),
        ("not json", '{"a": 1}', 0.0),
        ("[" * 100_000, "[]", 0.0),
    ],
)
def test_json_is_scored_by_field(answer: str, reference: str, score: float) -> None:
    scorer = make_scorer(BenchSettings(task="json"), [])
    assert scorer(answer, reference) == pytest.approx(score)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values)
def test_json_score_is_a_share_and_full_for_itself(first: object, second: object) -> None:
    scorer = make_scorer(BenchSettings(task="json"), [])
    one, other = json.dumps(first), json.dumps(second)
    assert scorer(one, one) == 1.0
    assert 0.0 <= scorer(one, other) == scorer(other, one) <= 1.0


def test_a_metric_without_its_package_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(UsageError, match="needs the package sacrebleu") as caught:
        make_scorer(BenchSettings(task="chrf"), [])
    assert "tuneserve[bench]" in caught.value.hint


@pytest.mark.parametrize(("task", "package"), [("rouge_l", "rouge_score"), ("chrf", "sacrebleu")])
def test_text_metrics_grade(task: str, package: str) -> None:
    pytest.importorskip(package)
    scorer = make_scorer(BenchSettings(task=task), [])
    reference = "The cat sat on the mat."
    assert scorer(reference, reference) == pytest.approx(1.0)
    assert 0.3 < scorer("The cat is on a mat.", reference) < 1.0
    assert scorer("", reference) == 0.0


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    pytest.importorskip("rouge_score")
    scorer = make_scorer(BenchSettings(task="rouge_l"), [])
    # Common subsequence "the cat on mat" of 6 and 6 words: precision = recall = 4/6.
    assert scorer("the cat is on a mat", "the cat sat on the mat") == pytest.approx(4 / 6)


def test_a_users_function_scores(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Half:\n    value: float = 0.5\n"
        "def half(answer, reference): return Half().value\ndef two(a, r): return 2\n"
    )
    assert make_scorer(BenchSettings(task="python", scorer=f"{path}:half"), [])("a", "b") == 0.5
    with pytest.raises(UsageError, match="not between 0 and 1"):
        make_scorer(BenchSettings(task="python", scorer=f"{path}:two"), [])("a", "b")
    for bad, message in (
        ("", "needs a function as"),
        (f"{path}:absent", "has no function 'absent'"),
        (f"{tmp_path / 'none.py'}:f", "no such Python file"),
    ):
        with pytest.raises(UsageError, match=message):
            make_scorer(BenchSettings(task="python", scorer=bad), [])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("def f(a, r): return None", "returned None, which is no number"),
        ("def f(a, r): return 1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("def f(a): return 1.0", r"failed: TypeError: f\(\) takes 1"),
        ("import no_such_module\ndef f(a, r): return 1.0", "can't be run: ModuleNotFoundError"),
        ("def f(a, r) return 1.0", "can't be run: SyntaxError"),
    ],
)
def test_a_users_function_that_fails_is_one_clear_error_before_anything_is_asked(
    tmp_path: Path, function: str, message: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(function)
    settings = BenchSettings(task="python", scorer=f"{path}:f")
    example = Example.of_turn("1", "x", "y")
    with pytest.raises(UsageError, match=message) as caught:
        held_out_task("mine", [example], settings)
    assert caught.value.where.startswith(f"bench.scorer: {path}")
