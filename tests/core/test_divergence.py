"""Row sums against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tuneserve.divergence import BLOCK_ROWS, RowWorkers, divergence, log_softmax, token_nll


def rows(seed: int, count: int = 2 * BLOCK_ROWS + 3, vocabulary: int = 500) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=3, size=(count, vocabulary)).astype(np.float32)


def test_nll_is_cross_entropy() -> None:
    logits = rows(0)
    targets = np.arange(len(logits)) * 7 % 500
    with RowWorkers(2) as workers:
        found = workers.nll(logits, targets)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.from_numpy(targets), reduction="none"
    )
    assert found == pytest.approx(expected.numpy(), rel=1e-5)
    assert found.tolist() == [
        token_nll(row, int(target)) for row, target in zip(logits, targets, strict=True)
    ]


def test_divergence_is_kl_and_top_agreement() -> None:
    base, other = rows(1), rows(1) + np.float32(0.3) * rows(2)
    targets = np.arange(len(base)) % 500
    with RowWorkers(2) as workers:
        found = workers.divergence(base, other, targets)
        same = workers.divergence(base, base.copy(), targets)
    log_p, log_q = (torch.from_numpy(x).double().log_softmax(-1) for x in (base, other))
    kld = (log_p.exp() * (log_p - log_q)).sum(-1).numpy()
    # Tokens below e^-16 are left out; of 500 tokens they hold next to nothing.
    assert found.kld == pytest.approx(kld, rel=1e-3)
    assert found.same_top.tolist() == (base.argmax(1) == other.argmax(1)).tolist()
    assert 0 < found.same_top.mean() < 1
    assert same.kld == pytest.approx(0.0, abs=1e-6)
    assert same.same_top.all()


def test_tokens_below_the_limit_are_left_out() -> None:
    base = np.array([[0.0, -17.0, -15.0]], np.float32)
    other = np.array([[0.0, -17.0 + 9.0, -15.0 + 9.0]], np.float32)
    with RowWorkers(1) as workers:
        found = workers.divergence(base, other, np.array([0])).kld[0]
    log_p, log_q = (torch.from_numpy(x).double().log_softmax(-1)[0] for x in (base, other))
    kept = log_p > -16
    assert kept.tolist() == [True, False, True]
    expected = float((log_p.exp() * (log_p - log_q))[kept].sum())
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_same_model_is_told_from_one_that_is_a_millionth_off() -> None:
    """Sequences of logits in float64: float32 exponentials would lose what is between them."""
    base = rows(3)
    other = base + np.float32(2e-6) * rows(4)
    found = divergence([base[:20], base[20:]], [other[:20], other[20:]])
    log_p, log_q = (torch.from_numpy(x).double().log_softmax(-1) for x in (base, other))
    kld = (log_p.exp() * (log_p - log_q)).sum(-1).numpy()
    assert 0 < kld.mean() < 1e-10
    assert found.mean == pytest.approx(kld.mean(), rel=1e-3)
    assert found.maximum == pytest.approx(kld.max(), rel=1e-3)
    assert (found.same_top, found.positions) == (1.0, len(base))
    same = divergence([base], [base.copy()])
    assert (same.mean, same.maximum) == (0.0, 0.0)
    assert log_softmax(base) == pytest.approx(log_p.numpy(), abs=1e-12)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_infinitely_far(value: float) -> None:
    base, other = rows(5), rows(5)
    other[7, 3] = value
    found = divergence([base], [other])
    assert found.mean == np.inf
    assert found.maximum == np.inf
