"""Drawing a token from a row of logits, in NumPy. The definitions are llama.cpp's.

Filters apply in the order top-k, top-p, min-p, temperature; a token is drawn from what they leave,
and they always leave the most probable one. A row has up to 256,000 logits, and a step up to 256
rows, so nothing here sorts a row or adds it up one by one:

- Where the filters leave few tokens, all else is done to them alone.
- Else the weights of all tokens are summed in float32 by blocks, and a draw looks for its block
  first.
- The nucleus of top-p is never made. A token belongs to it if those before it, in the order of
  probability, hold less than top-p; if one does not, another is drawn. What is drawn in the end
  follows the same distribution as a draw from the nucleus.

Equally probable tokens are ordered by their ids. Everything about a row happens in the calling
thread and in its own memory: the result does not depend on other rows or threads.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tuneserve.serve.engine.row_reading import GROUP, NOTHING, Read, group_maxima
from tuneserve.serve.engine.types import SamplingParams, TokenLogprob
from tuneserve.serve.engine.weights import (
    COLDEST,
    Ids,
    LogitsError,
    Mask,
    Row,
    Weights,
    place,
)

FEW = 1 / 16
"""Up to this share of a row, tokens are looked at one by one."""

HEAD_SHARE = 1e-4
"""Tokens of this probability at least are drawn from without a look at the others, if they hold
top-p."""

MOST_REJECTIONS = 20
"""Then the weights of all tokens are computed at the temperature asked for."""


def draw(
    row: Row,
    sampling: SamplingParams,
    random: np.random.Generator,
    read: Read = NOTHING,
) -> int:
    """A token of a row, by temperature (0: the most probable) and filters. `read`: what
    `first_read` says of the row, if that is there already.

    Raises LogitsError if the largest logit is not finite.
    """
    if sampling.temperature <= 0.0:
        (token,) = most_probable(row[np.newaxis])
        if token is None:
            raise LogitsError
        return token
    if 0 < sampling.top_k < len(row):
        return _draw_of_few(row, largest(row, sampling.top_k, read.maxima), sampling, random)
    if sampling.top_p >= 1.0 and sampling.min_p <= 0.0:
        return (read.weights or Weights(row, sampling.temperature)).pick(random)
    plain = (read.weights or Weights(row)) if sampling.top_p < 1.0 else None
    if sampling.min_p > 0.0:
        few = read.likely
        if few is None:
            few = np.flatnonzero(row >= least_logit(row, sampling.min_p))
        if len(few) <= FEW * len(row):
            return _draw_of_few(row, few, sampling, random, plain)
    elif plain is not None:
        return _draw_of_nucleus(row, sampling, random, plain)
    return _draw_of_many(row, sampling, random, plain)


def token_logprob(row: Row, token: int, alternatives: int) -> TokenLogprob:
    """log p of `token` under the model's own distribution, and the best `alternatives`.

    The error is below 1e-5. Raises LogitsError.
    """
    weights = Weights(row)
    log_sum = math.log(weights.total) + weights.shift
    top: tuple[tuple[int, float], ...] = ()
    if alternatives:
        best = largest(row, min(alternatives, len(row)))
        logprobs = row[best].astype(np.float64) - log_sum
        top = tuple(zip(best.tolist(), logprobs.tolist(), strict=True))
    return TokenLogprob(token, float(row[token]) - log_sum, top)


def most_probable(rows: npt.NDArray[np.float32]) -> list[int | None]:
    """The most probable token of each row, [rows, n_vocab]; None where the largest logit is not
    finite."""
    if len(rows) == 1:
        token = int(rows[0].argmax())
        return [token if math.isfinite(rows[0, token]) else None]
    best = rows.argmax(axis=1)
    finite = np.isfinite(rows[np.arange(len(rows)), best])
    tokens: list[int | None] = best.tolist()
    if finite.all():
        return tokens
    return [token if good else None for token, good in zip(tokens, finite, strict=True)]


def least_logit(row: Row, min_p: float) -> np.float32:
    """What a logit must have at least by min-p. Raises LogitsError."""
    best: np.float32 = row.max()
    if not math.isfinite(best):
        raise LogitsError
    return best + np.float32(math.log(min_p))


def largest(row: Row, k: int, maxima: Row | None = None) -> Ids:
    """The tokens with the k largest logits, best first (k <= len(row)); `maxima`: those of its
    groups, if they are there already. Raises LogitsError.

    What is above the k-th largest maximum of groups of tokens includes them. The tokens in no group
    are taken as groups of one.
    """
    count = len(row) // GROUP
    matrix = row[: count * GROUP].reshape(GROUP, count)
    if maxima is None:
        (maxima,) = group_maxima(row[np.newaxis])
    maxima = np.concatenate((maxima, row[count * GROUP :]))
    if not math.isfinite(maxima.max()):
        raise LogitsError
    if 4 * k <= len(maxima):
        least = np.partition(maxima, len(maxima) - k)[len(maxima) - k]
        groups = np.flatnonzero(maxima >= least)
        whole = groups[: np.searchsorted(groups, count)]
        member, column = np.nonzero(matrix[:, whole] >= least)
        rest = groups[len(whole) :] + (GROUP - 1) * count
        ids = np.concatenate((member * count + whole[column], rest))
    else:
        # Of few groups the k-th largest maximum would be small, and too many tokens above it.
        ids = np.flatnonzero(row >= np.partition(row, len(row) - k)[len(row) - k])
    return ids[np.argsort(-row[ids], kind="stable")[:k]]


def _before(logits: npt.NDArray[np.floating], token: int) -> Mask:
    """The tokens before this one in the order of probability, then of ids."""
    before: Mask = logits > logits[token]
    before[:token] |= logits[:token] == logits[token]
    return before


def _draw_of_few(
    row: Row,
    few: Ids,
    sampling: SamplingParams,
    random: np.random.Generator,
    plain: Weights | None = None,
) -> int:
    """Draw from `few` tokens: all that top-k leaves, or all that min-p or top-p can leave of the
    row, whose weights are `plain`."""
    logits = row[few].astype(np.float64)
    best = float(logits.max())
    logits -= best
    weights = np.exp(logits / max(sampling.temperature, COLDEST))
    if sampling.min_p > 0.0:
        weights *= logits >= math.log(sampling.min_p)
    if sampling.top_p >= 1.0:
        return int(few[place(weights, random.random())[0]])
    held = np.exp(logits)
    total = held.sum() if plain is None else plain.total * math.exp(plain.shift - best)
    while True:
        index = place(weights, random.random())[0]
        before = _before(logits, index)
        if not before.any() or held @ before < sampling.top_p * total:
            return int(few[index])
        weights *= before


def _draw_of_nucleus(
    row: Row, sampling: SamplingParams, random: np.random.Generator, plain: Weights
) -> int:
    """Draw with top-p and temperature alone.

    The head are the tokens above a bar. If it holds less than top-p, the nucleus is all of the head
    and a part of the rest. A temperature T up to 1 gives a token of weight w the weight
    w * (w / bar) ** (1/T - 1), which is at most w in the rest: so the rest is drawn from by w, and
    a token is taken with a probability that makes up for the difference.
    """
    wanted = sampling.top_p * plain.total
    bar = HEAD_SHARE * plain.total
    head = np.flatnonzero(plain.flat >= bar) if plain.head is None else plain.head
    if not len(head):
        bar = float(plain.flat.max())
    weights = plain.flat[head].astype(np.float64)
    held = float(weights.sum())
    if held >= wanted:
        return _draw_of_few(row, head, sampling, random, plain)
    power = 1.0 / max(sampling.temperature, COLDEST) - 1.0
    if not 0.0 <= power <= 1.0:
        return _draw_of_many(row, sampling, random, plain)
    weights *= (weights / bar) ** power
    sums = weights.cumsum()
    in_head = float(sums[-1]) if len(head) else 0.0
    in_rest = plain.total - held
    rest = None
    for _ in range(MOST_REJECTIONS):
        sought = random.random() * (in_head + in_rest)
        if sought < in_head:
            return int(head[sums.searchsorted(sought, side="right")])
        if rest is None:
            rest = plain.without(head)
        token = rest.pick(random)
        if (
            random.random() < (rest.flat[token] / bar) ** power
            and held + rest.held_by(_before(row, token)) < wanted
        ):
            return token
    return _draw_of_many(row, sampling, random, Weights(row))


def _draw_of_many(
    row: Row, sampling: SamplingParams, random: np.random.Generator, plain: Weights | None
) -> int:
    wanted = math.inf if plain is None else sampling.top_p * plain.total
    if plain is None or sampling.temperature != 1.0:
        weights = Weights(row, sampling.temperature, "tempered")
    else:
        weights = plain
    if sampling.min_p > 0.0:
        weights.keep(row >= least_logit(row, sampling.min_p))
    if plain is None:
        return weights.pick(random)
    while True:
        token = weights.pick(random)
        before = _before(row, token)
        if not before.any() or plain.held_by(before) < wanted:
            return token
        # `weights` may be `plain`: the tokens that are asked about from here on stay what they are.
        weights.keep(before)
