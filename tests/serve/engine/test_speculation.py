"""When guesses are computed: acceptance, costs, and the plan of a step; and on the real model that
answers are what they are without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.serve.engine.test_engine import assert_most_probable
from tests.serve.engine.test_scheduler import Server
from tests.serve.engine.tiny_llama import write_tiny_llama
from tests.support import prompt_ids
from tuneserve.serve.chat.structured import GrammarCompiler
from tuneserve.serve.engine import Delta, Engine, Event, SamplingParams
from tuneserve.serve.engine.acceptance import Acceptance, Source, prompt_kind
from tuneserve.serve.engine.request_drafter import RequestDrafter
from tuneserve.serve.engine.speculation import MOST_DRAFTED, Speculator
from tuneserve.serve.engine.step_costs import StepCosts
from tuneserve.settings import ServeSettings

LOOP = [1, 2, 3, 4, 5, 6, 7, 8]


class Running:
    """A request of which the plan sees no more than this."""

    def __init__(self, speculator: Speculator, tokens: list[int], remaining: int = 1000) -> None:
        self.drafter: RequestDrafter | None = speculator.drafter(tokens)
        self.drafter.see()
        self.draft: Sequence[int] = ()
        self.remaining = remaining
        self.generated = 1


def speculator(one: float, more: float, most_answers: int | None = None) -> Speculator:
    """A step of one token takes `one` seconds, every other token `more`."""
    found = Speculator(most_answers=most_answers)
    for tokens in range(1, 200):
        found.costs.observe(tokens, one + (tokens - 1) * more)
    return found


def loop(speculator: Speculator, times: int = 8, remaining: int = 1000) -> Running:
    return Running(speculator, LOOP * times, remaining)


class TestAcceptance:
    def test_more_agreeing_tokens_are_likelier_right(self) -> None:
        kinds = [prompt_kind(matched) for matched in (3, 4, 5, 8, 9, 16, 17, 32, 1000)]
        assert kinds == [0, 0, 1, 1, 2, 2, 3, 3, 3]
        chances = [Acceptance().probability(kind) for kind in range(4)]
        assert chances == sorted(chances)

    def test_it_follows_what_was_seen(self) -> None:
        everyone = Acceptance()
        mine, other = Acceptance(everyone), Acceptance(everyone)
        for _ in range(50):
            mine.observe(0, True)
        assert mine.probability(0) > 0.95
        assert 0.9 < other.probability(0) <= mine.probability(0)
        for _ in range(100):
            other.observe(0, False)
        assert other.probability(0) < 0.05


class TestStepCosts:
    def test_nothing_is_known_before_a_step_was_met(self) -> None:
        costs = StepCosts()
        assert costs.seconds(1, 4) is None
        costs.observe(4, 1.0)
        assert costs.seconds(1, 4) is None

    def test_between_and_beyond_it_is_a_straight_line(self) -> None:
        costs = StepCosts()
        costs.observe_prompt(100, 10.0)
        costs.observe(2, 1.0)
        costs.observe(6, 3.0)
        assert costs.seconds(2, 8) == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0, 3.1, 3.2])

    def test_one_step_that_was_held_up_changes_little(self) -> None:
        costs = StepCosts()
        costs.observe(1, 1.0)
        costs.observe(1, 100.0)
        assert costs.seconds(1, 1) == pytest.approx([1.15])

    def test_a_large_step_not_met_for_long_is_forgotten(self) -> None:
        costs = StepCosts()
        costs.observe(8, 50.0)
        costs.observe_prompt(10, 1.0)
        for _ in range(1025):
            costs.observe(1, 1.0)
        assert costs.seconds(1, 8) == pytest.approx([1.0 + 0.1 * more for more in range(8)])


class TestPlan:
    def test_much_is_drafted_where_tokens_are_free(self) -> None:
        one = speculator(1.0, 0.001)
        request = loop(one)
        one.plan([request], 100)
        assert len(request.draft) > 8
        assert list(request.draft) == (LOOP * 4)[: len(request.draft)]
        assert one.drafted == {"prompt": len(request.draft)}

    def test_nothing_is_drafted_where_a_token_more_costs_as_much_as_a_step(self) -> None:
        one = speculator(1.0, 1.0)
        request = loop(one)
        one.plan([request], 100)
        assert (list(request.draft), one.drafted) == ([], {})

    def test_nothing_is_drafted_beside_more_answers_than_pay(self) -> None:
        one = speculator(1.0, 0.001, most_answers=2)
        three = [loop(one) for _ in range(3)]
        one.plan(three, 100)
        assert [list(request.draft) for request in three] == [[], [], []]
        one.plan(three[:2], 100)
        assert all(request.draft for request in three[:2])

    def test_nothing_is_drafted_where_guesses_are_wrong(self) -> None:
        one = speculator(1.0, 0.3)
        text = LOOP * 4
        request = Running(one, text)
        assert request.drafter is not None
        for token in range(100, 160):  # LOOP's beginning, and then something else.
            text.extend([1])
            request.drafter.see()
            text.extend([2])
            request.drafter.see()
            text.extend([3])
            request.drafter.see()
            text.extend([token])
            request.drafter.see()
        for token in (1, 2, 3):
            text.append(token)
            request.drafter.see()
        one.plan([request], 100)
        assert list(request.draft) == []

    def test_a_draft_is_no_longer_than_the_room_and_the_answer(self) -> None:
        one = speculator(1.0, 0.001)
        short, long = loop(one, remaining=3), loop(one)
        one.plan([short], 100)
        assert len(short.draft) == 2
        one.plan([long], 4)
        assert len(long.draft) == 4
        for room in (0, -3):
            long.draft = ()
            one.plan([long], room)
            assert list(long.draft) == []
        last = loop(one, remaining=1)
        one.plan([last], 100)
        assert list(last.draft) == []

    def test_all_requests_together_draft_a_bounded_number(self) -> None:
        one = Speculator(always=True)
        requests = [loop(one) for _ in range(20)]
        one.plan(requests, 1000)
        assert sum(len(request.draft) for request in requests) == MOST_DRAFTED

    def test_who_repeats_gets_the_places_beside_who_does_not(self) -> None:
        one = speculator(1.0, 0.01)
        repeats, varies = loop(one), Running(one, list(range(100)))
        one.plan([varies, repeats], 100)
        assert len(repeats.draft) > 0
        assert list(varies.draft) == []


class TestScheduler:
    def test_drafts_take_free_cells_only_and_give_back_what_was_wrong(self) -> None:
        server = Server(cells=40, slots=2)
        server.scheduler._speculator = one = Speculator(always=True)
        request = server.submit(LOOP * 4, 8)
        request.drafter = one.drafter(request.tokens)
        server.scheduler.computed(server.scheduler.schedule().chunks)
        request.advance(1, b"x", None)
        chunks = server.scheduler.schedule().chunks
        assert chunks == [(request, 1)]
        # 32 cells are the prompt's, one is the pending token's; the answer has 7 more tokens.
        assert list(request.draft) == [2, 3, 4, 5, 6, 7]
        server.scheduler.computed(chunks)
        assert server.cache.free_cells == 1
        for token in (2, 3, 99):
            request.advance(token, b"x", None)
        server.scheduler.settle(request, 2)
        assert (request.computed, request.pending, list(request.draft)) == (35, 1, [])
        assert server.cache.free_cells == 5
        assert server.memory.truncated == [(request.sequence, 35)]

    def test_a_piece_of_one_token_of_a_prompt_has_no_draft(self) -> None:
        server = Server(cells=400, prefill=1)
        server.scheduler._speculator = one = Speculator(always=True)
        request = server.submit(LOOP * 4, 8)
        request.drafter = one.drafter(request.tokens)
        assert server.scheduler.schedule().chunks == [(request, 1)]
        assert list(request.draft) == []

    def test_steps_with_prompts_have_no_drafts(self) -> None:
        server = Server(cells=400, slots=2)
        server.scheduler._speculator = one = Speculator(always=True)
        request = server.submit(LOOP * 4, 8)
        request.drafter = one.drafter(request.tokens)
        server.scheduler.computed(server.scheduler.schedule().chunks)
        request.advance(1, b"x", None)
        server.submit(20, 8)
        server.scheduler.schedule()
        assert list(request.draft) == []


# -- on the real model ----------------------------------------------------------------------------

RECORDS = "\n".join(
    f'{{"name": "{name}", "city": "{city}"}}'
    for name, city in (("Clara", "Oslo"), ("Henry", "Rome"), ("Maria", "Athens"), ("Liam", "Paris"))
)
COPY = f"Original:\n{RECORDS}\n\nCopy:\n{RECORDS[:20]}"


def engine_of(path: Path, speculate: str, **options: object) -> Engine:
    settings = {"ctx": 1024, "slots": 4, "threads": 1, "prefix_share": 0.0, **options}
    return Engine(path, ServeSettings(speculate=speculate, **settings))


@pytest.mark.slow
class TestRealModel:
    def test_greedy_answers_are_the_same_and_take_fewer_steps(self, demo_gguf: Path) -> None:
        sampling = SamplingParams(temperature=0.0, max_tokens=48, logprobs=0)
        with engine_of(demo_gguf, "off") as plain, engine_of(demo_gguf, "always") as engine:
            ids = plain.model.tokenize(COPY)
            (expected,) = plain.generate([ids], sampling)
            deltas: list[Event] = []
            generation = engine.submit(ids, sampling, on_event=deltas.append, stream=True)
            done = generation.result(60)
            stats = engine.stats()
            assert done.text == expected.text
            assert done.tokens == expected.tokens
            assert_most_probable(engine.model, ids, done)
            assert [one.token for one in done.logprobs] == list(done.tokens)
            gaps = [
                abs(a.logprob - b.logprob)
                for a, b in zip(done.logprobs, expected.logprobs, strict=True)
            ]
            assert max(gaps) < 0.5  # Rounding in batches of another shape.
            streamed = [one for one in deltas if isinstance(one, Delta)]
            assert "".join(one.text for one in streamed) == done.text
            assert stats.accepted["prompt"] > 12
            assert stats.drafted["prompt"] >= stats.accepted["prompt"]
            assert stats.steps < 0.75 * plain.stats().steps

    def test_it_ends_where_it_ends_without(self, demo_gguf: Path) -> None:
        """By a stop string, a number of tokens and a grammar; beside each other too, in a cache
        that has no room for all of them and none for cells that were not given back."""
        with (
            engine_of(demo_gguf, "off") as plain,
            engine_of(demo_gguf, "always", ctx=256) as engine,
        ):
            ids = plain.model.tokenize(COPY)
            grammar = GrammarCompiler(plain.model).compile_gbnf(
                'root ::= "\\"Clara\\", \\"city\\": \\"Oslo\\"}\\n" "{\\"name\\": \\"" [A-Z] "xyz"'
            )
            kinds = [
                SamplingParams(temperature=0.0, max_tokens=40, stop=('"Athens',)),
                SamplingParams(temperature=0.0, max_tokens=9),
                SamplingParams(temperature=0.0, max_tokens=40, grammar=grammar),
                SamplingParams(temperature=0.0, max_tokens=24, frequency_penalty=0.5),
            ]
            for sampling in kinds:
                (expected,) = plain.generate([ids], sampling)
                (done,) = engine.generate([ids], sampling)
                assert (done.text, done.finish_reason) == (expected.text, expected.finish_reason)
            together = engine.generate([ids] * 4, kinds)
            assert together[2].text.endswith("xyz")
            assert len(together[1].tokens) == 9
            assert engine.stats().accepted["prompt"] > 0

    def test_a_seed_or_a_steady_engine_has_no_drafts(self, demo_gguf: Path) -> None:
        sampling = SamplingParams(temperature=0.0, max_tokens=24, seed=1)
        with engine_of(demo_gguf, "auto") as engine:
            engine.generate([engine.model.tokenize(COPY)], sampling)
            assert engine.stats().drafted == {}
        with Engine(demo_gguf, ServeSettings(ctx=512, threads=1), steady=True) as engine:
            engine.generate([engine.model.tokenize(COPY)], sampling)
            assert engine.stats().drafted == {}

    def test_a_chat_is_answered(self, demo_gguf: Path) -> None:
        with engine_of(demo_gguf, "auto") as engine:
            ids = prompt_ids(engine.model, [{"role": "user", "content": "What is 1+1?"}])
            (done,) = engine.generate([ids], SamplingParams(temperature=0.0, max_tokens=24))
            assert "2" in done.text


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9, "temperature": 0.8}], ids=str)
@pytest.mark.parametrize("draft", [False, True])
def test_drawn_answers_have_the_same_distribution(
    tmp_path: Path, draft: bool, filters: dict[str, float]
) -> None:
    """Of a model whose answers are of four tokens, drawn with guesses of which some are right."""
    model = write_tiny_llama(tmp_path / "tiny.gguf")
    letters = [10, 20, 30, 40]
    sampling = SamplingParams(
        logit_bias=dict.fromkeys(letters, 100.0),
        max_tokens=4,
        **filters,  # type: ignore[arg-type]
    )
    prompt = [1, *np.random.default_rng(0).choice(letters, 60).tolist()]
    options: dict[str, object] = {}
    if draft:
        options["draft"] = write_tiny_llama(tmp_path / "draft.gguf", seed=1)
        prompt = prompt[:5]  # Little for prompt lookup to find.
    counts = []
    for speculate in ("off", "always"):
        with engine_of(model, speculate, **options) as engine:
            # Seeds, which must not make what is guessed and what judges it the same numbers.
            seeds = range(800) if speculate == "always" else range(1000, 1800)
            each = [replace(sampling, seed=seed) for seed in seeds] if draft else sampling
            done = engine.generate([prompt] * 800, each)
            counts.append(Counter(answer.tokens for answer in done))
            stats = engine.stats()
    source: Source = "draft" if draft else "prompt"
    drafted, accepted = stats.drafted[source], stats.accepted[source]
    assert 0.1 * drafted < accepted < 0.9 * drafted
    shared = [key for key in counts[0] | counts[1] if counts[0][key] + counts[1][key] >= 10]
    assert len(shared) > (20 if filters else 30)
    a, b = (np.array([one[key] for key in shared], float) for one in counts)
    # Two samples of a multinomial; 4.5 standard deviations of a chi-square above its mean.
    assert ((a - b) ** 2 / (a + b)).sum() < len(shared) + 4.5 * (2 * len(shared)) ** 0.5
