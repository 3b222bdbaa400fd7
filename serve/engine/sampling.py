"""Choosing the next token: llama.cpp's samplers in C, one chain per request, or numpy.

The order is llama.cpp's own (common/sampling.cpp): logit bias, penalties, top-k, top-p, min-p,
temperature, draw. A grammar is not part of the chain: checking the drawn token alone is cheap, and
only a token that the grammar forbids costs a second draw, from the tokens that it allows.

Three common cases need no chain, since numpy does the same over the plain row of logits faster
(measured with a vocabulary of 49,152): the most probable token (11 us, chain 42), a draw from the
whole vocabulary (150 us, chain 290) and from the nucleus of top-p, which llama.cpp finds by sorting
(70 to 180 us, chain 1,900). With many clients this is the difference between a few milliseconds
a step and more than the model itself takes on a GPU.
"""

from __future__ import annotations

import ctypes
import secrets
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tuneserve.chat.thinking import CLOSE_THOUGHTS
from tuneserve.llama import LlamaContext, LlamaModel, backend
from tuneserve.serve.engine.thinking import Stage, ThinkingState
from tuneserve.serve.engine.types import GrammarFailedError, SamplingParams, TokenLogprob

Row = npt.NDArray[np.float32]
"""Logits of one position: [n_vocab]."""


