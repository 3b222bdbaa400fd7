"""The engine on the real model: batching, ends, sampling, cancelling, a full cache."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import prompt_ids
from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaContext, LlamaModel, TokenBatch, backend
from tuneserve.serve.chat.structured import GrammarCompiler
from tuneserve.serve.engine import (
    GREEDY,
    Completion,
    Delta,
    Engine,
    EngineError,
    Event,
    GrammarFailedError,
    PromptTooLongError,
    QueueFullError,
    SamplingParams,
)
from tuneserve.settings import ServeSettings

pytestmark = pytest.mark.slow

QUESTIONS = [
    "What is 1+1?", "Name three colours.", "Who was Newton?", "List five animals.",
    "What is the capital of France?", "Say hello.", "What do bees make?", "Is water wet?",
]  # fmt: skip


@pytest.fixture(scope="module")
def engine(demo_gguf: Path) -> Iterator[Engine]:
    with Engine(demo_gguf, ServeSettings(ctx=2048, slots=8, threads=1)) as engine:
        yield engine


def prompt(engine: Engine, question: str) -> list[int]:
    return prompt_ids(engine.model, [{"role": "user", "content": question}])


def greedy(max_tokens: int, **options: object) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, **options)  # type: ignore[arg-type]


def assert_most_probable(
    model: LlamaModel, prompt: list[int], done: Completion, *, banned: int | None = None
) -> None:
    """Every token of a greedy answer is the most probable one after all before it, computed anew
    in one pass. Rounding differs with the shape of a batch, so near ties count as equal."""
    tokens = [*prompt, *done.tokens]
    with LlamaContext(
        model, n_ctx=512, cache_type_k="q8_0", cache_type_v="q8_0", threads=1
    ) as context:
        logits = context.logits(tokens[:-1], start=len(prompt) - 1)
    if banned is not None:
        logits[:, banned] = -np.inf
    chosen = logits[np.arange(len(done.tokens)), done.tokens]
    assert (logits.max(axis=1) - chosen).max() < 0.75


def test_many_at_once_get_the_answers_they_get_alone(engine: Engine) -> None:
    prompts = [prompt(engine, question) for question in QUESTIONS]
    alone = [engine.generate([one], greedy(12))[0] for one in prompts]
    together = engine.generate(prompts, greedy(12))
    for ids, one, other in zip(prompts, alone, together, strict=True):
        assert_most_probable(engine.model, ids, one)
        assert_most_probable(engine.model, ids, other)
    assert sum(a.tokens == b.tokens for a, b in zip(alone, together, strict=True)) >= 5
    assert all(one.finish_reason in ("stop", "length") for one in together)
    assert all(one.tokens for one in together)
    assert together[0].prompt_tokens == len(prompts[0])


@pytest.mark.parametrize("which", [0, 3])
def test_what_a_callers_function_raises_is_the_callers(
    engine: Engine, which: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine goes on, and the other prompts are given up."""
    fault = OSError(28, "No space left on device")
    heard = []

    def on_done(index: int, _: Completion) -> None:
        heard.append(index)
        if len(heard) == which + 1:
            raise fault

    prompts = [prompt(engine, question) for question in QUESTIONS[: which + 1]]
    with pytest.raises(OSError, match="No space left") as caught:
        engine.generate(prompts, greedy(12), on_done=on_done)
    assert caught.value is fault
    assert len(heard) == which + 1
    assert caplog.records == []
    assert engine.generate(prompts[:1], greedy(2))[0].tokens


def test_the_models_end_token_ends_an_answer(engine: Engine) -> None:
    (done,) = engine.generate([prompt(engine, "What is 1+1?")], greedy(100))
    assert done.finish_reason == "stop"
    assert engine.model.is_end(done.tokens[-1])
    assert "2" in done.text
    assert "<|im_end|>" not in done.text


def test_max_tokens_and_stop_strings(engine: Engine) -> None:
    ids = prompt(engine, "Count from one to twenty, separated by commas.")
    (short,) = engine.generate([ids], greedy(5))
    assert (len(short.tokens), short.finish_reason) == (5, "length")
    (whole,) = engine.generate([ids], greedy(40))
    stop = whole.text[10:14]
    # Of the tokens that are cut off with the stop string nothing is told.
    (scored,) = engine.generate([ids], greedy(40, stop=(stop,), logprobs=0))
    told = b"".join(engine.model.token_bytes(one.token) for one in scored.logprobs)
    assert told.decode().startswith(scored.text)
    assert len(told) < len(scored.text) + len(engine.model.token_bytes(scored.logprobs[-1].token))
    (cut,) = engine.generate([ids], greedy(40, stop=(stop,)))
    assert cut.finish_reason == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_a_seed_repeats_an_answer_and_another_changes_it(demo_gguf: Path) -> None:
    # Steady: elsewhere how a prompt is cut into batches follows the clock, and where its cells lie
    # depends on earlier requests; both move the last bits of its logits.
    with Engine(demo_gguf, ServeSettings(ctx=256, slots=1, threads=1), steady=True) as engine:
        check_seeds(engine)


