"""Speculation: several tokens of an answer in one step, where that is faster.

Tokens that a drafter guesses are computed behind the pending one. Then each of them is drawn as
ever, from the logits before it: while the draw is the guess, the next logits are right and cost no
step of their own; at the first difference the drawn token counts and the other guesses are dropped.
A guess has no say in what is drawn, so the answers' distribution is the same as without.

Whether it pays is worked out for every step, from how often guesses of a kind were right and how
long steps with so many tokens took. How often is known without computing a guess: every token is
compared with the guess for it, whether or not that was part of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tuneserve.serve.engine.ngrams import NgramDrafter

MOST_DRAFTED = 32
"""Guessed tokens in one step at most, of all requests together: each takes a row of logits."""

GAIN = 1.05
"""Tokens per second must grow by this factor, in expectation, for a draft to be computed."""

_LEAST_LIKELY = 0.1
"""A guess less likely than this to be reached and right is not worth a place in any batch."""

_PRIOR = (0.3, 0.5, 0.75, 0.9)
"""Share of right guesses by the number of agreeing tokens before it: up to 4, 8, 16, more."""

_PRIOR_WEIGHT = 4.0
_FORGET = 0.97

_STALE = 1024


class Drafted(Protocol):
    """A running request, as far as it can be drafted for."""

    drafter: RequestDrafter | None
    draft: Sequence[int]

    @property
    def remaining(self) -> int: ...


class Acceptance:
    """How often guesses were right, by the kind of guess; recent ones count more. What was seen at
    `prior` fills in where little was seen here."""

    def __init__(self, prior: Acceptance | None = None) -> None:
        self._prior = prior
        self._right = [0.0] * len(_PRIOR)
        self._tried = [0.0] * len(_PRIOR)

    @staticmethod
    def kind(matched: int) -> int:
        """The kind of a guess behind `matched` agreeing tokens."""
        return max(0, min(len(_PRIOR) - 1, (matched - 1).bit_length() - 2))

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


class RequestDrafter:
    """The guesses for one request, and how good they were. The text is indexed when the first token
    of the answer is there: who waits in the queue has no index yet."""

    def __init__(self, tokens: list[int], everyone: Acceptance) -> None:
        self._tokens = tokens
        self._ngrams: NgramDrafter | None = None
        self._acceptance = Acceptance(everyone)

    def see(self) -> None:
        """A token was appended to the request's."""
        if self._ngrams is None:
            self._ngrams = NgramDrafter(self._tokens)
            return
        matched = self._ngrams.matched
        right = self._ngrams.see()
        if matched:
            self._acceptance.observe(Acceptance.kind(matched), right)

    def chances(self, count: int) -> list[float]:
        """For each of at most `count` guesses, that it and all before it are right."""
        found: list[float] = []
        if self._ngrams is None or not self._ngrams.matched:
            return found
        matched, chance = self._ngrams.matched, 1.0
        by_kind = [self._acceptance.probability(kind) for kind in range(len(_PRIOR))]
        for place in range(count):
            chance *= by_kind[Acceptance.kind(matched + place)]
            if chance < _LEAST_LIKELY:
                break
            found.append(chance)
        return found

    def draft(self, count: int) -> list[int]:
        """The next `count` tokens as they would be; not before `see`."""
        assert self._ngrams is not None
        return self._ngrams.draft(count)


class StepCosts:
    """How long a step of so many answer tokens takes: an average of recent ones, or between and
    beyond the numbers that were met a straight line."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._met: dict[int, int] = {}
        self._count = 0
        self._per_token: float | None = None

    def observe(self, tokens: int, seconds: float) -> None:
        """A step of answers' tokens alone took that long."""
        self._count += 1
        known = self._seconds.get(tokens)
        if known is None:
            self._seconds[tokens] = seconds
        else:  # One that was held up by something else counts twice the usual time at most.
            self._seconds[tokens] = 0.85 * known + 0.15 * min(seconds, 2.0 * known)
        self._met[tokens] = self._count

    def observe_prompt(self, tokens: int, seconds: float) -> None:
        """A step of `tokens`, nearly all of prompts, took that long: what one more token costs
        where nothing else is known."""
        each = seconds / tokens
        self._per_token = each if self._per_token is None else 0.7 * self._per_token + 0.3 * each

    def seconds(self, least: int, most: int) -> list[float] | None:
        """Of steps with `least` … `most` tokens; None until a step of about `least` was met."""
        self._forget_stale(least)
        sizes = sorted(self._seconds)
        if not sizes or sizes[0] > least:
            return None
        found = []
        right = 0
        for tokens in range(least, most + 1):
            while right < len(sizes) and sizes[right] < tokens:
                right += 1
            if right == len(sizes):
                last = sizes[-1]
                found.append(self._seconds[last] + (tokens - last) * self._slope(last))
                continue
            above = sizes[right]
            below = sizes[right - 1] if above > tokens else above
            low, high = self._seconds[below], self._seconds[above]
            part = (tokens - below) / (above - below) if above > below else 0.0
            found.append(low + part * (high - low))
        return found

    def _slope(self, tokens: int) -> float:
        """What a token more than `tokens` costs."""
        if self._per_token is not None:
            return min(self._per_token, self._seconds[tokens])
        return self._seconds[tokens] / (4 * tokens)

    def _forget_stale(self, least: int) -> None:
        """Larger steps that were not met for long may have become cheaper: let them be tried."""
        for tokens, met in list(self._met.items()):
            if tokens > least and self._count - met > _STALE:
                del self._seconds[tokens], self._met[tokens]


class Speculator:
    """Decides what is drafted in each step. `always`: whatever it costs."""

    def __init__(self, *, always: bool = False) -> None:
        self.costs = StepCosts()
        self._everyone = Acceptance()
        self._always = always
        self.drafted = 0
        self.accepted = 0

    def drafter(self, tokens: list[int]) -> RequestDrafter:
        """For a request with these tokens, a list that grows with its answer."""
        return RequestDrafter(tokens, self._everyone)

    def plan(self, requests: Sequence[Drafted], room: int) -> None:
        """Set the draft of each request of a step in which every one gets one token; `room` is
        how many tokens more the step may have."""
        room = min(room, MOST_DRAFTED)
        chances: list[tuple[float, int]] = []
        for place, request in enumerate(requests):
            if request.drafter is not None and room > 0:
                most = min(room, request.remaining - 1)
                chances += [(chance, place) for chance in request.drafter.chances(most)]
        if not chances:
            return
        chances.sort(key=lambda one: -one[0])
        chosen = chances[: self._best(len(requests), [chance for chance, _ in chances[:room]])]
        counts: dict[int, int] = {}
        for _, place in chosen:
            counts[place] = counts.get(place, 0) + 1
        for place, count in counts.items():
            drafter = requests[place].drafter
            assert drafter is not None
            requests[place].draft = drafter.draft(count)
        self.drafted += len(chosen)

    def _best(self, sure: int, chances: Sequence[float]) -> int:
        """How many guesses, the most likely first, give the most tokens per second beside `sure`
        tokens; 0 if none is worth it."""
        if self._always:
            return len(chances)
        seconds = self.costs.seconds(sure, sure + len(chances))
        if seconds is None:
            return 0
        best, best_rate = 0, GAIN * sure / seconds[0]
        expected = float(sure)
        for count, chance in enumerate(chances, 1):
            expected += chance
            if expected / seconds[count] > best_rate:
                best, best_rate = count, expected / seconds[count]
        return best
