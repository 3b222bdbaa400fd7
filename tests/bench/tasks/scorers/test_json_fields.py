"""JSON scored by field, whatever stands around it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.bench.tasks.scorers import make_scorer
from tuneserve.bench.tasks.scorers.marks import Scorer
from tuneserve.settings import BenchSettings


def scorer(*, unordered: bool = False) -> Scorer:
    return make_scorer(BenchSettings(task="json", unordered=unordered), [])


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
        ('{"a": "1"}', '{"a": 1}', 0.0),
        ('{"a": "ANN"}', '{"a": "Ann"}', 0.0),
        ('{"cafe\u0301": "e\u0301"}', '{"caf\u00e9": "\u00e9"}', 1.0),
        ('{"城市": "巴黎"}', '{"城市": "巴黎"}', 1.0),
    ],
)
def test_json_is_scored_by_field(answer: str, reference: str, score: float) -> None:
    assert scorer()(answer, reference) == pytest.approx(score)


@pytest.mark.parametrize(
    "answer",
    [
        'Here it is:\n```json\n{"a": 1, "b": "x"}\n```\nHope this helps.',
        'The result is {"a": 1, "b": "x"}, as asked.',
        '{"a": 1, "b": "x",}',
        "{'a': 1, 'b': 'x'}",
        '{"a": 0, "a": 1, "b": "x"}',
        '```\n{"a": 1, "b": "x"}',
        '{a: 1, "b": "x"}',
        "{“a”: 1, “b”: “x”}",
        '{"a": 1, // one\n "b": "x",}',
        'Sets like {1, 2} aside: {"a": 1, "b": "x"}',
    ],
)
def test_content_is_told_from_validity(answer: str) -> None:
    mark = scorer().mark(answer, '{"a": 1, "b": "x"}')
    assert (mark.score, mark.strict, mark.found) == (1.0, 0.0, "one")


def test_no_json_at_all_is_counted() -> None:
    assert scorer().mark("I don't know {sorry}", "[]").found == "none"
    assert scorer().mark('{"a": NaN}', '{"a": 1}').strict == 0.0
    assert scorer().problem("{'a': 1}") == "is no JSON"


def test_several_values_are_counted() -> None:
    assert scorer().mark('{"x": 9}\n{"a": 1}', '{"a": 1}').found == "several"
    assert scorer().mark('{"a": 1} or {"a": 1.0}', '{"a": 1}').found == "one"
    mark = scorer().mark('```\n{"a": 1}\n```\nor {"a": 2}', '{"a": 1}')
    assert (mark.score, mark.found) == (1.0, "one")


def test_texts_and_numbers_are_alike_only_leniently() -> None:
    mark = scorer().mark('{"price": "12.50", "name": "ANN "}', '{"price": 12.5, "name": "Ann"}')
    assert (mark.score, mark.lenient) == (0.0, 1.0)
    assert scorer().mark('{"a": "true"}', '{"a": true}').lenient == 0.0


@pytest.mark.parametrize(
    ("answer", "reference", "score"),
    [
        ('{"tags": ["y", "x"]}', '{"tags": ["x", "y"]}', 1.0),
        ('["new", "a", "b"]', '["a", "b"]', 2 / 3),
        ('["a", "a"]', '["a", "b"]', 0.5),
        ('[{"n": 2}, {"n": 1, "m": 3}]', '[{"m": 3, "n": 1}, {"n": 2}]', 1.0),
        ("[[1, 2], [3]]", "[[3], [2, 1]]", 1.0),
        ('["x"]', '{"a": "x"}', 0.0),
    ],
)
def test_lists_in_any_order(answer: str, reference: str, score: float) -> None:
    assert scorer(unordered=True)(answer, reference) == pytest.approx(score)
    assert scorer()(answer, reference) < 1.0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values, st.booleans())
def test_json_score_is_a_share_and_full_for_itself(
    first: object, second: object, unordered: bool
) -> None:
    one, other = json.dumps(first), json.dumps(second)
    score = scorer(unordered=unordered)
    assert score(one, one) == 1.0
    assert 0.0 <= score(one, other) == score(other, one) <= 1.0
    assert score(one, other) >= scorer()(one, other)


@given(json_values, st.randoms(use_true_random=False))
def test_order_never_counts_where_it_shall_not(value: Any, chance: Any) -> None:
    assert scorer(unordered=True)(json.dumps(_shuffled(value, chance)), json.dumps(value)) == 1.0


def _shuffled(value: Any, chance: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shuffled(part, chance) for key, part in value.items()}
    if isinstance(value, list):
        return chance.sample([_shuffled(part, chance) for part in value], len(value))
    return value
