"""Rows of many requests drawn in one go give what each gives alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.serve.engine.tiny_llama import write_tiny_llama
from tests.support import ModulePaths
from tuneserve.llama import LlamaModel
from tuneserve.serve.engine.request import Generation, Request
from tuneserve.serve.engine.rows import Drawn, RowDrawer
from tuneserve.serve.engine.sampling import TokenSampler
from tuneserve.serve.engine.types import SamplingParams
from tuneserve.serve.engine.weights import LogitsError

GREEDY = SamplingParams(temperature=0.0)
DRAWN = SamplingParams(temperature=0.9, seed=4)


@pytest.fixture(scope="module")
def model(module_paths: ModulePaths) -> LlamaModel:
    path = write_tiny_llama(module_paths.mktemp("tiny") / "tiny.gguf")
    return LlamaModel(path, vocab_only=True)


def request(sampling: SamplingParams, *draft: int) -> Request:
    one = Request([1, 2], sampling, Generation(), limit=100)
    one.draft = draft
    return one


def tokens_of(drawn: list[list[Drawn]]) -> list[list[int | None]]:
    return [[None if isinstance(one, LogitsError) else one[0] for one in own] for own in drawn]  # type: ignore[index]


@pytest.mark.parametrize("threads", [1, 3])
def test_each_request_gets_what_its_own_rows_give(model: LlamaModel, threads: int) -> None:
    random = np.random.default_rng(1)
    kinds = [GREEDY, DRAWN, SamplingParams(0.0, logit_bias={5: 50.0}), SamplingParams(0.0, top_k=3)]
    requests = [request(kinds[kind]) for kind in random.integers(0, 4, 40)]
    requests += [request(GREEDY) for _ in range(20)]
    logits = random.normal(0, 3, (len(requests), model.n_vocab)).astype(np.float32)
    drawer = RowDrawer(model, threads)
    found = tokens_of(drawer.draw(requests, logits))
    drawer.close()
    alone = [
        TokenSampler(model, one.sampling).sample(row.copy())
        for one, row in zip(requests, logits, strict=True)
    ]
    assert found == [[token] for token in alone]


def test_a_draft_is_followed_to_its_first_wrong_guess_or_the_end(model: LlamaModel) -> None:
    best = [10, 11, 12, 13, 2, 20, 30, 31, 32]
    logits = np.zeros((len(best), model.n_vocab), np.float32)
    logits[np.arange(len(best)), best] = 9.0
    drawer = RowDrawer(model, 1)
    # Two right guesses and a wrong one; one that is an end token; none; all right.
    requests = [request(GREEDY, 10, 11, 99), request(GREEDY, 2), request(GREEDY, 30, 31)]
    assert tokens_of(drawer.draw(requests, logits)) == [[10, 11, 12], [2], [30, 31, 32]]
    for one in requests:
        one.is_plainly_greedy = False
    assert tokens_of(drawer.draw(requests, logits)) == [[10, 11, 12], [2], [30, 31, 32]]


def test_rows_without_finite_logits_end_their_own_request_alone(model: LlamaModel) -> None:
    logits = np.zeros((4, model.n_vocab), np.float32)
    logits[:, 7] = 1.0
    logits[1] = np.nan
    logits[2] = -np.inf
    drawer = RowDrawer(model, 1)
    found = tokens_of(drawer.draw([request(GREEDY) for _ in range(4)], logits))
    assert found == [[7], [None], [None], [7]]
