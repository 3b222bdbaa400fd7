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
import threading
from typing import Self

import numpy as np
import numpy.typing as npt

from tuneserve.serve.engine.types import EngineError, SamplingParams, TokenLogprob

Row = npt.NDArray[np.float32]
"""Logits of one position: [n_vocab]."""

Ids = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

GROUP = 64
"""Tokens of which one maximum is kept."""

BLOCK = 512
"""Weights that are summed in float32; the sums of blocks are summed in float64."""

SAFE_TOTALS = (1e-25, 1e37)
"""Between these a float32 sum of exp(logit) has lost nothing to underflow or overflow."""

COLDEST = 1e-20
"""Temperatures below this are taken as this; their inverse would leave float32."""

FEW = 1 / 16
"""Up to this share of a row, tokens are looked at one by one."""

HEAD_SHARE = 1e-4
"""Tokens of this probability at least are drawn from without a look at the others, if they hold
top-p."""

MOST_REJECTIONS = 20
"""Then the weights of all tokens are computed at the temperature asked for."""


class LogitsError(EngineError):
    """The model gave no logits to draw from."""

    def __init__(self) -> None:
        super().__init__("the model's logits are not finite numbers")


def draw(row: Row, sampling: SamplingParams, random: np.random.Generator) -> int:
    """A token of a row, by temperature (0: the most probable) and filters.

    Raises LogitsError if the largest logit is not finite.
    """
    if sampling.temperature <= 0.0:
        return _most_probable(row)
    if 0 < sampling.top_k < len(row):
        return _draw_of_few(row, _largest(row, sampling.top_k), sampling, random)
    plain = Weights(row) if sampling.top_p < 1.0 else None
    if sampling.min_p > 0.0:
        few = np.flatnonzero(row >= _least_logit(row, sampling.min_p))
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
        best = _largest(row, min(alternatives, len(row)))
        logprobs = row[best].astype(np.float64) - log_sum
        top = tuple(zip(best.tolist(), logprobs.tolist(), strict=True))
    return TokenLogprob(token, float(row[token]) - log_sum, top)


def _most_probable(row: Row) -> int:
    token = int(row.argmax())
    if not math.isfinite(row[token]):
        raise LogitsError
    return token


def _least_logit(row: Row, min_p: float) -> np.float32:
    largest: np.float32 = row.max()
    if not math.isfinite(largest):
        raise LogitsError
    return largest + np.float32(math.log(min_p))


def _largest(row: Row, k: int) -> Ids:
    """The tokens with the k largest logits, best first (k <= len(row)).

    What is above the k-th largest maximum of groups of tokens includes them. A group is every n-th
    token, so that the maxima of all are one vector operation. The tokens left over at the end are
    taken as groups of one.
    """
    count = len(row) // GROUP
    matrix = row[: count * GROUP].reshape(GROUP, count)
    maxima = np.concatenate((matrix.max(axis=0), row[count * GROUP :]))
    if not math.isfinite(maxima.max()):
        raise LogitsError
    if 4 * k <= len(maxima):
        least = np.partition(maxima, len(maxima) - k)[len(maxima) - k]
        groups = np.flatnonzero(maxima >= least)
        whole = groups[: np.searchsorted(groups, count)]
        place, column = np.nonzero(matrix[:, whole] >= least)
        rest = groups[len(whole) :] + (GROUP - 1) * count
        ids = np.concatenate((place * count + whole[column], rest))
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
    largest = float(logits.max())
    logits -= largest
    weights = np.exp(logits / max(sampling.temperature, COLDEST))
    if sampling.min_p > 0.0:
        weights *= logits >= math.log(sampling.min_p)
    if sampling.top_p >= 1.0:
        return int(few[_place(weights, random.random())[0]])
    held = np.exp(logits)
    total = held.sum() if plain is None else plain.total * math.exp(plain.shift - largest)
    while True:
        index = _place(weights, random.random())[0]
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
    head = np.flatnonzero(plain.flat >= bar)
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
        place = random.random() * (in_head + in_rest)
        if place < in_head:
            return int(head[sums.searchsorted(place, side="right")])
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
        weights.keep(row >= _least_logit(row, sampling.min_p))
    if plain is None:
        return weights.pick(random)
    while True:
        token = weights.pick(random)
        before = _before(row, token)
        if not before.any() or plain.held_by(before) < wanted:
            return token
        # `weights` may be `plain`: the tokens that are asked about from here on stay what they are.
        weights.keep(before)


