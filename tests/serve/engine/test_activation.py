"""Activated adapters (aLoRA): the base computes what stands before their invocation sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.serve.conftest import INVOCATION
from tests.serve.engine.plain_memory import PlainMemory
from tuneserve.arrays import Floats
from tuneserve.llama import TokenBatch, served_context
from tuneserve.llama.lora import load_adapter, use_adapter
from tuneserve.serve.engine import Engine, SamplingParams
from tuneserve.serve.engine.activation import (
    EVERYWHERE,
    Activated,
    Adapter,
    active_at,
    alike_until,
    last_place,
)
from tuneserve.serve.engine.kv_cache import KVCacheManager, PrefixLimits
from tuneserve.serve.engine.request import Generation, Request
from tuneserve.serve.engine.scheduler import PrefillBudget, Scheduler
from tuneserve.settings import ServeSettings

TOP = 200
SETTINGS = ServeSettings(ctx=1024, slots=4, threads=1, speculate="off")
CONTEXT = "The capital of France is Paris, and that of Italy is Rome." * 4
ONCE = SamplingParams(temperature=0.0, max_tokens=1, logprobs=TOP)


@pytest.mark.parametrize(
    ("tokens", "wanted", "place"),
    [
        ([1, 2, 3, 1, 2, 9], [1, 2], 3),
        ([1, 1, 1, 2], [1, 1, 2], 1),
        ([1, 2], [1, 2], 0),
        ([1, 2], [1, 2, 3], None),
        ([0xD83D, 0xDE00, 7], [0xDE00, 7], 1),
        ([], [1], None),
    ],
)
def test_the_last_place_of_a_sequence_is_found(
    tokens: list[int], wanted: list[int], place: int | None
) -> None:
    assert last_place(tokens, wanted) == place


def test_what_is_alike_of_two_sequences() -> None:
    late, early, other = Activated("a", 9), Activated("a", 4), Activated("b", 6)
    assert [active_at(late, place) for place in (0, 8, 9, 20)] == [None, None, "a", "a"]
    pairs: list[tuple[Adapter, Adapter, int]] = [
        (None, None, EVERYWHERE), ("a", "a", EVERYWHERE), (late, late, EVERYWHERE),
        (None, "a", 0), ("a", late, 0), (None, late, 9), (late, early, 4), (late, other, 6),
    ]  # fmt: skip
    for one, two, length in pairs:
        assert alike_until(one, two) == alike_until(two, one) == length


def cache_of_everything(memory: PlainMemory) -> KVCacheManager:
    limits = PrefixLimits(1000, 1000.0, 1000, 0)
    return KVCacheManager(memory, cells=1000, sequences=8, limits=limits)


def test_the_base_s_part_of_a_prefix_is_everybody_s() -> None:
    cache = cache_of_everything(PlainMemory())
    tokens = [*range(30)]

    def known(adapter: Adapter, *, upto: int = 30) -> int:
        return cache.match_prefix(adapter, [*range(upto), 99], []).length

    sequence, _ = cache.allocate(cache.match_prefix(Activated("a", 20), tokens, []))
    cache.append(sequence, 30)
    cache.release(sequence, Activated("a", 20), tokens)
    assert known(None) == known(Activated("b", 25)) == known(Activated("a", 25)) == 20
    assert known(Activated("b", 10)) == 10
    assert known(Activated("a", 20)) == 30
    assert known("a") == 0
    cache.drop_cached("a")
    assert known(None) == 0


def test_steps_end_where_the_adapter_begins_and_the_base_s_are_shared() -> None:
    memory = PlainMemory()
    scheduler = Scheduler(
        cache_of_everything(memory), slots=4, batch_tokens=100,
        prefill=PrefillBudget(100, 100, adapts=False), queue_seconds=1e9,
    )  # fmt: skip

    def put(first: int, adapter: Adapter) -> Request:
        sampling = SamplingParams(max_tokens=2)
        tokens = [*range(first, first + 10)]
        request = Request(tokens, sampling, Generation(), limit=1000, adapter=adapter)
        scheduler.add(request)
        return request

    one, other, base = (
        put(100 * number, adapter)
        for number, adapter in enumerate((Activated("a", 7), Activated("b", 9), None))
    )
    steps = []
    for _ in range(3):
        batch = scheduler.schedule()
        steps.append((batch.adapter, batch.chunks))
        scheduler.computed(batch.chunks)
        for request, _ in batch.chunks:
            if not request.pending:
                scheduler.finish(request)
    assert steps[0] == (None, [(one, 7), (other, 9), (base, 10)])
    assert sorted(steps[1:], key=str) == [("a", [(one, 3)]), ("b", [(other, 1)])]


@pytest.fixture(scope="module")
def engine(demo_gguf: Path, activated_lora_gguf: Path) -> Iterator[Engine]:
    with Engine(demo_gguf, SETTINGS, adapters={"check": activated_lora_gguf}) as engine:
        yield engine


def by_hand(engine: Engine, parts: Sequence[tuple[Sequence[int], bool]], adapter: Path) -> Floats:
    """Log-probabilities of what follows all parts, each (tokens, with the adapter?)."""
    model = engine.model
    handle = load_adapter(model, adapter, activated=True)
    with served_context(model, SETTINGS, n_ctx=1024, n_batch=512, n_seq_max=1) as context:
        position = 0
        for tokens, with_adapter in parts:
            if not tokens:
                continue
            use_adapter(context, handle if with_adapter else None)
            batch = TokenBatch(512)
            batch.add(tokens, position, 0, outputs=1)
            context.decode(batch)
            position += len(tokens)
        logits = context.batch_logits(1)[0].astype(np.float64)
    logits -= logits.max()
    found: Floats = logits - np.log(np.exp(logits).sum())
    return found


@pytest.mark.slow
def test_logits_are_those_of_the_base_before_and_the_adapter_behind(
    engine: Engine, activated_lora_gguf: Path
) -> None:
    before = engine.model.tokenize(f"{CONTEXT}{INVOCATION} yes. ")
    behind = engine.model.tokenize(f"{INVOCATION} is Rome")
    prompt = [*before, *behind]
    # The base has had the prompt's beginning already.
    engine.generate([before], ONCE)
    generation = engine.submit(prompt, ONCE, adapter="check")
    done = generation.result(60)
    assert not generation.is_base
    assert len(before) - 1 <= done.cached_tokens <= len(before)
    best = done.logprobs[0].top

    def error(*parts: tuple[Sequence[int], bool]) -> float:
        """Largest difference of the best tokens' log-probabilities."""
        right = by_hand(engine, parts, activated_lora_gguf)
        return max(abs(float(right[token]) - logprob) for token, logprob in best)

    assert error((before, False), (behind, True)) < 0.05
    wrong = [
        error((before[:-1], False), ([before[-1], *behind], True)),
        error((prompt[: len(before) + 1], False), (behind[1:], True)),
        error((prompt, True)),
        error((prompt, False)),
    ]
    assert min(wrong) > 0.3, wrong
    again = engine.submit(prompt, ONCE, adapter="check").result(60)
    assert again.cached_tokens == len(prompt) - 1
    # The base goes on from what the adapter's request has computed with it.
    base = engine.generate([[*before, 5, 6]], ONCE)[0]
    assert base.cached_tokens == len(before)


@pytest.mark.slow
def test_without_its_invocation_sequence_the_base_answers(engine: Engine) -> None:
    prompt = engine.model.tokenize(CONTEXT)
    base = engine.generate([prompt], ONCE)[0]
    generation = engine.submit(prompt, ONCE, adapter="check")
    assert generation.is_base
    assert dict(generation.result(60).logprobs[0].top[:5]) == pytest.approx(
        dict(base.logprobs[0].top[:5]), abs=0.5
    )
    assert engine.adapters.loaded == 1
