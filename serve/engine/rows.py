"""Drawing the tokens of a step from its rows of logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.llama import LlamaModel
from tuneserve.serve.engine.drawing import most_probable, token_logprob
from tuneserve.serve.engine.request import Request
from tuneserve.serve.engine.row_threads import RowThreads
from tuneserve.serve.engine.sampling import TokenSampler
from tuneserve.serve.engine.types import GrammarFailedError, TokenLogprob
from tuneserve.serve.engine.weights import LogitsError, Weights

Drawn = tuple[int, TokenLogprob | None] | GrammarFailedError | LogitsError
"""A token of an answer, or why there is none: the request's own grammar or logits."""

TOGETHER_LOGITS = 1 << 19
"""Logits of neighbours that are read in one call: enough that other threads get on meanwhile, and
few enough for a core's cache."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Requests whose tokens are drawn together, and their rows: one for the next token of each and
    one for each guess of its draft, which are right while the guesses before them are."""

    requests: Sequence[Request]
    logits: Floats


class RowDrawer:
    """Draws every answer's next tokens, each from its own rows. Close it."""

    def __init__(self, model: LlamaModel, threads: int) -> None:
        self._model = model
        self._threads = RowThreads(threads)

    def close(self) -> None:
        self._threads.close()

    def draw(self, requests: Sequence[Request], logits: Floats) -> list[list[Drawn]]:
        """Each request's next tokens, at least one; `logits` are their rows in the same order."""
        groups = self._together(requests, logits)
        drawn = self._threads.map(self._draw, groups, logits=logits.size)
        return [tokens for several in drawn for tokens in several]

    def _draw(self, rows: _Rows) -> list[list[Drawn]]:
        """Called in several threads."""
        first = rows.requests[0]
        if first.is_plainly_greedy:
            return self._most_probable(rows)
        temperature = self._sampler(first).weights_at
        if temperature is None or first.draft:
            return [self._sample(request, rows.logits) for request in rows.requests]
        weights = Weights.of_rows(rows.logits, temperature)
        return [
            self._sample(request, row[np.newaxis], own)
            for request, row, own in zip(rows.requests, rows.logits, weights, strict=True)
        ]

    def _sampler(self, request: Request) -> TokenSampler:
        if request.sampler is None:
            request.sampler = TokenSampler(self._model, request.sampling)
        return request.sampler

    def _most_probable(self, rows: _Rows) -> list[list[Drawn]]:
        found: list[list[Drawn]] = []
        tokens = iter(most_probable(rows.logits))
        for request in rows.requests:
            if not request.draft:
                token = next(tokens)
                found.append([LogitsError() if token is None else (token, None)])
                continue
            own: list[Drawn] = []
            wrong = False
            for guess in (*request.draft, None):
                token = next(tokens)
                if not wrong:
                    own.append(LogitsError() if token is None else (token, None))
                    wrong = token is None or token != guess or self._model.is_end(token)
            found.append(own)
        return found

    def _sample(
        self, request: Request, rows: Floats, weights: Weights | None = None
    ) -> list[Drawn]:
        """`weights`: those of the only row, if they are there."""
        sampler = self._sampler(request)
        wanted = request.sampling.logprobs
        found: list[Drawn] = []
        for place, (row, guess) in enumerate(zip(rows, (*request.draft, None), strict=True)):
            proposal = request.drafter.proposal(place) if request.drafter else None
            try:
                token = sampler.sample(row, proposal, weights)
                logprob = None if wanted is None else token_logprob(row, token, wanted)
            except (GrammarFailedError, LogitsError) as error:
                found.append(error)
                break
            found.append((token, logprob))
            if token != guess or self._model.is_end(token):
                break
        return found

    def _together(self, requests: Sequence[Request], logits: Floats) -> list[_Rows]:
        """Neighbours that are read alike together; each other one alone."""
        most = max(1, TOGETHER_LOGITS // logits.shape[1])
        found: list[_Rows] = []
        group: list[Request] = []
        first = end = 0
        kind: object = None
        for request in requests:
            count = 1 + len(request.draft)
            own = self._kind(request)
            if group and (own is None or own != kind or end + count - first > most):
                found.append(_Rows(group, logits[first:end]))
                group, first = [], end
            group.append(request)
            kind = own
            end += count
        if group:
            found.append(_Rows(group, logits[first:end]))
        return found

    def _kind(self, request: Request) -> object:
        """Requests of the same kind can be read together; None: this one can't."""
        if request.is_plainly_greedy:
            return "greedy"
        return None if request.draft else self._sampler(request).weights_at
