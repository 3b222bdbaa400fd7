"""How deep the draft model guesses in a step, and for whom: as far as it is expected to pay.

A round is one decode of the draft model, which adds one guess for each request that takes part. Its
time must be made up for by the steps of the served model that right guesses spare.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tuneserve.serve.engine.draft_model import DraftModel, FollowedText
from tuneserve.serve.engine.request_drafter import RequestDrafter

GAIN = 1.05
"""Tokens per second must grow by this factor, in expectation, for a draft to be computed."""

CLOSE_BEHIND = 16
"""Tokens that a round computes before its first guess without asking whether that pays."""

CATCH_UP_SECONDS = 0.1
"""How long running answers may stand still in a step for the draft model to read prompts."""

EXPECTED_TOKENS = 64
"""An answer is expected to get as many tokens again as it has, and so many at least."""

_STALE_STEPS = 256


class Drafted(Protocol):
    """A running request, as far as it can be drafted for."""

    drafter: RequestDrafter | None
    draft: Sequence[int]

    @property
    def remaining(self) -> int: ...

    @property
    def generated(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """`rounds` for the `requests` likeliest guessed right; `saved`: seconds for each token."""

    requests: int = 0
    rounds: int = 0
    saved: float = 0.0


@dataclass(frozen=True, slots=True)
class _Place:
    """A request that takes part."""

    drafter: RequestDrafter
    text: FollowedText
    rate: float
    most: int
    expected: int


class DraftRounds:
    """Lets a draft model guess for requests, at most `most` tokens for each in a step.
    `always`: whatever it costs."""

    def __init__(self, model: DraftModel, *, most: int, always: bool = False) -> None:
        self.model = model
        self._most = most
        self._always = always
        self._idle = 0

    def guess(
        self, requests: Sequence[Drafted], seconds: Sequence[float] | None, room: int, n_vocab: int
    ) -> float:
        """Let the model guess for those requests for which that is expected to pay: their drafters
        have the guesses then. Returns the seconds it took.

        `seconds`: how long a step takes with one token for each request and 0 … `room` more; None
        where that is not known. `n_vocab`: of the served model."""
        started = time.monotonic()
        places = self._places(requests)
        plan = self._plan([place.rate for place in places], seconds, len(requests), room)
        if not plan.rounds:
            self._rest()
            return 0.0
        self._idle = 0
        self.model.settle()
        ready = [place for place in places[: plan.requests] if self._is_close(place, plan.saved)]
        known = seconds or ()
        sure = float(len(requests))
        count = 0
        for depth in range(plan.rounds if self._always else self._most):
            active = [place for place in ready if len(place.drafter.guesses) == depth < place.most]
            active = active[: room - count]
            if not active or (
                depth
                and not self._always
                and not self._goes_on(active, known, sure, count, time.monotonic() - started)
            ):
                break
            rows = self.model.decode(
                [(place.text, [guess.token for guess in place.drafter.guesses]) for place in active]
            )
            if rows is None:
                break
            for place, row in zip(active, rows, strict=True):
                if place.drafter.guess(row[:n_vocab]):
                    sure += place.drafter.guesses[-1].chance
                    count += 1
        return time.monotonic() - started

    def _rest(self) -> None:
        """Nothing is drafted. What the model's steps cost may have changed when it is next thought
        of."""
        self._idle += 1
        if self._idle % _STALE_STEPS == 0 and self.model.usable:
            self.model.measure()

    def _places(self, requests: Sequence[Drafted]) -> list[_Place]:
        """Who can take part, the likeliest to be guessed right first."""
        found = []
        for request in requests:
            drafter = request.drafter
            if drafter is None or drafter.text is None or request.remaining < 2:
                continue
            rate = drafter.rate()
            if rate and self.model.begin(drafter.text):
                expected = min(request.remaining, max(request.generated, EXPECTED_TOKENS))
                most = min(self._most, request.remaining - 1)
                found.append(_Place(drafter, drafter.text, rate, most, expected))
        return sorted(found, key=lambda place: -place.rate)

    def _plan(
        self, rates: Sequence[float], seconds: Sequence[float] | None, sure: int, room: int
    ) -> Plan:
        """For how many of the requests, whose guesses are right at these `rates`, how many rounds
        give the most tokens per second."""
        if self._always and rates and room > 0:
            count = min(len(rates), room)
            return Plan(count, min(self._most, room // count))
        if seconds is None:
            return Plan()
        plain = sure / seconds[0]
        best, best_rate = Plan(), GAIN * plain
        most = min(len(rates), room)
        # Not every number: with many requests the search itself would take time.
        for count in sorted({*(1 << power for power in range(most.bit_length())), most} - {0}):
            cost = self._round_seconds(count)
            expected = float(sure)
            chances = list(rates[:count])
            for rounds in range(1, min(self._most, room // count) + 1):
                expected += sum(chances)
                chances = [chance * rate for chance, rate in zip(chances, rates, strict=False)]
                rate = expected / (seconds[count * rounds] + rounds * cost)
                if rate > best_rate:
                    # Of the time that is saved, each request's tokens have their part.
                    saved = (1.0 / plain - 1.0 / rate) * sure / count
                    best, best_rate = Plan(count, rounds, saved), rate
        return best

    def _goes_on(
        self,
        active: Sequence[_Place],
        seconds: Sequence[float],
        expected: float,
        count: int,
        spent: float,
    ) -> bool:
        """Are more rounds for the active requests expected to give more tokens per second?
        `expected` tokens are there with the `count` guesses so far, after `spent` seconds."""
        now = expected / (spent + seconds[count])
        cost = self._round_seconds(len(active))
        chances = [place.drafter.guesses[-1].chance for place in active]
        for rounds in range(1, self._most):
            size = count + rounds * len(active)
            if size >= len(seconds):
                return False
            chances = [chance * one.rate for chance, one in zip(chances, active, strict=True)]
            expected += sum(chances)
            if expected / (spent + rounds * cost + seconds[size]) > now:
                return True
        return False

    def _round_seconds(self, texts: int) -> float:
        found = self.model.costs.seconds(texts, texts)
        return found[0] if found else float("inf")

    def _is_close(self, place: _Place, saved: float) -> bool:
        """Has the model read nearly all of a text? If not, it reads a part of it, provided that
        the answer is expected to make up for the time."""
        model = self.model
        behind = model.behind(place.text)
        if behind <= CLOSE_BEHIND:
            return behind > 0
        each = model.costs.per_token or 0.0
        if self._always:
            model.catch_up(place.text, behind)
        elif behind * each < saved * place.expected:
            model.catch_up(place.text, max(CLOSE_BEHIND, int(CATCH_UP_SECONDS / max(each, 1e-6))))
        return 0 < model.behind(place.text) <= CLOSE_BEHIND
