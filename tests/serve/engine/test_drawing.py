"""Tokens are drawn from the distribution that llama.cpp's definitions give, by any way to it."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from tuneserve.serve.engine import SamplingParams, drawing
from tuneserve.serve.engine.drawing import draw, token_logprob
from tuneserve.serve.engine.weights import LogitsError

VOCABULARY = 1100
"""More than two blocks and a rest, and enough that half of it is not 'few'."""


def rows() -> dict[str, npt.NDArray[np.float32]]:
    noise = np.random.default_rng(7)
    flat = noise.normal(0, 0.5, VOCABULARY)
    peaked = noise.normal(-4, 2, VOCABULARY)
    peaked[noise.choice(VOCABULARY, 12, replace=False)] += np.linspace(4, 12, 12)
    large = 90.0 + 3 * noise.normal(0, 0.5, VOCABULARY)
    tied = np.repeat(noise.normal(0, 0.3, VOCABULARY // 10), 10)
    barred = np.where(noise.random(VOCABULARY) < 0.5, flat, -np.inf)
    kinds = {"flat": flat, "peaked": peaked, "large": large, "tied": tied, "barred": barred}
    return {name: row.astype(np.float32) for name, row in kinds.items()}


ROWS = rows()


def definition(row: npt.NDArray[np.float32], params: SamplingParams) -> npt.NDArray[np.float64]:
    """The probabilities of all tokens: everything sorted, in float64, filter by filter."""
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))
    logits = row[order].astype(np.float64)
    kept = len(row) if not params.top_k else min(params.top_k, len(row))
    p = np.exp(logits[:kept] - logits[0])
    p /= p.sum()
    if params.top_p < 1.0:
        sums = list(itertools.accumulate(p))
        kept = next((n + 1 for n, held in enumerate(sums) if held >= params.top_p), kept)
    if params.min_p > 0.0:
        kept = sum(1 for weight in p[:kept] if weight >= params.min_p * p[0])
    p = np.exp((logits[:kept] - logits[0]) / params.temperature)
    result = np.zeros(len(row))
    result[order[:kept]] = p / p.sum()
    return result


def drawn(row: npt.NDArray[np.float32], params: SamplingParams, count: int) -> list[int]:
    random = np.random.default_rng(params.seed)
    return [draw(row, params, random) for _ in range(count)]


FILTERS = [
    {"top_k": top_k, "top_p": top_p, "min_p": min_p, "temperature": temperature}
    for top_k in (0, 30)
    for top_p in (1.0, 0.8)
    for min_p in (0.0, 0.05)
    for temperature in (1.0, 0.6, 1.7)
] + [{"top_k": 1000, "top_p": 0.8, "min_p": 0.05, "temperature": 0.6}]


CASES = [
    (kind, filters)
    for kind in ROWS
    for filters in (FILTERS if kind in ("flat", "peaked") else FILTERS[::3])
]


@pytest.mark.parametrize(("kind", "filters"), CASES, ids=str)
def test_draws_follow_the_definition(kind: str, filters: dict[str, float]) -> None:
    check_draws(kind, filters)


@pytest.mark.parametrize("share", [2e-3, 0.3])
@pytest.mark.parametrize("top_p", [0.1, 0.9])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7, 0.3])
@pytest.mark.parametrize("kind", ROWS)
def test_draws_follow_the_definition_where_the_likeliest_tokens_hold_less_than_top_p(
    kind: str, temperature: float, top_p: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a vocabulary so large that few tokens reach HEAD_SHARE."""
    monkeypatch.setattr(drawing, "HEAD_SHARE", share)
    check_draws(kind, {"temperature": temperature, "top_p": top_p})


def check_draws(kind: str, filters: dict[str, float]) -> None:
    params = SamplingParams(seed=11, **filters)  # type: ignore[arg-type]
    check_distribution(drawn(ROWS[kind], params, 1500), ROWS[kind], params)


def check_distribution(
    tokens: list[int], row: npt.NDArray[np.float32], params: SamplingParams
) -> None:
    """Pearson's chi-square: at 1e-9 for each of 155 cases, a false alarm is rarer than 1e-6."""
    expected = definition(row, params) * len(tokens)
    observed = np.bincount(tokens, minlength=len(row))
    assert not observed[expected == 0].any()
    # Neighbours (in the order of probability) share a bin until 8 are expected in it.
    order = np.argsort(expected, kind="stable")
    bins = (np.cumsum(expected[order]) / 8).astype(int)
    in_bin, expected_in_bin = np.bincount(bins, observed[order]), np.bincount(bins, expected[order])
    some = expected_in_bin > 0
    if some.sum() > 1:
        statistic = ((in_bin - expected_in_bin)[some] ** 2 / expected_in_bin[some]).sum()
        assert stats.chi2.sf(statistic, some.sum() - 1) > 1e-9


