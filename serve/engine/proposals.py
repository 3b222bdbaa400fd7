"""Tokens drawn from a draft model's distribution, and the rule by which the served model's draw
keeps as many of them as can be kept without changing its own distribution.

A proposal x was drawn from q; p is the distribution that is to be drawn from. x is kept with
probability min(1, p(x) / q(x)), else a token is drawn from what p has more than q, max(0, p - q),
normalized. What comes out follows p (Leviathan et al., "Fast inference from transformers via
speculative decoding", 2023; Chen et al., "Accelerating large language model decoding with
speculative sampling", 2023). This holds only if nobody looks at x before deciding to use it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tuneserve.serve.engine.drawing import FEW, HEAD_SHARE, draw, largest, least_logit
from tuneserve.serve.engine.types import SamplingParams
from tuneserve.serve.engine.weights import COLDEST, Ids, Row, Weights, place

MOST_PROPOSED = 128
"""Most probable tokens of the draft model that are drawn from; with all others it would be more
work, and few of them would be kept."""

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A token, and the distribution that it was drawn from: `ids` in ascending order, and their
    probabilities."""

    token: int
    ids: Ids
    probabilities: Probabilities


def propose(row: Row, sampling: SamplingParams, random: np.random.Generator) -> Proposal:
    """Draw from a draft model's logits [n_vocab], with the request's temperature and filters.

    Raises LogitsError.
    """
    most = min(len(row), MOST_PROPOSED, sampling.top_k or MOST_PROPOSED)
    ids = np.sort(largest(row, most))
    weights = _filtered(row[ids], sampling, None)
    weights /= weights.sum()
    return Proposal(int(ids[place(weights, random.random())[0]]), ids, weights)


def draw_with(
    row: Row, sampling: SamplingParams, random: np.random.Generator, proposal: Proposal
) -> int:
    """A token of a row, of the same distribution as `draw` gives (temperature above 0): the
    proposal as often as possible.

    Where top-p leaves so many tokens that it would take long to tell them, the proposal has no say:
    it is right where `draw` gives the same. Raises LogitsError.
    """
    filtered = sampling.top_p < 1.0 or 0 < sampling.top_k < len(row) or sampling.min_p > 0.0
    if not filtered:
        return _of_all(row, sampling, random, proposal)
    ids, total = _few(row, sampling)
    if ids is None:
        return draw(row, sampling, random)
    weights = _filtered(row[ids], sampling, total)
    weights /= weights.sum()
    where = np.searchsorted(ids, proposal.ids)
    known = ids[np.minimum(where, len(ids) - 1)] == proposal.ids
    own = int(proposal.ids.searchsorted(proposal.token))
    here = float(weights[where[own]]) if known[own] else 0.0
    if random.random() * proposal.probabilities[own] < here:
        return proposal.token
    weights[where[known]] -= proposal.probabilities[known]
    np.maximum(weights, 0.0, out=weights)
    if not weights.any():  # p and q are equal but for rounding
        return draw(row, sampling, random)
    return int(ids[place(weights, random.random())[0]])


def _of_all(
    row: Row, sampling: SamplingParams, random: np.random.Generator, proposal: Proposal
) -> int:
    """`draw_with` by temperature alone."""
    weights = Weights(row, sampling.temperature, "tempered")
    own = int(proposal.ids.searchsorted(proposal.token))
    here = float(weights.flat[proposal.token]) / weights.total
    if random.random() * proposal.probabilities[own] < here:
        return proposal.token
    weights.reduce(proposal.ids, proposal.probabilities * weights.total)
    return weights.pick(random) if weights.total > 0.0 else draw(row, sampling, random)


def _few(row: Row, sampling: SamplingParams) -> tuple[Ids | None, float | None]:
    """A few tokens, in the order of their ids, that include all that the filters leave (None if
    these may be many); and what top-p is a share of, if not of them: the weights of all tokens, the
    largest being 1."""
    if 0 < sampling.top_k < len(row):
        return np.sort(largest(row, sampling.top_k)), None
    if sampling.top_p < 1.0:
        plain = Weights(row)
        head: Ids = np.flatnonzero(plain.flat >= HEAD_SHARE * plain.total)
        held = float(plain.flat[head].sum(dtype=np.float64))
        if held < sampling.top_p * plain.total:
            return None, None
        return head, plain.total * math.exp(plain.shift - float(row[head].max()))
    few: Ids = np.flatnonzero(row >= least_logit(row, sampling.min_p))
    return (few if len(few) <= FEW * len(row) else None), None


def _filtered(logits: Row, sampling: SamplingParams, total: float | None) -> Probabilities:
    """Weights of tokens, in the order of their ids, that include the most probable one: after
    top-p and min-p, at the temperature. `total`: of which top-p is a share; None: of theirs."""
    below = logits.astype(np.float64) - float(logits.max())
    weights: Probabilities = np.exp(below / max(sampling.temperature, COLDEST))
    if sampling.min_p > 0.0:
        weights *= below >= math.log(sampling.min_p)
    if sampling.top_p < 1.0:
        held = np.exp(below)
        order = np.argsort(-below, kind="stable")
        before = np.cumsum(held[order]) - held[order]
        out = before >= sampling.top_p * (held.sum() if total is None else total)
        out[0] = False
        weights[order[out]] = 0.0
    return weights
