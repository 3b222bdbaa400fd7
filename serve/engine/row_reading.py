"""What a draw needs of whole rows of logits, read of several rows at once.

Few operations on much data: NumPy lets other threads run meanwhile, which it does not between many
short ones. What is left to do for each row (`drawing`) looks at few tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tuneserve.serve.engine.types import SamplingParams
from tuneserve.serve.engine.weights import Blocks, Ids, Row, Rows, Weights

GROUP = 64
"""Tokens of which one maximum is kept."""


@dataclass(frozen=True, slots=True)
class Read:
    """What is known of a row: its `weights` (plain, or at the request's temperature if nothing is
    filtered), the `maxima` of its groups, or the tokens that min-p leaves (`likely`)."""

    weights: Weights | None = None
    maxima: Row | None = None
    likely: Ids | None = None


NOTHING = Read()

Kind = tuple[Literal["weights", "maxima", "likely"], float]
"""What is read, and the temperature of the weights, or min-p."""


def first_read(sampling: SamplingParams) -> Kind | None:
    """What a draw begins with; None if the row has to be looked at otherwise."""
    if sampling.temperature <= 0.0:
        return None
    if sampling.top_k > 0:
        return "maxima", 0.0
    if sampling.top_p < 1.0:
        return "weights", 1.0
    if sampling.min_p > 0.0:
        return "likely", sampling.min_p
    return "weights", sampling.temperature


def read_rows(rows: Rows, kind: Kind, blocks: Blocks, head: float) -> list[Read]:
    """`kind` of each row, [rows, n_vocab]; weights are made in `blocks`, with the tokens that hold
    a share `head` if that is not 0."""
    what, value = kind
    if what == "weights":
        return [Read(weights=own) for own in Weights.of_rows(rows, value, blocks, head)]
    if what == "maxima":
        return [Read(maxima=own) for own in group_maxima(rows)]
    least = rows.max(axis=1) + np.float32(math.log(value))
    found = np.flatnonzero(rows >= least[:, np.newaxis])
    size = rows.shape[1]
    starts = np.arange(len(rows)) * size
    parts = np.split(found, found.searchsorted(starts[1:]))
    return [
        Read(likely=part - start) if math.isfinite(bound) else NOTHING
        for part, start, bound in zip(parts, starts.tolist(), least.tolist(), strict=True)
    ]


def group_maxima(rows: Rows) -> Rows:
    """[rows, groups]: the largest logit of each group. A group is every n-th token, so that the
    maxima of all are one vector operation; tokens left over at the end are in none."""
    count = rows.shape[1] // GROUP
    groups: Rows = rows[:, : count * GROUP].reshape(len(rows), GROUP, count).max(axis=1)
    return groups
