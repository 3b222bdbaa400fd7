"""What prompts of a kind that none of those measured is of could change."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tuneserve.bench.stats.bootstrap import Bootstrap

UNSEEN_LOSS = 2.5
"""Nats a token (a perplexity 12 times as high) that prompts of a kind not seen are supposed to
lose: an interval only knows the losses seen."""


def unseen_share(count: int, confidence: float = 0.95) -> float:
    """The largest share of all prompts that may be of a kind of which `count` independent ones show
    none, at that confidence: about 3 / count ("rule of three"; Hanley & Lippman-Hand 1983, JAMA
    249:1743)."""
    return 1.0 - float((1 - confidence) ** (1 / count))


def unseen_odds(count: int, confidence: float = 0.95) -> float:
    """That share, in shares of the rest: q / (1 - q)."""
    return float((1 - confidence) ** (-1 / count)) - 1.0


def with_unseen(high: float, count: int, confidence: float = 0.95, longest: float = 1.0) -> float:
    """How high a perplexity ratio with this upper end could be, if the share of prompts that
    `count` may show none of (`unseen_share`), as long as the longest of them (`longest_of`), loses
    UNSEEN_LOSS a token."""
    share = unseen_share(count, confidence)
    of_tokens = share * longest / (share * longest + 1 - share)
    return high * math.exp(of_tokens * UNSEEN_LOSS)


def longest_of(tokens: npt.ArrayLike, bootstrap: Bootstrap) -> float:
    """The tokens of the longest prompt (or source), by those of one on average."""
    counts = bootstrap.by_cluster(np.asarray(tokens, np.float64))
    return float(counts.max() / counts.mean())
