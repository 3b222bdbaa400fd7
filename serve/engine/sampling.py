"""Choosing the next token with llama.cpp's samplers, in C, one chain per request.

The order is llama.cpp's own (common/sampling.cpp): logit bias, penalties, top-k, top-p, min-p,
temperature, draw. A grammar is not part of the chain: checking the drawn token alone is cheap, and
only a token that the grammar forbids costs a second draw over the whole vocabulary.
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from serve.engine.context import SequenceContext
from serve.engine.types import Sampling, TokenLogprob
from tuneserve.errors import UsageError
from tuneserve.llama import LlamaModel, backend

Row = npt.NDArray[np.float32]
"""Logits of one position: [n_vocab]."""


class TokenSampler:
    """Chooses the tokens of one answer. Close it: the chain is llama.cpp's memory."""

    def __init__(self, model: LlamaModel, sampling: Sampling) -> None:
        self._api = backend()
        self._n_vocab = model.n_vocab
        self._grammar = self._make_grammar(model, sampling.grammar)
        # The most probable token needs no chain: numpy's argmax over the row is faster.
        plain = sampling.temperature <= 0.0 and not sampling.logit_bias and not sampling.penalizes
        self._chain = None if plain and self._grammar is None else self._make_chain(sampling)
        self.takes_argmax = self._chain is None

    def close(self) -> None:
        for sampler in (self._chain, self._grammar):
            if sampler:
                self._api.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def sample(self, context: SequenceContext, index: int, row: Row) -> int:
        """The token after the batch's `index`-th, whose logits are `row`."""
        if self._chain is None:
            return int(row.argmax())
        if self._grammar is None:
            return int(self._api.llama_sampler_sample(self._chain, context.handle, index))
        return self._sample_by_grammar(row)

    def _sample_by_grammar(self, row: Row) -> int:
        candidates = Candidates(row)
        self._api.llama_sampler_apply(self._chain, candidates.pointer)
        token = candidates.selected
        lone = Candidates.of_token(token)
        self._api.llama_sampler_apply(self._grammar, lone.pointer)
        if lone.first_logit == -np.inf:
            candidates = Candidates(row)
            self._api.llama_sampler_apply(self._grammar, candidates.pointer)
            self._api.llama_sampler_apply(self._chain, candidates.pointer)
            token = candidates.selected
        self._api.llama_sampler_accept(self._grammar, token)
        self._api.llama_sampler_accept(self._chain, token)
        return token

    def _make_grammar(self, model: LlamaModel, grammar: str | None) -> Any:
        if grammar is None:
            return None
        made = self._api.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
        if not made:
            raise UsageError("llama.cpp can't read this grammar")
        return made

    def _make_chain(self, sampling: Sampling) -> Any:
        api = self._api
        params = api.llama_sampler_chain_default_params()
        params.no_perf = True
        chain = api.llama_sampler_chain_init(params)
        for sampler in self._samplers(sampling):
            api.llama_sampler_chain_add(chain, sampler)
        return chain

    def _samplers(self, sampling: Sampling) -> list[Any]:
        api = self._api
        made = []
        if sampling.logit_bias:
            made.append(self._logit_bias(sampling.logit_bias))
        if sampling.penalizes:
            made.append(
                api.llama_sampler_init_penalties(
                    self._n_vocab,
                    sampling.penalty_window,
                    sampling.repeat_penalty,
                    sampling.frequency_penalty,
                    sampling.presence_penalty,
                )
            )
        if sampling.temperature <= 0.0:
            return [*made, api.llama_sampler_init_greedy()]
        if sampling.top_k > 0:
            made.append(api.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1.0:
            made.append(api.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0.0:
            made.append(api.llama_sampler_init_min_p(sampling.min_p, 1))
        if sampling.temperature != 1.0:
            made.append(api.llama_sampler_init_temp(sampling.temperature))
        return [*made, api.llama_sampler_init_dist(draw_seed(sampling.seed))]

    def _logit_bias(self, bias: Mapping[int, float]) -> Any:
        pairs = (self._api.llama_logit_bias * len(bias))()
        for pair, (token, value) in zip(pairs, bias.items(), strict=True):
            pair.token, pair.bias = token, value
        return self._api.llama_sampler_init_logit_bias(self._n_vocab, len(bias), pairs)


def draw_seed(seed: int | None) -> int:
    """A seed for llama.cpp, which knows 32 bits and takes the largest to mean 'any'."""
    return secrets.randbelow(0xFFFFFFFF) if seed is None else seed % 0xFFFFFFFF


_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Candidates:
    """A llama_token_data_array over numpy memory."""

    def __init__(self, row: Row) -> None:
        self._data = np.zeros(len(row), _CANDIDATE)
        self._data["id"] = np.arange(len(row), dtype=np.int32)
        self._data["logit"] = row
        self._wrap()

    @classmethod
    def of_token(cls, token: int) -> Candidates:
        lone = cls(np.ones(1, np.float32))
        lone._data["id"] = token
        return lone

    def _wrap(self) -> None:
        api = backend()
        data = self._data.ctypes.data_as(ctypes.POINTER(api.llama_token_data))
        self._array = api.llama_token_data_array(
            data=data, size=len(self._data), selected=-1, sorted=False
        )
        self.pointer = ctypes.byref(self._array)

    @property
    def selected(self) -> int:
        return int(self._array.data[self._array.selected].id)

    @property
    def first_logit(self) -> float:
        return float(self._data["logit"][0])


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
