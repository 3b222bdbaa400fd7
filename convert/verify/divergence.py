"""KL divergence between next-token distributions, position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
ROWS = 16  # at a time: float64 over a vocabulary of 128,000 is 1 MiB a row


@dataclass(frozen=True)
class Divergence:
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


def log_softmax(logits: Floats) -> Doubles:
    """Row-wise, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def divergence(reference: Sequence[Floats], candidate: Sequence[Floats]) -> Divergence:
    """Of pairs of logits [tokens, vocabulary]; a candidate that is not finite is infinitely far."""
    klds, same = [], []
    for expected, found in zip(reference, candidate, strict=True):
        for at in range(0, len(expected), ROWS):
            ours, theirs = expected[at : at + ROWS], found[at : at + ROWS, : expected.shape[1]]
            p, q = log_softmax(ours), log_softmax(theirs)
            klds.append((np.exp(p) * (p - q)).sum(axis=-1))
            same.append(ours.argmax(axis=-1) == theirs.argmax(axis=-1))
    # Rounding can make an identical pair negative by a few 1e-16.
    all_klds = np.maximum(np.nan_to_num(np.concatenate(klds), nan=np.inf), 0.0)
    return Divergence(
        float(all_klds.mean()), float(np.quantile(all_klds, 0.999)), float(all_klds.max()),
        float(np.concatenate(same).mean()), len(all_klds),
    )  # fmt: skip