class TokenSampler:
    """Chooses the tokens of one answer. Close it: the chain is llama.cpp's memory."""

    def __init__(self, model: LlamaModel, sampling: SamplingParams) -> None:
        self._api = backend()
        self._n_vocab = model.n_vocab
        self._model = model
        self._sampling = sampling
        self._stages = ThinkingState(
            sampling.thoughts, mark=sampling.grammar_after, budget=sampling.thinking_budget
        )
        self._grammar = None if sampling.grammar is None else sampling.grammar.deep_copy()
        self._mask = np.zeros(-(-model.n_vocab // 32), np.uint32)
        self._forced: deque[int] = deque()
        self._chain = None
        self._random = None
        if sampling.logit_bias or sampling.penalizes or sampling.top_k > 0:
            self._chain = self._make_chain(sampling)
        elif sampling.temperature > 0.0:
            self._random = np.random.default_rng(draw_seed(sampling.seed))

    def close(self) -> None:
        if self._chain:
            self._api.llama_sampler_free(self._chain)
        self._chain = self._grammar = None

    def sample(self, context: LlamaContext, index: int, row: Row) -> int:
        """The token after the batch's `index`-th, whose logits are `row`. Raises
        GrammarFailedError."""
        if self._forced:
            token = self._forced.popleft()
        elif self._grammar is None:
            token = self._sample_freely(context, index, row)
        elif self._stages.bounded:
            return self._sample_by_grammar(row)
        elif self._stages.bounded_unless_thought:
            token = self._sample_first(row)
        else:
            token = self._cut(self._sample_freely(context, index, row))
        if not self._stages.bounded and self._stages.see(self._model.token_bytes(token)):
            self._force(f"\n{CLOSE_THOUGHTS}\n\n")
        return token

    def _sample_freely(self, context: LlamaContext, index: int, row: Row) -> int:
        if self._chain is None:
            return self._choose(row)
        return int(self._api.llama_sampler_sample(self._chain, context.handle, index))

    def _choose(self, row: Row, allowed: npt.NDArray[np.intp] | None = None) -> int:
        """A token, of the `allowed` ones if they are given. The chain's state is not updated."""
        if allowed is not None:
            row = row[allowed]
        if self._chain is not None:
            candidates = Candidates(row, allowed)
            self._api.llama_sampler_apply(self._chain, candidates.pointer)
            return candidates.selected
        if self._random is not None:
            place = draw(row, self._sampling, self._random)
        else:
            place = int(row.argmax())
        return place if allowed is None else int(allowed[place])

    def _sample_first(self, row: Row) -> int:
        """The first token of an answer with a grammar that may begin with thoughts: one that opens
        them, or else one that the grammar allows."""
        token = self._choose(row)
        rest = self._stages.begins_thought(self._model.token_bytes(token))
        if rest is None or self._allows(token):
            self._stages.enter(Stage.ANSWER)
            return self._sample_by_grammar(row)
        self._accept(token)
        self._force(rest)
        return token

    def _accept(self, token: int) -> None:
        if self._chain is not None:
            self._api.llama_sampler_accept(self._chain, token)

    def _cut(self, token: int) -> int:
        """Replace a token whose text goes on after the mark by tokens whose text ends with the
        mark."""
        piece = self._model.token_bytes(token)
        cut = self._stages.cut(piece)
        if len(cut) == len(piece):
            return token
        self._force(cut.decode("utf-8", "ignore"))
        return self._forced.popleft()

    def _force(self, text: str) -> None:
        if not self._forced:
            self._forced.extend(self._model.tokenize(text, parse_special=True))

    def _sample_by_grammar(self, row: Row) -> int:
        assert self._grammar is not None
        token = self._choose(row)
        if not self._allows(token):
            token = self._choose(row, self._allowed_tokens())
        if not self._model.is_end(token) and not self._grammar.consume_token(token):
            raise self._failed(self._grammar.get_error())
        self._accept(token)
        return token

    def _allows(self, token: int) -> bool:
        """Does the grammar allow this token? End tokens are allowed where the answer is
        complete."""
        assert self._grammar is not None
        if self._model.is_end(token):
            return self._grammar.is_accepting()
        return self._grammar.validate_tokens([token]) == 1

    def _allowed_tokens(self) -> npt.NDArray[np.intp]:
        assert self._grammar is not None
        self._grammar.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._grammar.is_error():
            raise self._failed(self._grammar.get_error())
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._n_vocab, bitorder="little")
        bits[list(self._model.end_tokens)] = self._grammar.is_accepting()
        allowed = np.flatnonzero(bits)
        if not len(allowed):
            raise self._failed("no token of the vocabulary fits")
        return allowed

    @staticmethod
    def _failed(reason: str) -> GrammarFailedError:
        cause = reason.partition("\n")[0]
        return GrammarFailedError(f"the answer can't go on by its grammar: {cause}")

    def _make_chain(self, sampling: SamplingParams) -> Any:
        api = self._api
        params = api.llama_sampler_chain_default_params()
        params.no_perf = True
        chain = api.llama_sampler_chain_init(params)
        add = partial(api.llama_sampler_chain_add, chain)
        if sampling.logit_bias:
            add(self._logit_bias(sampling.logit_bias))
        if sampling.penalizes:
            add(
                api.llama_sampler_init_penalties(
                    self._n_vocab,
                    sampling.penalty_window,
                    sampling.repeat_penalty,
                    sampling.frequency_penalty,
                    sampling.presence_penalty,
                )
            )
        if sampling.temperature <= 0.0:
            add(api.llama_sampler_init_greedy())
            return chain
        if sampling.top_k > 0:
            add(api.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1.0:
            add(api.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0.0:
            add(api.llama_sampler_init_min_p(sampling.min_p, 1))
        if sampling.temperature != 1.0:
            add(api.llama_sampler_init_temp(sampling.temperature))
        add(api.llama_sampler_init_dist(draw_seed(sampling.seed)))
        return chain

    def _logit_bias(self, bias: Mapping[int, float]) -> Any:
        pairs = (self._api.llama_logit_bias * len(bias))()
        for pair, (token, value) in zip(pairs, bias.items(), strict=True):
            pair.token, pair.bias = token, value
        return self._api.llama_sampler_init_logit_bias(self._n_vocab, len(bias), pairs)


def draw(row: Row, sampling: SamplingParams, random: np.random.Generator) -> int:
    """A token drawn from the distribution that top-p, min-p and temperature leave of a row."""
    weights = row - row.max()
    np.exp(weights, out=weights)
    kept: npt.NDArray[np.intp] | None = None
    if sampling.top_p < 1.0:
        kept = nucleus(weights, sampling.top_p)
        weights = weights[kept]
    if sampling.min_p > 0.0:
        likely = np.flatnonzero(weights >= sampling.min_p)
        kept, weights = likely if kept is None else kept[likely], weights[likely]
    if sampling.temperature != 1.0:
        np.power(weights, np.float32(1.0 / sampling.temperature), out=weights)
    sums = np.cumsum(weights, dtype=np.float64)
    place = int(np.searchsorted(sums, random.random() * sums[-1], side="right"))
    place = min(place, len(sums) - 1)
    return place if kept is None else int(kept[place])


def nucleus(weights: Row, top_p: float) -> npt.NDArray[np.intp]:
    """The fewest most probable tokens that hold `top_p` of the probability, best first.

    `weights` are probabilities relative to the best token's. Only those above a threshold are
    sorted; it is lowered until they hold enough.
    """
    wanted = top_p * float(weights.sum(dtype=np.float64))
    for threshold in (1e-3, 1e-4, 1e-5, -1.0):
        candidates = np.flatnonzero(weights > threshold)
        if weights[candidates].sum(dtype=np.float64) >= wanted:
            break
    candidates = candidates[np.argsort(-weights[candidates])]
    sums = np.cumsum(weights[candidates], dtype=np.float64)
    return candidates[: int(np.searchsorted(sums, wanted)) + 1]


def draw_seed(seed: int | None) -> int:
    """A seed for llama.cpp, which knows 32 bits and takes the largest to mean 'any'."""
    return secrets.randbelow(0xFFFFFFFF) if seed is None else seed % 0xFFFFFFFF


_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Candidates:
    """A llama_token_data_array over numpy memory: logits of all tokens, or of those in `ids`."""

    def __init__(self, row: Row, ids: npt.NDArray[np.intp] | None = None) -> None:
        self._data = np.zeros(len(row), _CANDIDATE)
        self._data["id"] = np.arange(len(row)) if ids is None else ids
        self._data["logit"] = row
        api = backend()
        data = self._data.ctypes.data_as(ctypes.POINTER(api.llama_token_data))
        self._array = api.llama_token_data_array(
            data=data, size=len(self._data), selected=-1, sorted=False
        )
        self.pointer = ctypes.byref(self._array)

    @property
    def selected(self) -> int:
        return int(self._array.data[self._array.selected].id)


def token_logprob(row: Row, token: int, alternatives: int) -> TokenLogprob:
    """log p of `token` under the model's own distribution, and the best `alternatives`."""
    shifted = row.astype(np.float64) - float(row.max())
    log_sum = float(np.log(np.exp(shifted).sum()))
    top: tuple[tuple[int, float], ...] = ()
    if alternatives:
        best = np.argpartition(row, -alternatives)[-alternatives:]
        best = best[np.argsort(row[best])[::-1]]
        top = tuple((int(i), float(shifted[i]) - log_sum) for i in best)
    return TokenLogprob(token, float(shifted[token]) - log_sum, top)
