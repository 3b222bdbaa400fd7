"""The scheduler without a model: who runs, what a step computes, who ends and when."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serve.engine.plain_memory import PlainMemory
from tuneserve.serve.engine.kv_cache import KVCacheManager, PrefixLimits
from tuneserve.serve.engine.request import Generation, Request
from tuneserve.serve.engine.scheduler import PrefillBudget, ScheduledBatch, Scheduler, split_batch
from tuneserve.serve.engine.types import (
    Completion,
    FinishReason,
    SamplingParams,
    UnavailableError,
)

END = b"x"
NOTHING_KEPT = PrefixLimits(0, 0.0, 0, 0)
ALL_KEPT = PrefixLimits(1_000_000, 1_000_000.0, 1_000_000, 0)
ALL_OFFLOADED = replace(ALL_KEPT, ram_bytes=1_000_000)


class Server:
    """A scheduler at a clock of its own, stepped as the engine does, with tokens that mean
    nothing."""

    def __init__(
        self,
        *,
        cells: int = 1000,
        slots: int = 4,
        batch_tokens: int = 512,
        prefill: int | PrefillBudget = 512,
        queue_seconds: float = 1e9,
        answer_seconds: float = 0.0,
        limits: PrefixLimits = NOTHING_KEPT,
    ) -> None:
        if isinstance(prefill, int):
            prefill = PrefillBudget(batch_tokens, prefill, adapts=False)
        self.now = 0.0
        self.cells = cells
        self.memory = PlainMemory()
        self.cache = KVCacheManager(self.memory, cells=cells, sequences=2 * slots, limits=limits)
        self.scheduler = Scheduler(
            self.cache,
            slots=slots,
            batch_tokens=batch_tokens,
            prefill=prefill,
            queue_seconds=queue_seconds,
            answer_seconds=answer_seconds,
            clock=self.clock,
        )
        self.generations: dict[Request, Generation] = {}
        self.ended: list[tuple[Request, FinishReason | UnavailableError]] = []
        self._token = itertools.count(1000)

    def clock(self) -> float:
        return self.now

    def submit(
        self,
        prompt: int | Sequence[int],
        answer: int | None = None,
        adapter: str | None = None,
        *,
        background: bool = False,
    ) -> Request:
        """Queue a prompt of so many tokens that no other has, or of these; the answer has `answer`
        tokens, or no end."""
        ids = [next(self._token) for _ in range(prompt)] if isinstance(prompt, int) else prompt
        generation = Generation()
        request = Request(
            ids,
            SamplingParams(max_tokens=answer),
            generation,
            limit=self.cells,
            adapter=adapter,
            background=background,
            clock=self.clock,
        )
        self.generations[request] = generation
        self.scheduler.add(request)
        return request

    def step(self, seconds: float = 1.0) -> ScheduledBatch:
        for request, why in self.scheduler.expire():
            self._end(request, why)
        batch = self.scheduler.schedule()
        self.now += seconds
        ready = [request for request, count in batch.chunks if count == request.pending]
        self.scheduler.computed(batch.chunks)
        for request in ready:
            reason = request.advance(next(self._token), END, None)
            if reason is not None:
                self.scheduler.finish(request)
                self._end(request, reason)
        return batch

    def steps(self, count: int) -> list[ScheduledBatch]:
        return [self.step() for _ in range(count)]

    def _end(self, request: Request, why: FinishReason | UnavailableError) -> None:
        self.ended.append((request, why))
        request.finish(why)


# -- admission ---------------------------------------------------------------------------------


def test_requests_are_admitted_in_order_up_to_the_slots() -> None:
    server = Server(slots=2)
    first, second, third = (server.submit(10, answer) for answer in (2, 5, 5))
    server.step()
    assert server.scheduler.running == [first, second]
    assert list(server.scheduler.waiting) == [third]
    server.steps(2)
    assert server.ended == [(first, "length")]
    assert server.scheduler.running == [second, third]


def test_who_begins_like_a_prompt_that_is_computed_waits_to_share_it() -> None:
    server = Server(slots=4, prefill=120, limits=ALL_KEPT)
    shared = list(range(100))
    first, second = (server.submit([*shared, *[mark] * 40], 5) for mark in (7, 8))
    other = server.submit(20, 5)
    third = server.submit([*shared, *[9] * 40], 5)
    server.step()
    assert server.scheduler.running == [first, other], "who has nothing in common passes"
    assert list(server.scheduler.waiting) == [second, third]
    server.step()
    assert server.scheduler.running == [first, other, second, third]
    assert (second.cached_tokens, third.cached_tokens) == (100, 100)
    assert first.cached_tokens == 0


def test_choices_of_one_prompt_compute_it_once() -> None:
    server = Server(slots=4)
    choices = [server.submit(list(range(200)), 3) for _ in range(4)]
    server.steps(5)
    assert [one.cached_tokens for one in choices] == [0, 199, 199, 199]
    assert [why for _, why in server.ended] == ["length"] * 4


def test_nobody_waits_for_a_prompt_that_stands_still() -> None:
    server = Server(slots=4, prefill=50)
    shared = list(range(200))
    behind = server.submit([*shared, 7], 5, background=True)
    server.step()
    running = server.submit(5, 50)
    server.step()
    assert server.scheduler.running == [behind, running]
    asked = server.submit([*shared, 8], 5)
    server.step()
    assert asked in server.scheduler.running
    server.steps(20)
    assert (asked, "length") in server.ended


def test_who_waits_to_share_takes_nobodys_place_meanwhile() -> None:
    server = Server(slots=2, prefill=50)
    behind, later = (server.submit(10, 50, background=True) for _ in range(2))
    server.steps(2)
    assert server.scheduler.running == [behind, later]
    first, second = (server.submit([*range(200), mark], 5) for mark in (7, 8))
    server.step()
    assert server.scheduler.running == [behind, first]
    server.steps(20)
    assert [one for one, _ in server.ended] == [first, second]


def test_who_waits_for_a_prompt_that_is_cancelled_computes_it() -> None:
    server = Server(slots=4, prefill=50)
    first, second = (server.submit([*range(200), mark], 5) for mark in (7, 8))
    server.step()
    assert list(server.scheduler.waiting) == [second]
    server.generations[first].cancel()
    server.step()
    assert server.scheduler.running == [second]


def test_a_prompt_without_room_waits_and_is_not_overtaken() -> None:
    server = Server(cells=100)
    running = server.submit(60, 3)
    server.step()
    long, short = server.submit(50, 1), server.submit(5, 1)
    server.step()
    assert server.scheduler.running == [running]
    assert list(server.scheduler.waiting) == [long, short]
    server.steps(3)
    assert [request for request, _ in server.ended] == [running, long, short]


def test_a_newcomer_leaves_running_answers_some_cells() -> None:
    """8 for each running answer and one for its own first token, or it would be preempted soon."""
    server = Server(cells=100)
    server.submit(50)
    server.step()
    waits = server.submit(42)
    server.step()
    assert list(server.scheduler.waiting) == [waits]
    server = Server(cells=100)
    server.submit(50)
    server.step()
    fits = server.submit(41)
    server.step()
    assert fits in server.scheduler.running


def test_a_prompt_begins_with_what_a_finished_or_running_one_has_computed() -> None:
    server = Server(limits=ALL_KEPT)
    prompt = list(range(50))
    first = server.submit(prompt, 1)
    server.step()
    again, other = server.submit(prompt, 5), server.submit([*prompt[:20], 999], 5)
    longer = server.submit([*first.tokens, 999], 5)
    chunks = server.step().chunks
    assert [request.cached_tokens for request in (first, again, other)] == [0, 49, 20]
    assert longer.cached_tokens == 50, "the answer's last token has not been computed"
    assert chunks == [(again, 1), (other, 1), (longer, 2)]


def test_a_prompt_needs_no_cells_for_what_it_shares() -> None:
    server = Server(cells=100)
    server.submit(range(60))
    server.step()
    one = server.submit([*range(60), 999])
    assert (one, 1) in server.step().chunks


def test_a_prefix_that_holds_the_cells_of_the_rest_is_given_up() -> None:
    server = Server(cells=100, limits=ALL_KEPT)
    server.submit(range(60), 1)
    server.step()
    one = server.submit([0, *range(100, 180)], 1)
    assert server.step().chunks == [(one, 81)]
    assert one.cached_tokens == 0


def test_room_is_made_for_the_whole_of_an_offloaded_prefix() -> None:
    """It is restored at full length before it is cut, even if the prompt shares less of it."""
    server = Server(cells=100, limits=ALL_OFFLOADED)
    server.submit(range(80), 1)
    server.step()
    server.submit(40, 1)
    server.step()
    assert (server.cache.used_cells, len(server.cache.offloaded)) == (40, 1)
    one = server.submit([*range(50), 999], 2)
    assert server.step().chunks == [(one, 1)]
    assert one.cached_tokens == 50


@pytest.mark.parametrize(("copied", "kept_after"), [(0, [20, 20, 20]), (10_000, [1320, 720, 20])])
def test_each_step_evicts_cached_prefixes_beyond_their_limit(
    copied: int, kept_after: list[int]
) -> None:
    """All at once; where they are copied to RAM, one of 600 tokens is enough for a step."""
    limits = replace(NOTHING_KEPT, idle_cells=25, ram_bytes=copied)
    server = Server(cells=2000, batch_tokens=2000, prefill=2000, limits=limits)
    for size in (600, 600, 700, 20):
        server.submit(size, 1)
    server.step()
    kept = []
    for _ in range(3):
        server.step()
        kept.append(server.cache.used_cells)
    assert kept == kept_after


# -- chunked prefill ---------------------------------------------------------------------------


def pending(count: int, *, computed: int = 0) -> Request:
    request = Request(range(computed + count), SamplingParams(), Generation(), limit=1000)
    request.computed = computed
    return request


def test_running_answers_come_before_prompts_and_prompts_in_order() -> None:
    first, second = pending(50), pending(50)
    answers = [pending(1, computed=5) for _ in range(3)]
    chunks = split_batch([first, *answers, second], batch_tokens=100, prefill_tokens=70)
    assert chunks == [(answers[0], 1), (answers[1], 1), (answers[2], 1), (first, 50), (second, 20)]
    few = split_batch([first, *answers], batch_tokens=2, prefill_tokens=70)
    assert few == [(answers[0], 1), (answers[1], 1)]


def test_a_long_prompt_is_computed_in_chunks_while_answers_go_on() -> None:
    server = Server(batch_tokens=64, prefill=40)
    answers = [server.submit(5), server.submit(5)]
    server.step()
    prompt = server.submit(100)
    batches = server.steps(4)
    assert [batch.chunks[:2] for batch in batches] == [[(one, 1) for one in answers]] * 4
    assert [batch.chunks[2] for batch in batches] == [
        (prompt, 40), (prompt, 40), (prompt, 20), (prompt, 1),
    ]  # fmt: skip
    assert [one.generated for one in (*answers, prompt)] == [5, 5, 2]


def test_many_prompts_take_no_answer_its_token() -> None:
    """The batch is as small as the slots are many: prompts get what the answers leave."""
    server = Server(slots=4, batch_tokens=5, prefill=5)
    answers = [server.submit(1) for _ in range(3)]
    server.step()
    prompt = server.submit(30)
    server.submit(30)
    for batch in server.steps(10):
        assert batch.chunks[:3] == [(one, 1) for one in answers]
        assert sum(count for _, count in batch.chunks) == 5
    assert prompt.computed == 20
    assert all(one.generated == 11 for one in answers)


def test_prompts_beside_answers_get_what_fits_a_step() -> None:
    budget = PrefillBudget(largest=2048, first=512)

    def observe(tokens: int, seconds: float) -> None:
        budget.observe([(pending(tokens), tokens)], seconds)

    assert budget.tokens(beside_decoding=True) == 512
    observe(500, 0.5)
    assert budget.tokens(beside_decoding=True) == 250
    assert budget.tokens(beside_decoding=False) == 500
    observe(8, 100.0)
    assert budget.tokens(beside_decoding=True) == 250, "a handful of tokens says nothing"
    for _ in range(40):
        observe(40, 40.0)
    assert budget.tokens(beside_decoding=True) == 32


def test_few_tokens_in_a_short_step_say_nothing_against_the_budget() -> None:
    """Beside many answers a step takes long whatever it has of prompts: by that alone, prompts that
    come together later would get less and less of a step."""
    budget = PrefillBudget(largest=2048, first=512)
    answers = [(pending(1), 1)] * 100
    budget.observe([(pending(500), 500)], 0.1)
    for _ in range(40):
        assert budget.tokens(beside_decoding=True) == 1250
        budget.observe([*answers, (pending(40), 40)], 0.08)
    # As much as it might have had, or a step that was too long: that does.
    budget.observe([*answers, (pending(1250), 1250)], 0.5)
    assert budget.tokens(beside_decoding=True) == 1062
    budget.observe([*answers, (pending(40), 40)], 0.5)
    assert budget.tokens(beside_decoding=True) == 749


def test_one_slow_step_does_not_decide_the_budget() -> None:
    budget = PrefillBudget(largest=2048, first=512)
    for seconds in (0.5, 5.0):
        budget.observe([(pending(500), 500)], seconds)
    assert budget.tokens(beside_decoding=False) == 365, "0.7 of 1000 and 0.3 of 100 tokens/s"


def test_answers_do_not_count_as_prompt_tokens_in_the_budget() -> None:
    budget = PrefillBudget(largest=2048, first=512)
    answers = [(pending(1), 1)] * 100
    budget.observe(answers, 0.1)
    assert budget.tokens(beside_decoding=True) == 512
    budget.observe([*answers, (pending(500), 500)], 0.5)
    assert budget.tokens(beside_decoding=True) == 250


def test_a_fixed_budget_does_not_follow_the_speed_and_none_exceeds_the_largest() -> None:
    fixed = PrefillBudget(largest=2048, first=512, adapts=False)
    fixed.observe([(pending(500), 500)], 5.0)
    assert fixed.tokens(beside_decoding=True) == 512
    small = PrefillBudget(largest=256, first=512)
    assert small.tokens(beside_decoding=False) == 256
    small.observe([(pending(256), 256)], 0.01)
    assert small.tokens(beside_decoding=False) == 256


def test_a_prompt_gets_less_of_a_step_while_an_answer_waits_for_its_token() -> None:
    budget = PrefillBudget(largest=512, first=512)
    budget.observe([(pending(400), 400)], 1.0)
    server = Server(prefill=budget)
    first = server.submit(200)
    assert server.step().chunks == [(first, 200)]
    second = server.submit(200)
    assert server.step().chunks == [(first, 1), (second, 100)]


# -- preemption --------------------------------------------------------------------------------


def full_server(*, waiting: int = 0, **options: float) -> tuple[Server, list[Request]]:
    """Three endless answers in a cache that has just become too small for them; others wait for a
    slot."""
    server = Server(cells=60, slots=3, **options)  # type: ignore[arg-type]
    requests = [server.submit(10) for _ in range(3)]
    for _ in range(waiting):
        server.submit(1)
    while not server.scheduler.preemptions:
        server.step()
    return server, requests


def test_a_full_cache_preempts_the_one_admitted_last() -> None:
    server, (first, second, third) = full_server()
    assert server.scheduler.running == [first, second]
    assert list(server.scheduler.waiting) == [third]
    assert third.sequence == -1
    assert third.computed == 0
    assert third.generated == 11, "what it has said is not lost"
    assert server.cache.used_cells == first.computed + second.computed


def test_a_preempted_request_is_the_first_to_be_admitted_again() -> None:
    server, (first, second, third) = full_server(waiting=1)
    later = server.scheduler.waiting[-1]
    assert list(server.scheduler.waiting) == [third, later]
    server.generations[first].cancel()
    said = list(third.tokens)
    batch = server.step()
    assert server.scheduler.running == [second, third, later]
    assert (third, 21) in batch.chunks, "its prompt and answer are computed again"
    assert third.tokens[:-1] == said
    assert third.cached_tokens == 0


def test_cached_prefixes_go_before_anybody_is_preempted() -> None:
    server = Server(cells=60, slots=2, limits=ALL_KEPT)
    server.submit(30, 1)
    server.step()
    assert server.cache.cached_prefixes == 1
    one = server.submit(10)
    server.steps(30)
    assert one.computed == 39
    assert server.cache.cached_prefixes == 0
    assert server.scheduler.preemptions == 0


# -- deadlines ---------------------------------------------------------------------------------


def test_a_request_that_gets_no_slot_in_time_is_refused() -> None:
    server = Server(slots=1, queue_seconds=3)
    server.submit(10)
    server.step()
    waiting = server.submit(10)
    server.steps(4)
    assert not server.ended
    server.step()
    ((request, why),) = server.ended
    assert request is waiting
    assert isinstance(why, UnavailableError)
    assert "no slot became free within 3 s" in str(why)
    with pytest.raises(UnavailableError):
        server.generations[waiting].result(0)


def test_an_answer_past_its_time_ends_and_frees_its_slot() -> None:
    server = Server(slots=1, answer_seconds=5)
    long, next_one = server.submit(10), server.submit(10)
    server.steps(7)
    assert server.ended == [(long, "length")]
    assert server.generations[long].result(0).finish_reason == "length"
    assert server.scheduler.running == [next_one]


def test_a_preempted_answer_past_its_time_ends_though_it_waits() -> None:
    server, (_, _, third) = full_server(answer_seconds=1000, queue_seconds=1)
    server.step()
    assert not server.ended, "the queue's limit is not for one that has run"
    server.now = 1001
    server.step()
    assert (third, "length") in server.ended
    done = server.generations[third].result(0)
    assert (done.finish_reason, len(done.tokens)) == ("length", 11)
    assert server.scheduler.is_idle


def test_a_prompt_preempted_before_its_first_token_ends_in_time_too() -> None:
    server = Server(cells=60, slots=3, prefill=8, answer_seconds=100)
    server.submit(10)
    server.steps(2)
    server.submit(30)
    preempted = server.submit(20)
    while not server.scheduler.preemptions:
        server.step()
    assert list(server.scheduler.waiting) == [preempted]
    assert not preempted.generated
    server.now = 200
    server.step()
    assert (preempted, "length") in server.ended


# -- cancellation ------------------------------------------------------------------------------


def test_a_cancelled_request_ends_wherever_it_is() -> None:
    server, (first, _, preempted) = full_server()
    waiting = server.submit(10)
    for request in (first, preempted, waiting):
        server.generations[request].cancel()
    server.step()
    assert [why for _, why in server.ended] == ["cancelled"] * 3
    assert {request for request, _ in server.ended} == {first, preempted, waiting}
    done = server.generations[preempted].result(0)
    assert isinstance(done, Completion)
    assert len(done.tokens) == 11
    assert len(server.scheduler.running) == 1
    assert not server.scheduler.waiting


# -- the background ----------------------------------------------------------------------------


def test_background_requests_stand_still_while_another_runs() -> None:
    server = Server(slots=4)
    behind = server.submit(5, 6, background=True)
    server.steps(2)
    assert behind.generated == 2
    chat = server.submit(5, 3)
    for batch in server.steps(3):
        assert [request for request, _ in batch.chunks] == [chat]
    assert (chat.generated, behind.generated) == (3, 2)
    server.steps(4)
    assert behind.generated == 6


def test_others_overtake_background_requests_in_the_queue_and_take_their_slots() -> None:
    server = Server(slots=2, limits=ALL_KEPT)
    behind = [server.submit(20, 5, background=True) for _ in range(3)]
    server.step()
    assert server.scheduler.running == behind[:2]
    chats = [server.submit(5, 4) for _ in range(3)]
    server.step()
    assert server.scheduler.running == chats[:2]
    assert list(server.scheduler.waiting) == [chats[2], *behind[:2], behind[2]]
    server.steps(40)
    assert [request for request, _ in server.ended] == [*chats, *behind]
    # What was computed of those that gave their slots back is found again.
    assert server.scheduler.preemptions == 2
    assert all(len(request.tokens) == 25 for request in behind)


def test_background_requests_give_their_cells_first_and_have_no_limit_of_time() -> None:
    server = Server(cells=60, slots=4, queue_seconds=5, answer_seconds=5)
    behind = server.submit(30, 5, background=True)
    server.step()
    chat = server.submit(40, 4)
    server.step()
    assert (chat.generated, behind.computed) == (1, 0)
    server.steps(20)
    assert [(request, why) for request, why in server.ended] == [
        (chat, "length"), (behind, "length"),
    ]  # fmt: skip
    assert behind.generated == 5


def test_a_background_request_goes_on_after_some_seconds_whatever_comes() -> None:
    server = Server(slots=2, limits=ALL_KEPT, queue_seconds=1000, answer_seconds=1000)
    behind = [server.submit(20, 4, background=True) for _ in range(3)]
    for _ in range(120):
        if len(server.scheduler.waiting) < 8:
            server.submit(5, 4)
        server.step(0.5)
    ended = [request for request, _ in server.ended]
    assert [one for one in ended if one.background] == behind
    assert len(ended) >= 45


def test_without_others_the_background_has_all_slots_again() -> None:
    server = Server(slots=3)
    behind = [server.submit(5, 40, background=True) for _ in range(2)]
    chat = server.submit(5, 8)
    server.steps(7)
    assert [one.promoted for one in behind] == [True, False]
    server.steps(4)
    assert chat.generated == 8
    assert not behind[0].promoted
    before = [one.generated for one in behind]
    server.step()
    assert [one.generated for one in behind] == [count + 1 for count in before]


# -- adapters ----------------------------------------------------------------------------------


def test_a_batch_has_one_adapter_and_adapters_take_turns() -> None:
    server = Server()
    base, one, two = (server.submit(5, adapter=name) for name in (None, "one", "two"))
    for batch in server.steps(9):
        assert {request.adapter for request, _ in batch.chunks} == {batch.adapter}
    assert [request.generated for request in (base, one, two)] == [3, 3, 3]


def test_a_turn_lasts_some_steps_that_are_short() -> None:
    server = Server()
    for name in ("one", "two", "three"):
        server.submit(5, adapter=name)
    turns = [server.step(0.05).adapter for _ in range(12)]
    # No answer stands still for more than a quarter of a second, and a step.
    assert turns == ["one"] * 3 + ["two"] * 3 + ["three"] * 3 + ["one"] * 3
    server = Server()
    server.submit(5, 4, adapter="one")
    server.submit(5, adapter="two")
    turns = [server.step(0.001).adapter for _ in range(8)]
    assert turns == ["one"] * 4 + ["two"] * 4


def test_an_adapters_turn_comes_however_many_ask_for_another() -> None:
    server = Server(slots=8)
    for _ in range(7):
        server.submit(5)
    rare = server.submit(5, adapter="rare")
    server.steps(10)
    assert rare.generated == 5
    server = Server()
    alone = server.submit(5, adapter="rare")
    server.steps(10)
    assert alone.generated == 10


def test_an_adapter_whose_batch_did_not_fit_keeps_its_turn() -> None:
    server = Server(cells=40, slots=3)
    server.submit(10, adapter="mine")
    server.submit(10, adapter="other")
    turns = [server.step().adapter]
    server.submit(10, adapter="mine")
    turns += [batch.adapter for batch in server.steps(19)]
    assert server.scheduler.preemptions == 1
    assert turns == ["mine", "other"] * 10


def answered_in_turn(slots: int, *, adapters: int = 4) -> int:
    """Steps until 8 answers of 32 tokens are there of each adapter, asked for in turn."""
    server = Server(cells=4000, slots=slots)
    for number in range(8 * adapters):
        server.submit(20, 32, adapter=f"adapter {number % adapters}")
    while not server.scheduler.is_idle:
        server.step(0.02)
    return server.scheduler.steps


def test_requests_of_an_adapter_that_runs_overtake_others() -> None:
    # At least 4 * 32 steps, one adapter each; in the order of arrival they were 1,024, 516, 265.
    assert [answered_in_turn(slots) for slots in (4, 8, 16, 32)] == [379, 186, 128, 128]


def test_no_request_is_overtaken_for_long() -> None:
    server = Server(slots=2)
    server.submit(5, 4, adapter="much")
    rare = server.submit(5, 3, adapter="rare")
    for _ in range(40):
        server.submit(5, 3, adapter="much")
        server.step()
    assert rare in [request for request, _ in server.ended]
    assert rare.overtaken == 4


def test_a_request_that_has_waited_long_is_not_overtaken() -> None:
    server = Server(slots=2, queue_seconds=40)
    server.submit(5, 40, adapter="much")
    server.submit(5, 12, adapter="much")
    server.step()
    rare = server.submit(5, 3, adapter="rare")
    server.submit(5, 3, adapter="much")
    server.steps(13)
    assert rare in server.scheduler.running
    assert rare.overtaken == 0


def test_a_preempted_request_is_not_overtaken() -> None:
    server = Server(cells=40, slots=3)
    server.submit(10, 12, adapter="mine")
    server.submit(10, 12, adapter="other")
    server.step()
    for _ in range(3):
        server.submit(3, 2, adapter="mine")
    for _ in range(80):
        server.step()
    assert all(request.generated == request.sampling.max_tokens for request, _ in server.ended)
    assert len(server.ended) == 5


def test_prefixes_are_not_shared_between_adapters() -> None:
    server = Server(limits=ALL_KEPT)
    prompt = list(range(50))
    server.submit(prompt, 1)
    server.step()
    other = server.submit(prompt, 1, adapter="loud")
    server.step()
    assert other.cached_tokens == 0
    assert not server.memory.copied


# -- all together ------------------------------------------------------------------------------

ARRIVALS = st.lists(
    st.tuples(
        st.integers(1, 60),  # prompt
        st.integers(1, 30),  # answer
        st.sampled_from([None, "lora"]),
        st.integers(0, 5),  # steps until the next arrives
        st.integers(0, 40),  # cancelled after so many steps, if below 10
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(ARRIVALS, st.integers(1, 4), st.booleans())
def test_every_request_ends_once_and_no_batch_is_too_large(
    arrivals: list[tuple[int, int, str | None, int, int]], slots: int, keep: bool
) -> None:
    limits = PrefixLimits(60, 0.5, 0, 10_000) if keep else NOTHING_KEPT
    server = Server(cells=100, slots=slots, batch_tokens=16, prefill=12, limits=limits)
    cancelled: dict[int, Request] = {}

    def step() -> None:
        if request := cancelled.pop(server.scheduler.steps, None):
            server.generations[request].cancel()
        running = {r: r.generated for r in server.scheduler.running if r.generated}
        batch = server.step()
        assert sum(count for _, count in batch.chunks) <= 16
        assert server.cache.used_cells <= 100
        assert len(server.scheduler.running) <= slots
        computed = dict(batch.chunks)
        for request in running:
            still = request in server.scheduler.running and request.adapter == batch.adapter
            if still and request.computed and request.pending == 1:
                assert request in computed, "a running answer stood still"

    for prompt, answer, adapter, pause, cancel in arrivals:
        request = server.submit(min(prompt, 99 - answer), answer, adapter)
        if cancel < 10:
            cancelled[server.scheduler.steps + cancel] = request
        for _ in range(pause):
            step()
    for _ in range(3000):
        if server.scheduler.is_idle:
            break
        step()
    assert server.scheduler.is_idle
    assert len(server.ended) == len(arrivals) == len({request for request, _ in server.ended})
    for request, why in server.ended:
        if why == "length":
            assert request.generated == request.sampling.max_tokens
    server.cache.clear_cached()
    assert server.cache.used_cells == 0
