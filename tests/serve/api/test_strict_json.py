"""JSON of requests: its limits, and what is none."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.serve.api.strict_json import (
    FEW,
    Amount,
    JsonLimits,
    check_json_text,
    json_texts_within,
    read_json,
)

LIMITS = JsonLimits(depth=10, containers=20, values=50)
TEXTS = st.text(st.sampled_from('[]{},"\\ a\u00e9'), max_size=12)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS, inner, max_size=6),
    max_leaves=60,
)


def shape(value: Any) -> tuple[int, int, int]:
    """(levels, lists and objects, commas and three times the colons)"""
    if not isinstance(value, list | dict):
        return 0, 0, 0
    inner = [shape(one) for one in (value.values() if isinstance(value, dict) else value)]
    return (
        1 + max((one[0] for one in inner), default=0),
        1 + sum(one[1] for one in inner),
        max(0, len(value) - 1)
        + 3 * len(value) * isinstance(value, dict)
        + sum(one[2] for one in inner),
    )


@given(VALUES, st.booleans())
def test_exactly_what_is_beyond_the_limits_is_refused(value: Any, escaped: bool) -> None:
    depth, containers, commas = shape(value)
    within = depth <= 10 and containers <= 20 and containers + commas <= 50
    data = json.dumps(value, ensure_ascii=escaped).encode()
    assert read_json(data) == value
    if within:
        LIMITS.check(data)
    else:
        with pytest.raises(ValueError, match="more than"):
            LIMITS.check(data)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "name 'a' twice"),
        ("[NaN]", "no number"),
        ("[-Infinity]", "no number"),
        ("[1e999]", "too large"),
        ("1" * 5000, "more than 4300 digits"),
        ("[1,]", "no JSON"),
        ("", "no JSON"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        ("[]".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_is_no_json(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_json(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 4_000_000,
        b"[" + b"[]," * 1_500_000 + b"[]]",
        b'["' + b'\\"' * 2_000_000 + b'"' + b"[" * 99,
        b'["' + b"\\\\" * 2_000_000 + b'"' + b"[" * 99,
        b"[" + b'"",' * 1_500_000 + b'""]',
    ],
)
def test_large_texts_are_refused_at_once(data: bytes) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match="more than"):
        LIMITS.check(data)
    assert time.process_time() - started < 1.0


@given(VALUES, st.integers(0, 25), st.integers(0, 60))
def test_what_came_before_counts(value: Any, containers: int, values: int) -> None:
    depth, more, commas = shape(value)
    total = Amount(containers + more, values + more + commas)
    within = depth <= 10 and total.containers <= 20 and total.values <= 50
    data = json.dumps(value).encode()
    if not within:
        with pytest.raises(ValueError, match="more than"):
            LIMITS.add(data, Amount(containers, values))
    elif data.count(b"[") + data.count(b"{") > FEW:
        assert LIMITS.add(data, Amount(containers, values)) == total


def test_texts_of_one_request_keep_the_limits_together() -> None:
    text = json.dumps([[0]] * 8)
    for _ in range(2):  # each request anew
        with json_texts_within(LIMITS):
            check_json_text(text)
            check_json_text(text)
            with pytest.raises(ValueError, match="With the JSON texts before it, it has"):
                check_json_text(text)
            check_json_text('"\ud83d"')
    check_json_text(text * 10)  # of no request