def check_seeds(engine: Engine) -> None:
    ids = prompt(engine, "Write a line about the sea.")
    hot = [SamplingParams(temperature=1.5, seed=seed, max_tokens=16) for seed in (1, 1, 2)]
    one, same, other = (engine.generate([ids], sampling)[0].tokens for sampling in hot)
    assert one == same
    assert one != other


def test_a_grammar_bounds_the_answers_of_a_batch(engine: Engine) -> None:
    """Greedy or drawn, in numpy or by llama.cpp's chain, beside each other and free ones."""
    ids = prompt(engine, "Is the sky blue?")
    grammar = GrammarCompiler(engine.model).compile_gbnf('root ::= "maybe " [0-9] [0-9] "!"')
    ways: list[dict[str, Any]] = [
        {"temperature": 0.0}, {"seed": 3}, {"seed": 4, "top_p": 0.9, "min_p": 0.01},
        {"seed": 5, "top_k": 20}, {"seed": 6, "frequency_penalty": 0.5},
    ]  # fmt: skip
    bound = [SamplingParams(grammar=grammar, logprobs=2, **way) for way in ways]
    *done, free = engine.generate([ids] * 6, [*bound, greedy(4)])
    for one in done:
        assert re.fullmatch(r"maybe \d\d!", one.text)
        assert one.finish_reason == "stop"
        assert len(one.logprobs) == len(one.tokens) - 1  # the end token is no part of the answer
    assert engine.generate([ids], greedy(4))[0].tokens == free.tokens


def test_a_grammar_that_fails_on_the_way_ends_its_request_alone(engine: Engine) -> None:
    """What comes behind a choice is not tried before; here it is more than llguidance can hold."""
    ids = prompt(engine, "Hi")
    grammar = GrammarCompiler(engine.model).compile_answer(
        {
            "type": "object",
            "properties": {
                "kind": {"enum": ["this", "that"]},
                "text": {"type": "string", "pattern": "^((a{1000}){1000}){1000}$"},
            },
            "required": ["kind", "text"],
        },
        {},
        several=False,
        opened=False,
    )
    hostile = engine.submit(ids, SamplingParams(grammar=grammar, max_tokens=200))
    beside = engine.submit(ids, greedy(40))
    with pytest.raises(GrammarFailedError, match="grammar"):
        hostile.result(60)
    assert beside.result(60).tokens
    assert engine.stats().running == 0


def test_logit_bias_and_logprobs(engine: Engine) -> None:
    ids = prompt(engine, "What is 1+1?")
    (free,) = engine.generate([ids], greedy(1, logprobs=3))
    first = free.logprobs[0]
    assert first.token == free.tokens[0] == first.top[0][0]
    assert first.logprob == pytest.approx(first.top[0][1])
    assert 0 > first.top[0][1] > first.top[1][1] > first.top[2][1]
    (banned,) = engine.generate([ids], greedy(1, logit_bias={free.tokens[0]: -100.0}))
    assert banned.tokens[0] == first.top[1][0]


def test_deltas_add_up_to_the_completion(engine: Engine) -> None:
    events: list[Event] = []
    ended = threading.Event()

    def listen(event: Event) -> None:
        events.append(event)
        if not isinstance(event, Delta):
            ended.set()

    engine.submit(prompt(engine, "Say hello."), greedy(20), on_event=listen, stream=True)
    assert ended.wait(60)
    *deltas, completion = events
    assert isinstance(completion, Completion)
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == completion.text


def test_cancelling_ends_within_a_step_and_frees_the_slot(engine: Engine) -> None:
    long = engine.submit(prompt(engine, "Write a long story."), greedy(1500))
    waiting = [engine.submit(prompt(engine, "Hi"), greedy(1500)) for _ in range(9)]
    for generation in [long, *waiting]:
        generation.cancel()
    for generation in [long, *waiting]:
        assert generation.result(30).finish_reason == "cancelled"
    assert engine.stats().running == engine.stats().waiting == 0


