"""The guesses for one request: from its own text, or from the draft model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tuneserve.serve.engine.acceptance import (
    Acceptance,
    Source,
    any_draft_kind,
    draft_kind,
    prompt_kind,
)
from tuneserve.serve.engine.adjustments import Adjustments
from tuneserve.serve.engine.draft_model import FollowedText
from tuneserve.serve.engine.ngrams import NgramDrafter
from tuneserve.serve.engine.proposals import Proposal, propose
from tuneserve.serve.engine.sampling import draw_seed, takes_proposals
from tuneserve.serve.engine.types import GREEDY, SamplingParams
from tuneserve.serve.engine.weights import LogitsError, Row, Weights

LEAST_LIKELY = 0.1
"""A guess less likely than this to be reached and right is not worth a place in any batch."""


@dataclass(frozen=True, slots=True)
class Guess:
    """A draft model's guess, and the chance that it and all before it are right; `proposal`, if it
    was drawn."""

    token: int
    kind: int
    chance: float
    proposal: Proposal | None = None


class RequestDrafter:
    """The guesses for one request, and how good they were. The text is indexed when the first token
    of the answer is there: who waits in the queue has no index yet. `text`: the request's for the
    draft model, if there is one."""

    def __init__(
        self,
        tokens: list[int],
        everyone: Acceptance,
        text: FollowedText | None = None,
        sampling: SamplingParams = GREEDY,
    ) -> None:
        self.text = text
        self.source: Source = "prompt"
        """Of the last draft."""
        self.guesses: list[Guess] = []
        """The draft model's for the coming tokens."""
        self._tokens = tokens
        self._ngrams: NgramDrafter | None = None
        self._acceptance = Acceptance(everyone)
        self._sampling = sampling
        self._draws = takes_proposals(sampling)
        self._any = any_draft_kind(drawn=self._draws)
        # Penalties are left to the served model: they cost its guesses little.
        self._bias = Adjustments(replace(sampling, penalty_window=0))
        self._open: Sequence[Guess] = ()

    def see(self) -> None:
        """A token was appended to the request's."""
        if self._open:
            self._judge(self._tokens[-1])
        elif self.text is not None:
            self._acceptance.fade()
        if self._ngrams is None:
            self._ngrams = NgramDrafter(self._tokens)
            return
        matched = self._ngrams.matched
        right = self._ngrams.see()
        if matched:
            self._acceptance.observe(prompt_kind(matched), right)

    def _judge(self, token: int) -> None:
        guess = self._open[0]
        right = guess.token == token
        for kind in (guess.kind, self._any):
            self._acceptance.observe(kind, right)
        self._open = self._open[1:] if right else ()

    def chances(self, count: int) -> list[float]:
        """For each of at most `count` guesses, that it and all before it are right."""
        if self.guesses:
            return [guess.chance for guess in self.guesses[:count]]
        found: list[float] = []
        if self._ngrams is None or not self._ngrams.matched:
            return found
        matched, chance = self._ngrams.matched, 1.0
        for place in range(count):
            chance *= self._acceptance.probability(prompt_kind(matched + place))
            if chance < LEAST_LIKELY:
                break
            found.append(chance)
        return found

    def draft(self, count: int) -> list[int]:
        """The next `count` tokens as they would be; not without `chances`."""
        self.source = "draft" if self.guesses else "prompt"
        self._open = self.guesses[:count]
        if self.guesses:
            return [guess.token for guess in self._open]
        assert self._ngrams is not None
        return self._ngrams.draft(count)

    # -- the draft model ----------------------------------------------------------------------

    @property
    def draws(self) -> bool:
        """Were the guesses drawn? Then all of them must be computed."""
        return self._draws and bool(self.guesses)

    def proposal(self, place: int) -> Proposal | None:
        """The drawn guess at a place of the draft."""
        return self._open[place].proposal if place < len(self._open) else None

    def rate(self) -> float:
        """That a guess of the draft model is right, before it is known; 0 where prompt lookup has
        a better one."""
        rate = self._acceptance.probability(self._any)
        return rate if rate > max(LEAST_LIKELY, *self.chances(1), 0.0) else 0.0

    @cached_property
    def _random(self) -> np.random.Generator:
        """Independent of the served model's draws, with a seed too: these judge the guesses."""
        return np.random.default_rng([draw_seed(self._sampling.seed), 1])

    def guess(self, row: Row) -> bool:
        """Add the draft model's guess from its logits, which are written to, but the same again
        when the call returns; False if it is not worth a place."""
        with self._bias.applied_to(row):
            try:
                guess = self._guess(row)
            except LogitsError:
                return False
        if guess is not None:
            self.guesses.append(guess)
        return guess is not None

    def _guess(self, row: Row) -> Guess | None:
        token = int(row.argmax())
        weights = Weights(row, name="draft")
        # What is drawn has no say in whether it is used.
        kind = draft_kind(float(weights.flat[token]) / weights.total, drawn=self._draws)
        before = self.guesses[-1].chance if self.guesses else 1.0
        chance = before * self._acceptance.probability(kind)
        if chance < LEAST_LIKELY:
            return None
        if not self._draws:
            return Guess(token, kind, chance)
        proposal = propose(row, self._sampling, self._random)
        return Guess(proposal.token, kind, chance, proposal)

    def release(self) -> None:
        """The request has ended, or must wait."""
        self.guesses, self._open = [], ()
        if self.text is not None:
            self.text.release()
