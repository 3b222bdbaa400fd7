"""Sums over rows of logits: log-likelihood and KL divergence, row blocks on all cores.

Rows are float32 as llama.cpp gives them; exponentials are taken in float32 after the row's maximum
is taken away, sums in float64, as llama-perplexity does.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tuneserve.closing import Closing
from tuneserve.llama import physical_cores

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]
Result = TypeVar("Result")

LOWEST_LOG_P = -16.0
"""Tokens that the base finds less likely than this (nats) are left out of the KL divergence, as
llama-perplexity does, which stores no less; it takes a thousandth off."""

BLOCK_ROWS = 16  # a block of rows and its exponentials stay in the cache


@dataclass(frozen=True)
class Divergence:
    """Per position, [positions]: KL(base || other) in nats, both models' nll of the token that
    follows, and whether both have the same most probable token."""

    kld: Doubles
    base_nll: Doubles
    nll: Doubles
    same_top: npt.NDArray[np.bool_]

    def where(self, mask: npt.NDArray[np.bool_]) -> Divergence:
        """Only the positions where `mask` is true."""
        return Divergence(self.kld[mask], self.base_nll[mask], self.nll[mask], self.same_top[mask])


class RowWorkers(Closing):
    """Threads that work through blocks of rows; numpy lets go of the GIL meanwhile."""

    def __init__(self, threads: int = 0) -> None:
        self._pool = ThreadPoolExecutor(threads or physical_cores())

    def close(self) -> None:
        self._pool.shutdown()

    def nll(self, logits: Floats, targets: Ids) -> Doubles:
        """-log softmax(logits)[target] of each row: [rows, n_vocab], [rows] -> [rows]."""

        def block(rows: slice) -> Doubles:
            return _nll(logits[rows], targets[rows])

        return np.concatenate(self._over_blocks(block, len(targets)))

    def divergence(self, base: Floats, other: Floats, targets: Ids) -> Divergence:
        """Compare two models' rows of logits, [rows, n_vocab] each."""

        def block(rows: slice) -> Divergence:
            return _divergence(base[rows], other[rows], targets[rows])

        return joined(self._over_blocks(block, len(targets)))

    def _over_blocks(self, work: Callable[[slice], Result], rows: int) -> list[Result]:
        blocks = [slice(first, first + BLOCK_ROWS) for first in range(0, rows, BLOCK_ROWS)]
        return list(self._pool.map(work, blocks))


def joined(parts: list[Divergence]) -> Divergence:
    """Positions of several parts in one."""
    return Divergence(
        np.concatenate([part.kld for part in parts]),
        np.concatenate([part.base_nll for part in parts]),
        np.concatenate([part.nll for part in parts]),
        np.concatenate([part.same_top for part in parts]),
    )


def _log_partition(logits: Floats) -> tuple[Floats, Doubles, Floats]:
    """Rows minus their maximum, log of the sum of their exponentials, and the exponentials."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    return shifted, np.log(powers.sum(axis=1, dtype=np.float64)), powers


def _nll(logits: Floats, targets: Ids) -> Doubles:
    shifted, log_sum, _ = _log_partition(logits)
    return log_sum - shifted[np.arange(len(targets)), targets]


def _divergence(base: Floats, other: Floats, targets: Ids) -> Divergence:
    rows = np.arange(len(targets))
    base_shifted, base_log_sum, base_powers = _log_partition(base)
    other_shifted, other_log_sum, _ = _log_partition(other)
    partition = np.exp(base_log_sum)
    # sum p (log p - log q), where log p = shifted - log_sum.
    base_powers[base_shifted - base_log_sum[:, None] <= LOWEST_LOG_P] = 0.0
    gap = (base_powers * (base_shifted - other_shifted)).sum(axis=1, dtype=np.float64)
    mass = base_powers.sum(axis=1, dtype=np.float64)
    kld = (gap + mass * (other_log_sum - base_log_sum)) / partition
    return Divergence(
        kld,
        base_log_sum - base_shifted[rows, targets],
        other_log_sum - other_shifted[rows, targets],
        base.argmax(axis=1) == other.argmax(axis=1),
    )
