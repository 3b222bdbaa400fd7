"""One answer's tokens: seeds, what changes logits, and the same answer in any company."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tuneserve.llama import LlamaModel, backend
from tuneserve.serve.engine import SamplingParams
from tuneserve.serve.engine.adjustments import Adjustments
from tuneserve.serve.engine.row_threads import WORTH_A_THREAD, RowThreads
from tuneserve.serve.engine.sampling import TokenSampler

Row = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def model(demo_gguf: Path) -> Iterator[LlamaModel]:
    with LlamaModel(demo_gguf, vocab_only=True) as model:
        yield model


def noise(count: int, size: int = 3000) -> Row:
    rows: Row = np.random.default_rng(5).normal(0, 2, (count, size)).astype(np.float32)
    return rows


KINDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.7, "top_p": 0.95},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.9},
    {"min_p": 0.05},
    {"repeat_penalty": 1.3, "top_p": 0.9},
    {"logit_bias": {5: -3.0, 7: 4.0}, "frequency_penalty": 0.5},
]


def test_a_request_draws_the_same_alone_and_beside_others(model: LlamaModel) -> None:
    """Whatever other rows and threads do; and its rows are left as they were."""
    rows = noise(30)
    before = rows.copy()

    def answers(threads: RowThreads, kinds: Sequence[dict[str, Any]]) -> list[list[int]]:
        samplers = [TokenSampler(model, SamplingParams(seed=9, **kind)) for kind in kinds]
        steps = []
        for row in rows:

            def next_token(sampler: TokenSampler, row: Row = row) -> int:
                return sampler.sample(row.copy())

            steps.append(threads.map(next_token, samplers, logits=WORTH_A_THREAD * len(samplers)))
        return [list(answer) for answer in zip(*steps, strict=True)]

    one, four = RowThreads(1), RowThreads(4)
    alone = [answers(one, [kind])[0] for kind in KINDS]
    assert answers(four, KINDS) == alone
    assert answers(four, KINDS * 5) == alone * 5
    assert len({tuple(answer) for answer in alone}) == len(KINDS)
    four.close()
    sampler = TokenSampler(model, SamplingParams(seed=9, **KINDS[-1]))
    assert [sampler.sample(row) for row in rows] == alone[-1]
    assert (rows == before).all()


def test_a_failure_in_a_thread_is_raised_when_all_have_ended() -> None:
    done = []

    def work(item: int) -> int:
        if item == 3:
            raise IndexError("of the work itself")
        done.append(item)
        return item

    threads = RowThreads(3)
    with pytest.raises(IndexError, match="of the work itself"):
        threads.map(work, range(12), logits=12 * WORTH_A_THREAD)
    assert threads.map(work, range(2), logits=1) == [0, 1]
    threads.close()


def by_llama_cpp(row: Row, params: SamplingParams, accepted: Sequence[int]) -> Row:
    """The row as llama.cpp's own samplers change it."""
    api = backend()
    pairs = (api.llama_logit_bias * len(params.logit_bias))()
    for pair, (token, value) in zip(pairs, params.logit_bias.items(), strict=True):
        pair.token, pair.bias = token, value
    samplers = [
        api.llama_sampler_init_logit_bias(len(row), len(pairs), pairs),
        api.llama_sampler_init_penalties(
            len(row),
            params.penalty_window,
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        ),
    ]
    data = (api.llama_token_data * len(row))()
    for token, logit in enumerate(row):
        data[token].id, data[token].logit = token, logit
    array = api.llama_token_data_array(data=data, size=len(row), selected=-1, sorted=False)
    for sampler in samplers:
        for token in accepted:
            api.llama_sampler_accept(sampler, token)
        api.llama_sampler_apply(sampler, ctypes.byref(array))
        api.llama_sampler_free(sampler)
    return np.array([one.logit for one in data], np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": {0: -100.0, 3: 2.5, 9: -1.0}},
        {"repeat_penalty": 1.3},
        {"presence_penalty": 0.7, "frequency_penalty": -0.3},
        {"repeat_penalty": 0.8, "frequency_penalty": 0.4, "logit_bias": {3: 5.0, 4: -5.0}},
        {"repeat_penalty": 1.3, "penalty_window": 4},
        {"repeat_penalty": 1.3, "penalty_window": 0},
    ],
)
def test_logits_change_as_in_llama_cpp(options: dict[str, Any]) -> None:
    params = SamplingParams(**options)
    row = noise(1, 12)[0]
    accepted = [3, 3, 5, 1, 3, 9, 5, 5, 11]
    adjustments = Adjustments(params)
    for token in accepted:
        adjustments.accept(token)
    changed = row.copy()
    with adjustments.applied_to(changed):
        np.testing.assert_allclose(changed, by_llama_cpp(row, params, accepted), rtol=1e-6)
        assert (changed != row).any() == (options.get("penalty_window") != 0)
    assert (changed == row).all()


def test_penalties_count_the_tokens_of_the_answer(model: LlamaModel) -> None:
    """Greedy over one row that never changes: each token once, then all of them again."""
    row = np.linspace(4.0, 5.0, 6).astype(np.float32)
    sampler = TokenSampler(model, SamplingParams(temperature=0.0, frequency_penalty=1.1))
    assert [sampler.sample(row) for _ in range(8)] == [5, 4, 3, 2, 1, 0, 5, 4]
