"""Draws that keep a draft model's proposals follow the distribution that draws without them do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.serve.engine.test_drawing import ROWS, check_distribution, definition
from tuneserve.serve.engine import SamplingParams
from tuneserve.serve.engine.proposals import MOST_PROPOSED, draw_with, propose
from tuneserve.serve.engine.weights import Row

FILTERS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 30, "temperature": 0.7},
    {"top_k": 30, "top_p": 0.8},
    {"top_p": 0.8, "temperature": 0.7},
    {"top_p": 0.95, "min_p": 0.02},
    {"min_p": 0.05, "temperature": 1.3},
]

DRAFTS: dict[str, Callable[[Row, Row], Row]] = {
    "the same": lambda row, noise: row,
    "near": lambda row, noise: row + noise,
    "far": lambda row, noise: 3 * noise,
    "sharper": lambda row, noise: 2 * row,
}


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("kind", ["peaked", "tied", "barred"])
def test_draws_follow_the_definition(kind: str, filters: dict[str, float], draft: str) -> None:
    params = SamplingParams(**filters)  # type: ignore[arg-type]
    row = ROWS[kind]
    random = np.random.default_rng(5)
    other = DRAFTS[draft](row, random.normal(0, 1, len(row)).astype(np.float32))
    before = row.copy()
    tokens = []
    kept = 0
    for _ in range(1000):
        proposal = propose(other, params, random)
        tokens.append(draw_with(row, params, random, proposal))
        kept += tokens[-1] == proposal.token
    check_distribution(tokens, row, params)
    assert (row == before).all()
    if draft == "the same" and kind == "peaked" and params.temperature <= 1.0:
        assert kept > 900


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_as_many_are_kept_as_can_be(filters: dict[str, float]) -> None:
    """That is the sum of min(p, q); of most probable tokens, p of them would be kept."""
    params = SamplingParams(**filters)  # type: ignore[arg-type]
    random = np.random.default_rng(6)
    row = ROWS["peaked"]
    other = row + random.normal(0, 1, len(row)).astype(np.float32)
    p = definition(row, params)
    q = np.zeros(len(row))
    kept, count = 0, 2000
    for _ in range(count):
        proposal = propose(other, params, random)
        kept += draw_with(row, params, random, proposal) == proposal.token
    q[proposal.ids] = proposal.probabilities
    best = np.minimum(p, q).sum()
    assert abs(kept / count - best) < 4.5 * (best * (1 - best) / count) ** 0.5 + 1e-3


def test_proposals_follow_their_own_probabilities() -> None:
    random = np.random.default_rng(7)
    params = SamplingParams(top_p=0.9)
    drawn = [propose(ROWS["peaked"], params, random) for _ in range(2000)]
    share = np.mean([one.token == drawn[0].token for one in drawn])
    own = drawn[0].probabilities[drawn[0].ids == drawn[0].token][0]
    assert share == pytest.approx(own, abs=0.05)
    assert len(drawn[0].ids) <= MOST_PROPOSED
    assert drawn[0].probabilities.sum() == pytest.approx(1.0)
