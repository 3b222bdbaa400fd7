"""Negative log-likelihood and KL divergence of next-token distributions, from rows of logits.

Logits are float32, as llama.cpp gives them. A row's maximum is taken away and the exponentials are
computed in the row's own type; sums over the vocabulary are float64. Measurements that are to
agree with llama-perplexity keep float32 (`RowWorkers`, `token_nll`). Checks that two computations
are the same model convert the rows to float64 first (`divergence`): float32 exponentials make
about 1e-8 of noise, and what is compared there may be 1e-14 apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from tuneserve.arrays import Doubles, Floats, Ids
from tuneserve.llama import physical_cores

Rows = npt.NDArray[np.floating[Any]]
Result = TypeVar("Result")

LOWEST_LOG_P = -16.0
"""Tokens that the base finds less likely than this (nats) are left out of the KL divergence, as
llama-perplexity does, which stores no lower values. It makes the divergence a thousandth
smaller."""

BLOCK_ROWS = 16
"""Rows computed at a time: they and their exponentials stay in the cache. In float64, a row of a
vocabulary of 128,000 is 1 MiB."""


class Divergence(NamedTuple):
    """Per position, [positions]: KL(base || other) in nats, both models' nll of the token that
    follows, and whether both have the same most probable token."""

    kld: Doubles
    base_nll: Doubles
    nll: Doubles
    same_top: npt.NDArray[np.bool_]

    def where(self, mask: npt.NDArray[np.bool_]) -> Divergence:
        """Only the positions where `mask` is true."""
        return Divergence(self.kld[mask], self.base_nll[mask], self.nll[mask], self.same_top[mask])


@dataclass(frozen=True)
class DivergenceSummary:
    """KL(reference || candidate) in nats over all positions, and how often both agree on the
    most likely token."""

    mean: float
    p999: float
    maximum: float
    same_top: float
    positions: int

    def figures(self) -> dict[str, float]:
        return {
            "mean_kld": self.mean, "kld_99.9": self.p999, "max_kld": self.maximum,
            "same_top_1": self.same_top, "positions": self.positions,
        }  # fmt: skip

    def __str__(self) -> str:
        return (
            f"KL divergence mean {self.mean:.2e}, 99.9 % {self.p999:.2e}, "
            f"same top-1 {100 * self.same_top:.1f} % of {self.positions} positions"
        )


class RowWorkers:
    """Threads that work through blocks of rows, in float32; NumPy lets go of the GIL meanwhile."""

    def __init__(self, threads: int = 0) -> None:
        self._pool = ThreadPoolExecutor(threads or physical_cores())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def nll(self, logits: Floats, targets: Ids) -> Doubles:
        """-log softmax(logits)[target] of each row: [rows, n_vocab], [rows] -> [rows]."""

        def block(rows: slice) -> Doubles:
            return _Softmax(logits[rows]).nll(targets[rows])

        return np.concatenate(self._over_blocks(block, len(targets)))

    def divergence(self, base: Floats, other: Floats, targets: Ids) -> Divergence:
        """Compare two models' rows of logits, [rows, n_vocab] each."""

        def block(rows: slice) -> Divergence:
            p, q = _Softmax(base[rows]), _Softmax(other[rows])
            nll = p.nll(targets[rows]), q.nll(targets[rows])
            return Divergence(p.kld(q, LOWEST_LOG_P), *nll, _same_top(base[rows], other[rows]))

        return joined(self._over_blocks(block, len(targets)))

    def _over_blocks(self, work: Callable[[slice], Result], rows: int) -> list[Result]:
        return list(self._pool.map(work, _blocks(rows)))


def joined(parts: list[Divergence]) -> Divergence:
    """Positions of several parts in one."""
    return Divergence(*map(np.concatenate, zip(*parts, strict=True)))


def divergence(reference: Sequence[Floats], candidate: Sequence[Floats]) -> DivergenceSummary:
    """Of pairs of logits [tokens, vocabulary], in float64; a candidate that is not finite is
    infinitely far."""
    klds, same = [], []
    for expected, found in zip(reference, candidate, strict=True):
        for rows in _blocks(len(expected)):
            ours, theirs = expected[rows], found[rows, : expected.shape[1]]
            p, q = (_Softmax(logits.astype(np.float64)) for logits in (ours, theirs))
            klds.append(p.kld(q))
            same.append(_same_top(ours, theirs))
    # Rounding can make an identical pair negative by a few 1e-16.
    all_klds = np.maximum(np.nan_to_num(np.concatenate(klds), nan=np.inf), 0.0)
    return DivergenceSummary(
        float(all_klds.mean()), float(np.quantile(all_klds, 0.999)), float(all_klds.max()),
        float(np.concatenate(same).mean()), len(all_klds),
    )  # fmt: skip


def token_nll(logits: Floats, token: int) -> float:
    """-log softmax(logits)[token] of one row [n_vocab], in nats."""
    return float(_Softmax(logits[None]).nll(np.array([token]))[0])


def log_softmax(logits: Rows) -> Doubles:
    """Of rows [rows, n_vocab], in float64."""
    rows = _Softmax(logits.astype(np.float64))
    return np.asarray(rows.shifted - rows.log_sum[:, None])


class _Softmax:
    """Rows of logits minus their maximum, the exponentials, and the logarithm of their sum."""

    def __init__(self, logits: Rows) -> None:
        self.shifted = logits - logits.max(axis=1, keepdims=True)
        self.powers = np.exp(self.shifted)
        self.log_sum: Doubles = np.log(self.powers.sum(axis=1, dtype=np.float64))

    def nll(self, targets: Ids) -> Doubles:
        return np.asarray(self.log_sum - self.shifted[np.arange(len(targets)), targets])

    def kld(self, other: _Softmax, lowest: float | None = None) -> Doubles:
        """KL(self || other), without the tokens whose log p is `lowest` or less."""
        powers = self.powers
        if lowest is not None:
            powers = np.where(self.shifted - self.log_sum[:, None] <= lowest, 0, powers)
        # The sum of p (log p - log q), where log p = shifted - log_sum.
        gap = (powers * (self.shifted - other.shifted)).sum(axis=1, dtype=np.float64)
        mass = powers.sum(axis=1, dtype=np.float64)
        kld = (gap + mass * (other.log_sum - self.log_sum)) / np.exp(self.log_sum)
        return np.asarray(kld)


def _same_top(base: Floats, other: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray(base.argmax(axis=1) == other.argmax(axis=1))


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(first, first + BLOCK_ROWS) for first in range(0, rows, BLOCK_ROWS))
