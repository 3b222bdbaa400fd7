"""Speculation: several tokens of an answer in one step, where that is faster.

Tokens that a drafter guesses are computed behind the pending one. Then each of them is drawn as
ever, from the logits before it: while the draw is the guess, the next logits are right and cost no
step of their own; at the first difference the drawn token counts and the other guesses are dropped.
A guess has no say in what is drawn, so the answers' distribution is the same as without; only of a
draft model's guesses that are drawn themselves more are kept, by a rule that does not change it
either (`proposals`).

Whether it pays is worked out for every step, from how often guesses of a kind were right and how
long steps with so many tokens took. How often is known without computing a guess of prompt lookup:
every token is compared with the guess for it, whether or not that was part of a step. A draft
model's guesses take time themselves (`draft_rounds`); they are asked for where prompt lookup has
nothing better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tuneserve.serve.engine.acceptance import Acceptance, Source
from tuneserve.serve.engine.draft_model import FollowedText
from tuneserve.serve.engine.draft_rounds import GAIN, Drafted, DraftRounds
from tuneserve.serve.engine.request_drafter import RequestDrafter
from tuneserve.serve.engine.step_costs import StepCosts
from tuneserve.serve.engine.types import GREEDY, SamplingParams

MOST_DRAFTED = 32
"""Guessed tokens in one step at most, of all requests together: each takes a row of logits."""

MOST_ANSWERS_ON_GPU = 4
"""Running answers beside which a GPU computes guesses. A step of another number of tokens than the
last one has llama.cpp plan its graph anew: on an H100 the call took 3.0 ms instead of 0.3 (an 8B
model), and eight answers of a 135M model lost up to 15 % of their speed though two guesses of three
were right."""


class Speculator:
    """Decides what is drafted in each step. `always`: whatever it costs; else for at most
    `most_answers` that run (None: any number). `rounds`: a draft model's, if there is one;
    `n_vocab`: tokens of the served model."""

    def __init__(
        self,
        *,
        always: bool = False,
        most_answers: int | None = None,
        rounds: DraftRounds | None = None,
        n_vocab: int = 0,
    ) -> None:
        self.costs = StepCosts()
        self.rounds = rounds
        self.drafted: Counter[Source] = Counter()
        self.accepted: Counter[Source] = Counter()
        self._everyone = Acceptance()
        self._always = always
        self._most_answers = most_answers
        self._n_vocab = n_vocab

    def drafter(self, tokens: list[int], sampling: SamplingParams = GREEDY) -> RequestDrafter:
        """For a request with these tokens, a list that grows with its answer."""
        text = None if self.rounds is None else FollowedText(self.rounds.model, tokens)
        return RequestDrafter(tokens, self._everyone, text, sampling)

    def plan(self, requests: Sequence[Drafted], room: int) -> None:
        """Set the draft of each request of a step in which every one gets one token; `room` is
        how many tokens more the step may have."""
        room = min(room, MOST_DRAFTED)
        if room <= 0:
            return
        sure = len(requests)
        spent = 0.0
        if self.rounds is not None:
            for request in requests:
                if request.drafter is not None:
                    request.drafter.guesses = []
        many = self._most_answers is not None and len(requests) > self._most_answers
        if many and not self._always:
            return
        if self.rounds is not None:
            known = self.costs.seconds(sure, sure + room)
            spent = self.rounds.guess(requests, known, room, self._n_vocab)
        chances: list[tuple[bool, float, int]] = []
        for place, request in enumerate(requests):
            if request.drafter is not None:
                most = min(room, request.remaining - 1)
                # To leave one out that was drawn, for what it is or what follows from it, would
                # change the answers' distribution (see `proposals`).
                free = not request.drafter.draws
                chances += [(free, -chance, place) for chance in request.drafter.chances(most)]
        if not chances:
            return
        chances.sort()
        least = sum(not free for free, _, _ in chances)
        best = self._best(sure, [-chance for _, chance, _ in chances[:room]], spent, least)
        for place, count in Counter(place for _, _, place in chances[:best]).items():
            drafter = requests[place].drafter
            assert drafter is not None
            requests[place].draft = drafter.draft(count)
            self.drafted[drafter.source] += count

    def settled(self, drafter: RequestDrafter, accepted: int) -> None:
        """So many tokens of the request's draft were right."""
        self.accepted[drafter.source] += accepted

    def _best(self, sure: int, chances: Sequence[float], spent: float, least: int) -> int:
        """How many guesses, in this order, give the most tokens per second beside `sure` tokens,
        after `spent` seconds; `least` if no more is worth it."""
        if self._always:
            return len(chances)
        seconds = self.costs.seconds(sure, sure + len(chances))
        if seconds is None:
            return least
        expected = sure + sum(chances[:least])
        best = least
        best_rate = (1.0 if spent else GAIN) * expected / (spent + seconds[least])
        for count in range(least + 1, len(chances) + 1):
            expected += chances[count - 1]
            rate = expected / (spent + seconds[count])
            if rate > best_rate:
                best, best_rate = count, rate
        return best
