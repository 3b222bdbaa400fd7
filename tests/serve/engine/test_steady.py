"""A steady engine: the same each time, and the likelihood of expected answers on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tuneserve.llama import served_context
from tuneserve.serve.engine import GREEDY, Engine, EngineError, PromptTooLongError, SamplingParams
from tuneserve.serve.engine.scheduler import EXPECTED_AT_ONCE
from tuneserve.settings import ServeSettings

SHORT = replace(GREEDY, max_tokens=12)
QUESTIONS = ("2 + 2 =", "The sky is", "One, two, three,", "The capital of France is", "Ice is") * 3


@pytest.fixture(scope="module")
def engine(demo_gguf: Path) -> Iterator[Engine]:
    settings = ServeSettings(ctx=1024, slots=4, threads=2, cache_type_k="f16", cache_type_v="f16")
    with Engine(demo_gguf, settings, steady=True) as engine:
        yield engine


def prompts(engine: Engine) -> list[list[int]]:
    return [engine.model.tokenize(f"{place}. {text}") for place, text in enumerate(QUESTIONS)]


def directly(engine: Engine, prompt: list[int], answer: tuple[int, ...]) -> np.ndarray:
    """Log probabilities of the answer's tokens, and below them those of the most probable ones, by
    llama_decode alone."""
    with served_context(engine.model, engine.settings, n_ctx=512, n_batch=512, n_seq_max=1) as one:
        rows = one.logits([*prompt, *answer[:-1]], start=len(prompt) - 1).astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    found: np.ndarray = np.stack([rows[np.arange(len(answer)), list(answer)], rows.max(axis=1)])
    return found


def test_prompts_that_begin_alike_share_that_however_they_come_in(demo_gguf: Path) -> None:
    """The first is computed alone, and those after it find its beginning, also where all that ran
    with it have ended: each time, from an empty cache."""
    settings = ServeSettings(ctx=1024, slots=2, threads=1, prefix_share=0.5, prefix_ram=0.0)
    with Engine(demo_gguf, settings, steady=True) as one:
        same = one.model.tokenize(
            "Is it a fruit or an animal? Answer in one word and no more. " * 2
        )
        asked = [
            [*same, *one.model.tokenize(word)] for word in ("A pear", "A cow", "A bee", "A fig")
        ]
        for _ in range(4):
            done = one.generate(asked, replace(GREEDY, max_tokens=1))
            first, *others = [each.cached_tokens for each in done]
            assert first == 0
            assert min(others) >= len(same)


def test_its_likelihood_is_that_of_llama_decode_and_the_answer_the_models_own(
    engine: Engine,
) -> None:
    asked = prompts(engine)
    plain = engine.generate(asked, SHORT)
    # What the model says itself, the beginning of that with something else behind, something else.
    expected = [
        (one.tokens, (*one.tokens[:4], 7, 8), (5,))[place % 3] for place, one in enumerate(plain)
    ]
    done = engine.generate(asked, [replace(SHORT, expected=each) for each in expected])
    assert [len(one.expected_logprobs) for one in done] == list(map(len, expected))
    found = np.concatenate([one.expected_logprobs for one in done])
    pairs = zip(asked, expected, strict=True)
    own = np.concatenate([directly(engine, prompt, answer)[0] for prompt, answer in pairs])
    # Batches of other shapes round otherwise.
    assert np.abs(found - own).max() < 0.6
    assert np.abs(found - own).mean() < 0.03
    for prompt, one in zip(asked, done, strict=True):
        given, best = directly(engine, prompt, one.tokens)
        # Near ties apart, which that rounding decides.
        assert (best - given).max() < 0.6
        assert (best == given).mean() > 0.7
    assert all(one.finish_reason == "length" and len(one.tokens) == 12 for one in done)
    assert all(not one.expected_logprobs for one in plain)


def test_an_answer_that_is_expected_takes_fewer_steps(engine: Engine) -> None:
    asked = prompts(engine)[:1]
    before = engine.stats().steps
    (plain,) = engine.generate(asked, SHORT)
    between = engine.stats().steps
    (done,) = engine.generate(asked, replace(SHORT, expected=plain.tokens))
    assert done.tokens == plain.tokens
    assert (between - before, engine.stats().steps - between) == (12, 1)


def test_many_long_ones_take_turns_and_the_same_is_found_again(engine: Engine) -> None:
    asked = prompts(engine)
    long = tuple(range(100, 100 + EXPECTED_AT_ONCE))
    each = [replace(SHORT, expected=long[: 30 * (place % 4) + 1]) for place in range(len(asked))]
    first, again = (engine.generate(asked, each) for _ in range(2))
    assert [len(one.expected_logprobs) for one in first] == [len(one.expected) for one in each]
    assert [(one.tokens, one.expected_logprobs) for one in first] == [
        (one.tokens, one.expected_logprobs) for one in again
    ]


def test_one_token_may_be_asked_for_and_a_stop_string_ends_an_accepted_answer(
    engine: Engine,
) -> None:
    asked = prompts(engine)[:2]
    plain = engine.generate(asked, SHORT)
    one = engine.generate(asked, [replace(GREEDY, max_tokens=1, expected=p.tokens) for p in plain])
    assert [done.tokens for done in one] == [each.tokens[:1] for each in plain]
    stop = plain[0].text[4:8]
    (cut,) = engine.generate(asked[:1], replace(SHORT, stop=(stop,), expected=plain[0].tokens))
    assert (cut.finish_reason, cut.stopped_by) == ("stop", stop)
    assert cut.text == plain[0].text[: plain[0].text.index(stop)]
    assert len(cut.expected_logprobs) == len(plain[0].tokens)


def test_what_cannot_be_is_refused(engine: Engine, demo_gguf: Path) -> None:
    assert engine.most_expected == EXPECTED_AT_ONCE
    with pytest.raises(EngineError, match="may have 128 tokens"):
        engine.generate([[1, 2]], replace(SHORT, expected=(1,) * 129))
    with pytest.raises(PromptTooLongError):
        engine.generate([[1] * 1000], replace(SHORT, expected=(1,) * 24))
    with Engine(demo_gguf, ServeSettings(ctx=256, threads=1, slots=1)) as served:
        assert served.most_expected == 0
        with pytest.raises(EngineError, match="may have 0 tokens"):
            served.generate([[1, 2]], SamplingParams(expected=(1,)))