def test_a_beginning_in_common_is_computed_once(engine: Engine) -> None:
    system = "You are a careful assistant. " * 20
    ids = [
        prompt_ids(
            engine.model,
            [{"role": "system", "content": system}, {"role": "user", "content": question}],
        )
        for question in ("What is 1+1?", "Who was Newton?")
    ]
    first = engine.generate([ids[0]], greedy(8))[0]
    second = engine.generate([ids[1]], greedy(8))[0]
    again = engine.generate([ids[0]], greedy(8))[0]
    assert second.cached_tokens > 100
    assert again.cached_tokens == len(ids[0]) - 1
    assert again.tokens == first.tokens


def test_a_beginning_that_left_the_kv_cache_comes_back_from_ram(demo_gguf: Path) -> None:
    with Engine(demo_gguf, ServeSettings(ctx=512, slots=2, threads=1)) as engine:
        ids = engine.model.tokenize("The sea is wide, and the ships are small. " * 12)
        first = engine.generate([ids], greedy(8))[0]
        # Two that need nearly all cells drive it out.
        others = [engine.model.tokenize(f"{n} dogs bark at {n} cats. " * 20) for n in (3, 7)]
        engine.generate(others, greedy(30))
        assert engine.stats().cells_used < 512
        again = engine.generate([ids], greedy(8))[0]
        assert again.cached_tokens == len(ids) - 1
        assert_most_probable(engine.model, ids, again)
        assert again.tokens[:2] == first.tokens[:2]
        longer = engine.generate([[*ids, *others[0][:9]]], greedy(2))[0]
        assert longer.cached_tokens == len(ids)
        # All the other way round: cached prefixes may take no more beside running requests.
        assert engine.stats().cached_prefixes >= 3


def test_ram_for_beginnings_has_a_limit(demo_gguf: Path) -> None:
    megabyte = 2.0**-10
    settings = ServeSettings(ctx=512, slots=1, threads=1, prefix_share=0.0, prefix_ram=megabyte)
    with Engine(demo_gguf, settings) as engine:
        for number in range(5):
            engine.generate([engine.model.tokenize(f"{number} apples and pears. " * 8)], greedy(2))
        assert 0 < engine._cache.offloaded.size <= 1 << 20
        assert 0 < len(engine._cache.offloaded) < 4


def test_a_beginning_does_not_stand_in_the_way_of_what_begins_like_it(demo_gguf: Path) -> None:
    """The kept prompt fills more of the cache than the next leaves, and shares its first token."""
    settings = ServeSettings(ctx=256, slots=2, threads=1, prefix_ram=0.0, queue_seconds=20)
    with Engine(demo_gguf, settings) as engine:
        first, *rest = engine.model.tokenize("the " * 240)
        one = SamplingParams(temperature=0.0, max_tokens=2)
        engine.generate([[first, *rest[:109]]], one)
        (done,) = engine.generate([[first, *([rest[0] + 1] * 179)]], one)
        assert len(done.tokens) == 2
        assert done.timings.queue < 5


def test_a_long_saved_beginning_does_not_make_a_short_prompt_wait(demo_gguf: Path) -> None:
    """To copy it back takes more cells than a running answer leaves; the prompt fits beside it."""
    settings = ServeSettings(ctx=512, slots=2, threads=1, prefix_share=0.0)
    with Engine(demo_gguf, settings) as engine:
        ids = engine.model.tokenize("word " * 300)
        one = SamplingParams(temperature=0.0, max_tokens=1)
        engine.generate([ids[:280]], one)
        engine.generate([ids[5:6]], one)  # the beginning leaves the KV cache
        end = {engine.model.eos: -100.0}
        long = engine.submit(engine.model.tokenize("a b c " * 60), greedy(200, logit_bias=end))
        while not engine.stats().running:
            time.sleep(0.01)
        (short,) = engine.generate([[*ids[:20], *reversed(ids[40:60])]], one)
        assert engine.stats().running == 1
        assert short.timings.queue < 2
        long.cancel()


