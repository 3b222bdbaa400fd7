"""Thoughts split off, texts normalised, answers scored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scoring import contains, exact, last_number, normalise, number, split_thought

texts = st.text(alphabet=st.characters(exclude_characters="<>"))


@given(texts, texts)
def test_a_closed_thought_is_split_off(thought: str, answer: str) -> None:
    split = split_thought(f"<think>{thought}</think>{answer}")
    assert (split.thought, split.answer, split.cut_off) == (thought.strip(), answer.strip(), False)
    begun_in_the_prompt = split_thought(f"{thought}</think>{answer}", opened=True)
    assert begun_in_the_prompt == split


@given(texts)
def test_a_thought_that_never_ends_leaves_no_answer(thought: str) -> None:
    for split in (split_thought(f"<think>{thought}"), split_thought(thought, opened=True)):
        assert (split.thought, split.answer, split.cut_off) == (thought.strip(), "", True)


@given(texts)
def test_a_text_without_thought_is_the_answer(text: str) -> None:
    split = split_thought(text)
    assert (split.thought, split.answer, split.cut_off) == ("", text.strip(), False)


def test_a_thought_mentioned_later_is_no_thought() -> None:
    assert split_thought("I use <think> tags.").answer == "I use <think> tags."


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
    ],
)
def test_exact(answer: str, reference: str, right: bool) -> None:
    assert exact(answer, reference) is right


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("The answer is Paris.", "paris", True),
        ("Parisian", "paris", False),
        ("C++ is it", "C++", True),
        ("anything", "", False),
    ],
)
def test_contains(answer: str, reference: str, right: bool) -> None:
    assert contains(answer, reference) is right


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
    assert number(f"So the result is {value!r}", repr(value))


def test_number_needs_a_number_on_both_sides() -> None:
    assert not number("none", "3")
    assert not number("3", "none")
    assert not number("3.1", "3")
