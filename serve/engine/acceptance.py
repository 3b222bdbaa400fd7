"""How often guessed tokens were right, by the kind of guess."""

from __future__ import annotations

from bisect import bisect
from typing import Literal

Source = Literal["prompt", "draft"]
"""Where a guess comes from: the text so far (prompt lookup), or the draft model."""

SOURCES: tuple[Source, ...] = ("prompt", "draft")

_PROMPT = (0.3, 0.5, 0.75, 0.9)
"""Share of right guesses by the number of agreeing tokens before it: up to 4, 8, 16, more."""

_BOUNDS = (0.3, 0.5, 0.7, 0.85, 0.95)
_DRAFT = (0.25, 0.4, 0.6, 0.75, 0.88, 0.95)
"""Share of right guesses by the probability that the draft model gives them: below each bound."""

_ANY = 0.7
"""Of a draft model's guesses, whatever it thinks of them: high, so that it is tried."""

_PRIOR = (*_PROMPT, *_DRAFT, *_DRAFT, _ANY, _ANY)
_PRIOR_WEIGHT = 4.0
_FORGET = 0.97
_FADE = 0.998


def prompt_kind(matched: int) -> int:
    """The kind of a guess of prompt lookup behind `matched` agreeing tokens."""
    return max(0, min(len(_PROMPT) - 1, (matched - 1).bit_length() - 2))


def draft_kind(probability: float, *, drawn: bool) -> int:
    """The kind of a draft model's guess of this probability; `drawn` from its distribution, or the
    most probable token."""
    return len(_PROMPT) + len(_DRAFT) * drawn + bisect(_BOUNDS, probability)


def any_draft_kind(*, drawn: bool) -> int:
    """The kind of all guesses of a draft model together."""
    return len(_PRIOR) - 2 + drawn


class Acceptance:
    """How often guesses were right, by the kind of guess; recent ones count more. What was seen at
    `prior` fills in where little was seen here."""

    def __init__(self, prior: Acceptance | None = None) -> None:
        self._prior = prior
        self._right = [0.0] * len(_PRIOR)
        self._tried = [0.0] * len(_PRIOR)

    def probability(self, kind: int) -> float:
        """That a guess of this kind is right."""
        prior = _PRIOR[kind] if self._prior is None else self._prior.probability(kind)
        right = self._right[kind] + _PRIOR_WEIGHT * prior
        return right / (self._tried[kind] + _PRIOR_WEIGHT)

    def observe(self, kind: int, right: bool) -> None:
        self._right[kind] = _FORGET * self._right[kind] + right
        self._tried[kind] = _FORGET * self._tried[kind] + 1.0
        if self._prior is not None:
            self._prior.observe(kind, right)

    def fade(self) -> None:
        """A token came without a guess of the draft model: what was seen of these is a little
        older, so that a model which did not pay is tried again, hundreds of tokens later."""
        first = len(_PROMPT)
        for seen in (self._right, self._tried):
            seen[first:] = [_FADE * number for number in seen[first:]]
        if self._prior is not None:
            self._prior.fade()