def test_embeddings_take_turns_with_answers_and_fail_alone(
    demo_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServeSettings(ctx=1024, slots=1, threads=1, embeddings=True, max_queue=2)
    with Engine(demo_gguf, settings) as engine:
        ids = engine.model.tokenize("The sea is wide.")
        arrived = threading.Event()
        order: list[str] = []

        def listen(event: Event) -> None:
            order.append("answer")
            arrived.set()

        long = engine.submit(
            ids, greedy(600, logit_bias={2: -100.0, 0: -100.0}), on_event=listen, stream=True
        )
        assert arrived.wait(60)
        many = engine.embed([ids] * 20)
        many.add_done_callback(lambda _: order.append("vectors"))
        assert len(many.result(60)) == 20
        # A step of the running answer came between any two of them.
        assert order.index("vectors") >= 15
        waiting = [engine.embed([ids] * 500) for _ in range(2)]
        with pytest.raises(QueueFullError):
            engine.embed([ids])
        assert waiting[0].cancel()
        # Requests take turns: this one does not wait for the five hundred texts before it.
        while engine.stats().waiting > 1:
            time.sleep(0.01)
        assert engine.embed([ids]).result(60)
        assert not waiting[1].done()
        assert waiting[1].cancel()
        long.cancel()
        long.result(60)
        assert engine._embedder is not None

        def fail(_: object) -> list[float]:
            raise EngineError("no memory")

        with monkeypatch.context() as patched:
            patched.setattr(engine._embedder, "embed", fail)
            with pytest.raises(EngineError, match="no memory"):
                engine.embed([ids]).result(60)
        assert engine.failure is None
        assert len(engine.embed([ids]).result(60)[0]) == 576
        last = engine.embed([ids] * 500)
    with pytest.raises(EngineError, match="shutting down"):
        last.result(60)


def test_without_room_for_embeddings_the_server_does_not_start(
    demo_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = backend().llama_init_from_model

    def refuse_embeddings(model: object, params: Any) -> Any:
        return None if params.embeddings else make(model, params)

    monkeypatch.setattr(backend(), "llama_init_from_model", refuse_embeddings)
    settings = ServeSettings(ctx=256, slots=1, threads=1, embeddings=True)
    with pytest.raises(TuneserveError, match="embeddings: no reason given") as caught:
        Engine(demo_gguf, settings)
    assert "--gpu-layers" in caught.value.render()


def test_what_can_never_fit_is_refused(engine: Engine) -> None:
    with pytest.raises(PromptTooLongError) as caught:
        engine.submit([5] * 3000, GREEDY)
    assert (caught.value.tokens, caught.value.limit) == (3000, 2048)


def test_a_full_cache_preempts_the_youngest_and_loses_nothing(demo_gguf: Path) -> None:
    settings = ServeSettings(ctx=256, slots=4, threads=1)
    with Engine(demo_gguf, settings) as engine:
        prompts = [prompt(engine, question) for question in QUESTIONS[:4]]
        # Without their end tokens the four answers take 320 cells, of 256.
        endless = greedy(80, logit_bias={engine.model.eos: -100.0})
        together = engine.generate(prompts, endless)
        assert engine.stats().preemptions > 0
        assert [len(one.tokens) for one in together] == [80] * 4
        for one, done in zip(prompts, together, strict=True):
            assert_most_probable(engine.model, one, done, banned=engine.model.eos)


def test_an_answer_ends_where_the_context_does(demo_gguf: Path) -> None:
    with Engine(demo_gguf, ServeSettings(ctx=256, slots=1, threads=1)) as engine:
        ids = prompt(engine, "Tell me a very long story.")
        (done,) = engine.generate([ids], SamplingParams(temperature=0.0, logit_bias={2: -100.0}))
        assert done.finish_reason == "length"
        assert done.prompt_tokens + len(done.tokens) == 256


def test_the_queue_has_an_end_and_close_ends_what_waits(demo_gguf: Path) -> None:
    engine = Engine(demo_gguf, ServeSettings(ctx=512, slots=1, max_queue=2, threads=1))
    ids = prompt(engine, "Write a long story.")
    accepted = [engine.submit(ids, greedy(400)) for _ in range(3)]
    with pytest.raises(QueueFullError, match="2 requests are waiting already") as caught:
        engine.submit(ids, greedy(400))
    assert "Try again in a moment" in caught.value.render()
    accepted[1].cancel()
    accepted[1].result(60)
    accepted.append(engine.submit(ids, greedy(400)))
    engine.close()
    del accepted[1]
    for generation in accepted:
        with pytest.raises(EngineError, match="shutting down"):
            generation.result(5)
    with pytest.raises(EngineError, match="shutting down"):
        engine.submit(ids, GREEDY)


def test_cells_that_only_llama_cpp_knows_of_end_the_engine_with_an_error(demo_gguf: Path) -> None:
    """The engine's own count of free cells is wrong then: it says so to everybody, and stops."""
    with Engine(demo_gguf, ServeSettings(ctx=256, slots=2, threads=1)) as engine:
        # The engine's thread sleeps: nothing else uses the context.
        unknown = TokenBatch(200)
        unknown.add([5] * 200, 0, 3, outputs=0)
        engine._context.decode(unknown)
        with engine._arriving:  # both are there before the engine fails
            waiting = [engine.submit([7] * 100, greedy(4)), engine.submit([8] * 20, greedy(4))]
        for generation in waiting:
            with pytest.raises(EngineError, match=r"no room for 1\d\d tokens, though 256 cells"):
                generation.result(60)
        assert engine.failure is not None
        assert not engine.is_open
        with pytest.raises(EngineError, match="no room"):
            engine.submit([7], GREEDY)