class Weights:
    """exp(logit / temperature - shift) of a row's tokens, in the calling thread's memory `name`.

    Raises LogitsError.
    """

    def __init__(self, row: Row, temperature: float = 1.0, name: str = "plain") -> None:
        self._blocks = _memory.blocks(name, len(row))
        self.flat = self._blocks.reshape(-1)[: len(row)]
        self.shift = 0.0
        heat = np.float32(max(temperature, COLDEST))
        low, high = SAFE_TOTALS
        with np.errstate(all="ignore"):
            scaled = row if temperature == 1.0 else np.multiply(row, 1 / heat, out=self.flat)
            np.exp(scaled, out=self.flat)
            self._sum_up()
            if not low < self.total < high:
                largest = row.max()
                self.shift = float(largest) / float(heat)
                np.subtract(row, largest, out=self.flat)
                np.divide(self.flat, heat, out=self.flat)
                np.exp(self.flat, out=self.flat)
                self._sum_up()
        if not low < self.total < high:
            raise LogitsError

    def _sum_up(self) -> None:
        self._sums = np.einsum("ij->i", self._blocks)
        self.total = float(self._sums.sum(dtype=np.float64))

    def pick(self, random: np.random.Generator) -> int:
        """A token, drawn by weight."""
        block, rest = _place(self._sums, random.random())
        return block * BLOCK + _place(self._blocks[block], rest)[0]

    def held_by(self, tokens: Mask) -> float:
        """The sum of these tokens' weights."""
        blocks = _memory.blocks("held", len(tokens))
        np.multiply(self.flat, tokens, out=blocks.reshape(-1)[: len(tokens)])
        return float(np.einsum("ij->i", blocks).sum(dtype=np.float64))

    def without(self, tokens: Ids) -> Self:
        """The same, changed: these have no weight."""
        self.flat[tokens] = 0.0
        self._sum_up()
        return self

    def keep(self, tokens: Mask) -> None:
        """Let all others have no weight."""
        np.multiply(self.flat, tokens, out=self.flat)
        self._sum_up()


def _place(weights: npt.NDArray[np.floating], fraction: float) -> tuple[int, float]:
    """Where in the sum of `weights` a fraction of it in [0, 1) lies: index and fraction of that
    weight, never of one that is 0."""
    sums = weights.cumsum(dtype=np.float64)
    wanted = fraction * float(sums[-1])
    index = int(sums.searchsorted(wanted, side="right"))
    if index == len(sums):
        index = int(sums.searchsorted(sums[-1]))
    before = float(sums[index - 1]) if index else 0.0
    rest = (wanted - before) / float(weights[index])
    return index, min(max(rest, 0.0), 1.0 - 2.0**-53)


class _Memory(threading.local):
    """Arrays of the calling thread, made once for rows of any length."""

    def __init__(self) -> None:
        self._arrays: dict[str, npt.NDArray[np.float32]] = {}

    def blocks(self, name: str, size: int) -> npt.NDArray[np.float32]:
        """[blocks, BLOCK] for `size` values; zero where there are none."""
        room = -(-size // BLOCK) * BLOCK
        array = self._arrays.get(name)
        if array is None or len(array) < room:
            array = self._arrays[name] = np.empty(room, np.float32)
        array[size:room] = 0.0
        return array[:room].reshape(-1, BLOCK)


_memory = _Memory()