LOGITS = st.lists(
    st.one_of(st.floats(-30, 30, width=32), st.sampled_from([-math.inf, 0.0, 1.0])),
    min_size=1,
    max_size=300,
).filter(lambda logits: max(logits) > -math.inf)


@given(
    LOGITS,
    st.one_of(st.floats(0.0, 1.0), st.sampled_from([1e-30, 0.999999, 1 - 1e-12])),
    st.sampled_from([0.0, 1e-9, 0.05, 1.0]),
    st.sampled_from([0, 1, 5, 1000]),
    st.sampled_from([1e-320, 1e-3, 0.7, 1.0, 3.0, 1e6]),
    st.integers(1, 5),
)
@example([0.0] * 300, 0.5, 0.0, 0, 1.0, 1)
@example([0.0] * 300, 0.0, 0.0, 0, 0.5, 1)
@example([5.0], 1e-30, 1.0, 1, 1.0, 1)
def test_only_what_the_filters_leave_is_drawn(
    logits: list[float], top_p: float, min_p: float, top_k: int, temperature: float, copies: int
) -> None:
    row = np.array(logits * copies, np.float32)
    params = SamplingParams(
        top_p=top_p, min_p=min_p, top_k=top_k, temperature=temperature, seed=copies
    )
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))
    kept = order[: top_k or len(row)]
    p = np.exp(row[kept].astype(np.float64) - row[order[0]])
    # What sums in float32 may get wrong in a place of the row is left open.
    within = np.cumsum(p) - p < top_p * p.sum() * (1 + 1e-6)
    within &= p >= min_p * (1 - 1e-6)
    within[0] = True
    for token in drawn(row, params, 5):
        assert within[kept.index(token)]


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, 49_152])
@pytest.mark.parametrize("k", [1, 40, 900])
def test_the_best_alternatives_are_found(size: int, k: int) -> None:
    row = np.random.default_rng(size).normal(0, 1, size).astype(np.float32)
    row[: size // 8] = 1.5
    best = np.argsort(-row, kind="stable")[: min(k, size)]
    assert [token for token, _ in token_logprob(row, 0, min(k, size)).top] == best.tolist()


def test_a_seed_repeats_its_draws_in_any_thread_and_order() -> None:
    params = [
        SamplingParams(seed=3, **filters)  # type: ignore[arg-type]
        for filters in FILTERS
    ]

    def sequence(one: SamplingParams) -> list[int]:
        return [token for row in ROWS.values() for token in drawn(row, one, 3)]

    alone = [sequence(one) for one in params]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(sequence, reversed(params)))[::-1]
    assert alone == together
    assert sequence(params[0]) != sequence(SamplingParams(seed=4))


@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.1}])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("logits", [[math.nan, 1.0], [1.0, math.inf], [-math.inf, -math.inf]])
def test_a_row_that_holds_no_numbers_is_an_error(
    logits: list[float], temperature: float, filters: dict[str, float]
) -> None:
    params = SamplingParams(temperature=temperature, **filters)  # type: ignore[arg-type]
    with pytest.raises(LogitsError):
        draw(np.array(logits * 100, np.float32), params, np.random.default_rng(0))


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("offset", [0.0, -200.0, 150.0])
@pytest.mark.parametrize("size", [3, 49_152, 128_256])
def test_logprobs_are_right_to_five_digits(scale: float, offset: float, size: int) -> None:
    row = np.random.default_rng(size).normal(offset, scale, size).astype(np.float32)
    exact = row.astype(np.float64) - row.max()
    exact -= np.log(np.exp(exact).sum())
    token = size // 2
    found = token_logprob(row, token, 20)
    assert found.token == token
    assert found.logprob == pytest.approx(exact[token], abs=1e-5)
    best = np.argsort(-row, kind="stable")[:20]
    assert [one for one, _ in found.top] == best.tolist()
    assert [logprob for _, logprob in found.top] == pytest.approx(exact[best], abs=1e-5)
    assert token_logprob(row, token, 0).top == ()
