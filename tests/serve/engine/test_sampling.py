"""Drawing tokens in numpy gives what the definitions say, and what llama.cpp's chain gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.llama import LlamaModel, TokenBatch, served_context
from tuneserve.serve.engine import SamplingParams
from tuneserve.serve.engine.sampling import TokenSampler, draw, nucleus
from tuneserve.settings import ServeSettings

LOGITS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=60)


@given(LOGITS, st.floats(0.01, 0.999))
def test_the_nucleus_is_the_fewest_best_tokens_that_hold_enough(
    logits: list[float], top_p: float
) -> None:
    row = np.array(logits, np.float32)
    weights = np.exp(row - row.max())
    kept = nucleus(weights, top_p)
    held = weights[kept].sum(dtype=np.float64)
    total = weights.sum(dtype=np.float64)
    assert held >= top_p * total * (1 - 1e-6)
    assert held - weights[kept[-1]] < top_p * total * (1 + 1e-6)
    left_out = np.delete(weights, kept)
    assert not len(left_out) or left_out.max() <= weights[kept].min()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"top_p": 0.9, "min_p": 0.1, "temperature": 1.7},
    ],
)
def test_draws_have_the_frequencies_of_the_definition(options: dict[str, float]) -> None:
    row = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32))
    p = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    kept = np.cumsum(p) - p < options.get("top_p", 1.0)
    kept &= p >= options.get("min_p", 0.0) * p[0]
    expected = np.where(kept, p, 0) ** (1 / options.get("temperature", 1.0))
    expected /= expected.sum()
    random = np.random.default_rng(0)
    sampling = SamplingParams(**options)  # type: ignore[arg-type]
    count = 20_000
    drawn = np.bincount([draw(row, sampling, random) for _ in range(count)], minlength=5)
    assert not drawn[~kept].any()
    error = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(drawn / count - expected) <= 5 * error + 1e-12).all()


def test_the_chain_and_numpy_draw_from_the_same_distribution(demo_gguf: Path) -> None:
    """Top-k of the whole vocabulary changes nothing, but goes through llama.cpp's chain."""
    options = {"temperature": 0.8, "top_p": 0.7, "min_p": 0.02}
    count = 1500
    with LlamaModel(demo_gguf) as model:
        settings = ServeSettings(ctx=256, threads=1)
        context = served_context(model, settings, n_ctx=256, n_batch=256, n_seq_max=1)
        batch = TokenBatch(32)
        index = batch.add(model.tokenize("The colour of the sky is"), 0, 0, outputs=1)
        context.decode(batch)
        row = context.batch_logits(1)[0]
        drawn = []
        for top_k in (0, model.n_vocab):
            sampler = TokenSampler(model, SamplingParams(seed=5, top_k=top_k, **options))  # type: ignore[arg-type]
            tokens = [sampler.sample(context, index, row) for _ in range(count)]
            drawn.append(np.bincount(tokens, minlength=model.n_vocab) / count)
            sampler.close()
        context.close()
    numpy_drawn, chain_drawn = drawn
    # Total variation of two samples of this size from one distribution of a few dozen tokens.
    assert np.abs(numpy_drawn - chain_drawn).sum() / 2 < 0.12
    common = chain_drawn > 0.02
    assert common.any()
    assert np.abs(numpy_drawn - chain_drawn)[common].max() < 0.06
