"""What the model thinks of a prompt's tokens, and prompts that are computed without an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tuneserve.llama import served_context
from tuneserve.serve.engine import GREEDY, Engine, SamplingParams, scheduler
from tuneserve.serve.engine.scheduler import SCORED_AT_ONCE
from tuneserve.settings import ServeSettings

TEXT = "The quick brown fox jumps over the lazy dog, and the llama eats grass. " * 8
ECHO = SamplingParams(temperature=0.0, max_tokens=0, prompt_logprobs=3)


SETTINGS = ServeSettings(ctx=1024, slots=4, threads=2, cache_type_k="f16", cache_type_v="f16")


@pytest.fixture(scope="module")
def engine(demo_gguf: Path) -> Iterator[Engine]:
    with Engine(demo_gguf, SETTINGS) as engine:
        yield engine


def directly(engine: Engine, ids: list[int]) -> np.ndarray:
    """Log probabilities by llama_decode over the whole prompt: [len(ids) - 1, n_vocab]."""
    with served_context(
        engine.model, engine.settings, n_ctx=512, n_batch=SCORED_AT_ONCE, n_seq_max=1
    ) as one:
        logits = one.logits(ids)[:-1].astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def test_they_are_those_of_llama_decode(demo_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine a step takes fewer tokens, which rounds otherwise too.
    monkeypatch.setattr(scheduler, "STEP_SECONDS_ALONE", 600.0)
    # A new engine: among the cells of earlier prompts the same products are summed in another
    # order, and after rounding to 8 bits the log probabilities differ by up to 0.4.
    with Engine(demo_gguf, SETTINGS) as engine:
        ids = engine.model.tokenize(TEXT)
        assert len(ids) > 2 * SCORED_AT_ONCE
        expected = directly(engine, ids)
        [done] = engine.generate([ids], ECHO)
    assert (done.text, done.tokens, done.finish_reason) == ("", (), "length")
    assert [one.token for one in done.prompt_logprobs] == ids[1:]
    found = np.array([one.logprob for one in done.prompt_logprobs])
    own = expected[np.arange(len(ids) - 1), ids[1:]]
    assert np.abs(found - own).max() < 1e-4
    best = [one.top[0][0] for one in done.prompt_logprobs]
    assert best == expected.argmax(axis=1).tolist()
    assert all(len(one.top) == 3 for one in done.prompt_logprobs)


def test_a_cached_prefix_is_computed_again(engine: Engine) -> None:
    ids = engine.model.tokenize(TEXT)
    first, again = (engine.generate([ids], ECHO)[0] for _ in range(2))
    assert again.cached_tokens == 0
    assert len(again.prompt_logprobs) == len(first.prompt_logprobs) == len(ids) - 1


def test_answers_beside_them_are_the_same_and_complete(engine: Engine) -> None:
    ids = engine.model.tokenize(TEXT)
    short = engine.model.tokenize("Once upon a time")
    plain = replace(GREEDY, max_tokens=24, logprobs=0)
    [alone] = engine.generate([short], plain)
    scored = replace(ECHO, max_tokens=2, logprobs=1)
    done = engine.generate([ids, short, ids, short, ids[:1]], [scored, plain, ECHO, plain, scored])
    assert [len(one.prompt_logprobs) for one in done] == [len(ids) - 1, 0, len(ids) - 1, 0, 0]
    assert [len(one.tokens) for one in done] == [2, 24, 0, 24, 2]
    assert len(done[0].logprobs) == 2
    for one in (done[1], done[3]):
        assert one.tokens[:4] == alone.tokens[:4]


def test_a_preempted_prompt_is_scored_again(demo_gguf: Path) -> None:
    settings = ServeSettings(ctx=256, slots=2, threads=2)
    with Engine(demo_gguf, settings) as engine:
        ids = (engine.model.tokenize(TEXT) * 2)[:180]
        endless = replace(GREEDY, max_tokens=60, ignore_end=True)
        scored = replace(ECHO, max_tokens=30, ignore_end=True)
        done = engine.generate([ids[:30], ids], [endless, scored])
        assert engine.stats().preemptions
    assert [one.token for one in done[1].prompt_logprobs] == ids[1:]
    assert len(done[1].tokens) == 30


def test_a_prompt_alone_can_be_computed(engine: Engine) -> None:
    ids = engine.model.tokenize("Nothing is to follow this prompt, it is only kept in the cache.")
    nothing = replace(GREEDY, max_tokens=0)
    [done] = engine.generate([ids], nothing)
    assert (done.text, done.tokens, done.finish_reason) == ("", (), "length")
    [after] = engine.generate([ids], replace(GREEDY, max_tokens=1))
    assert after.cached_tokens == len(ids) - 1


def test_end_tokens_are_ignored_and_others_end_an_answer(engine: Engine) -> None:
    ids = engine.model.tokenize("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ends = replace(GREEDY, max_tokens=12, logit_bias={engine.model.eos: 100.0})
    [short, long] = engine.generate([ids, ids], [ends, replace(ends, ignore_end=True)])
    assert (short.finish_reason, short.tokens) == ("stop", (engine.model.eos,))
    assert (long.finish_reason, len(long.tokens)) == ("length", 12)
    assert not set(long.tokens) & set(engine.model.end_tokens)
    stop = long.tokens[3]
    [stopped] = engine.generate([ids], replace(GREEDY, stop_tokens=frozenset({stop})))
    assert (stopped.finish_reason, stopped.tokens[-1]) == ("stop", stop)
    assert stop not in stopped.tokens[:-1]
