"""Drawing a token from a row of logits, in NumPy. The definitions are llama.cpp's.

Filters apply in the order top-k, top-p, min-p, temperature; a token is drawn from what they leave,
and they always leave the most probable one. A row has up to 256,000 logits, and a step up to 256
rows, so nothing here sorts a row or adds it up one by one:

- Where few tokens can be drawn, they are found by the maxima of groups of tokens, and everything
  else is done to them alone.
- Where many can (no filter, or flat logits), weights are summed in float32 by blocks, and a draw
  looks for its block first. Top-p then needs no set: a token belongs to the nucleus if those before
  it hold less than top-p. One that does not is drawn again, among those before it: what is drawn in
  the end follows the same distribution.

Equally probable tokens are ordered by their ids. Everything about a row happens in the calling
thread and in its own memory: the result does not depend on other rows or threads.
"""

from __future__ import annotations

import math
import threading

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

NUCLEUS_SHARES = (1e-4, 1e-6)
"""The tokens with at least these probabilities are tried as a set that contains the nucleus."""


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
    groups = Groups(row)
    if 0 < sampling.top_k < len(row):
        return _draw_of_few(row, groups.largest(sampling.top_k), sampling, random)
    plain = Weights(row) if sampling.top_p < 1.0 else None
    few = None
    if sampling.min_p > 0.0:
        few = groups.few_from(groups.largest_logit + math.log(sampling.min_p))
    elif plain is not None:
        few = _holding(plain, sampling.top_p, groups)
    if few is not None:
        return _draw_of_few(row, few, sampling, random, plain)
    return _draw_of_many(row, sampling, random, plain)


def token_logprob(row: Row, token: int, alternatives: int) -> TokenLogprob:
    """log p of `token` under the model's own distribution, and the best `alternatives`.

    The error is below 1e-5. Raises LogitsError.
    """
    weights = Weights(row)
    log_sum = math.log(weights.total) + weights.shift
    top: tuple[tuple[int, float], ...] = ()
    if alternatives:
        ids = Groups(row).largest(min(alternatives, len(row)))
        best = ids[np.argsort(-row[ids], kind="stable")][:alternatives]
        logprobs = row[best].astype(np.float64) - log_sum
        top = tuple(zip(best.tolist(), logprobs.tolist(), strict=True))
    return TokenLogprob(token, float(row[token]) - log_sum, top)


def _most_probable(row: Row) -> int:
    token = int(row.argmax())
    if not math.isfinite(row[token]):
        raise LogitsError
    return token


def _holding(plain: Weights, top_p: float, groups: Groups) -> Ids | None:
    """Tokens among which all of the nucleus is, if few are enough."""
    for share in NUCLEUS_SHARES:
        few = groups.few_from(math.log(share * plain.total) + plain.shift)
        if few is None:
            return None
        if plain.flat[few].sum(dtype=np.float64) >= top_p * plain.total:
            return few
    return None


def _draw_of_few(
    row: Row,
    few: Ids,
    sampling: SamplingParams,
    random: np.random.Generator,
    plain: Weights | None = None,
) -> int:
    """Draw from `few` tokens: all that top-k leaves, or all that top-p and min-p can leave of the
    row, whose weights are `plain`."""
    logits = row[few].astype(np.float64)
    order = np.argsort(-logits, kind="stable")
    if sampling.top_k > 0:
        order = order[: sampling.top_k]
    largest = float(logits[order[0]])
    logits = logits[order] - largest
    count = len(logits)
    if sampling.top_p < 1.0:
        held = np.cumsum(np.exp(logits))
        total = held[-1] if plain is None else plain.total * math.exp(plain.shift - largest)
        count = min(count, int(np.searchsorted(held, sampling.top_p * total)) + 1)
    if sampling.min_p > 0.0:
        count = min(count, int(np.count_nonzero(logits >= math.log(sampling.min_p))))
    weights = np.exp(logits[:count] / max(sampling.temperature, COLDEST))
    return int(few[order[_place(weights, random.random())[0]]])


def _draw_of_many(
    row: Row, sampling: SamplingParams, random: np.random.Generator, plain: Weights | None
) -> int:
    wanted = math.inf if plain is None else sampling.top_p * plain.total
    if plain is None or sampling.temperature != 1.0:
        weights = Weights(row, sampling.temperature, "tempered")
    else:
        weights = plain
    if sampling.min_p > 0.0:
        weights.keep(row >= row.max() + np.float32(math.log(sampling.min_p)))
    if plain is None:
        return weights.pick(random)
    while True:
        token = weights.pick(random)
        before = row > row[token]
        before[:token] |= row[:token] == row[token]
        if not before.any() or plain.held_by(before) < wanted:
            return token
        # `weights` may be `plain`: the tokens that are asked about from here on stay what they are.
        weights.keep(before)


class Groups:
    """The maxima of a row's groups of tokens, by which its largest logits are found.

    A group is every n-th token, so that the maxima of all are one vector operation. The tokens
    left over at the end are groups of one. Raises LogitsError.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self._count = len(row) // GROUP
        self._matrix = row[: self._count * GROUP].reshape(GROUP, self._count)
        rest = row[self._count * GROUP :]
        self._maxima = np.concatenate((self._matrix.max(axis=0), rest))
        self.largest_logit = float(self._maxima.max())
        if not math.isfinite(self.largest_logit):
            raise LogitsError

    def largest(self, k: int) -> Ids:
        """Tokens that include the k with the largest logits (1 <= k <= len(row)), by id."""
        # Of few groups the k-th largest maximum would be small, and too many tokens above it.
        among = self._maxima if 4 * k <= len(self._maxima) else self._row
        return self._from(float(np.partition(among, len(among) - k)[len(among) - k]))

    def few_from(self, logit: float) -> Ids | None:
        """The tokens whose logit is at least this, by id, and the largest in any case. None if
        they are many."""
        least = min(logit, self.largest_logit)
        if np.count_nonzero(self._maxima >= np.float32(least)) > FEW * len(self._row):
            return None
        ids = self._from(least)
        return ids if len(ids) <= max(GROUP, FEW * len(self._row)) else None

    def _from(self, logit: float) -> Ids:
        least = np.float32(logit)
        groups = np.flatnonzero(self._maxima >= least)
        if len(groups) * GROUP > FEW * len(self._row):
            return np.flatnonzero(self._row >= least)
        whole = groups[: np.searchsorted(groups, self._count)]
        place, column = np.nonzero(self._matrix[:, whole] >= least)
        # Tokens of the rest are groups of one: group `count` is the first of them.
        rest = groups[len(whole) :] + (GROUP - 1) * self._count
        return np.concatenate((place * self._count + whole[column], rest))


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

    def keep(self, tokens: Mask) -> None:
        """Let all others have no weight."""
        np.multiply(self.flat, tokens, out=self.flat)
        self._sum_up()


def _place(weights: npt.NDArray[np.floating], fraction: float) -> tuple[int, float]:
    """Where in the sum of `weights` a fraction of it in [0, 1) lies: index and fraction of that
    weight, never of one that is 0."""
    sums = np.cumsum(weights, dtype=np.float64)
    wanted = fraction * float(sums[-1])
    index = int(np.searchsorted(sums, wanted, side="right"))
    if index == len(sums):
        index = int(np.searchsorted(sums, sums[-1]))
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
