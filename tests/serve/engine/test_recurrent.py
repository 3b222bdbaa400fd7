"""Models whose memory can't be cut: the engine shares no prefixes, and answers are those of a
fresh one. Two tiny models with random weights, loaded by llama.cpp: Mamba (recurrent) and Jamba
(a Mamba layer and an attention layer: hybrid)."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.serve.engine.tiny_llama import VOCABULARY, add_byte_vocabulary
from tests.support import ModulePaths
from tuneserve.serve.engine import Completion, Engine, SamplingParams
from tuneserve.settings import ServeSettings

EMBEDDING, INNER, STATE, KERNEL, RANK = 64, 128, 8, 4, 4
HEADS, HEAD = 2, 32
FEED_FORWARD = 96

SHARED = list(range(20, 60))
FIRST, SECOND = [*SHARED, 70, 71, 72, 73], [*SHARED, 90, 91, 92]
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, logit_bias={2: -1000.0})


def write_model(path: Path, architecture: str) -> Path:
    """A GGUF of two layers; tokens are bytes."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), architecture)
    hybrid = architecture == "jamba"
    add_metadata(writer, hybrid)

    def add(name: str, *shape: int, scale: float | None = None) -> None:
        scale = shape[-1] ** -0.5 if scale is None else scale
        writer.add_tensor(name, random.normal(0, scale, shape).astype(np.float32))

    def ones(name: str, size: int) -> None:
        writer.add_tensor(name, np.ones(size, np.float32))

    add("token_embd.weight", VOCABULARY, EMBEDDING, scale=1.0)
    ones("output_norm.weight", EMBEDDING)
    add("output.weight", VOCABULARY, EMBEDDING, scale=1.0)
    for layer in range(2):
        block = f"blk.{layer}."
        ones(f"{block}attn_norm.weight", EMBEDDING)
        if hybrid and layer:
            for part in "qkv":
                add(f"{block}attn_{part}.weight", HEADS * HEAD, EMBEDDING)
            add(f"{block}attn_output.weight", EMBEDDING, HEADS * HEAD)
        else:
            add(f"{block}ssm_in.weight", 2 * INNER, EMBEDDING)
            add(f"{block}ssm_conv1d.weight", INNER, KERNEL)
            add(f"{block}ssm_conv1d.bias", INNER, scale=0.1)
            add(f"{block}ssm_x.weight", RANK + 2 * STATE, INNER)
            add(f"{block}ssm_dt.weight", INNER, RANK)
            add(f"{block}ssm_dt.bias", INNER, scale=0.1)
            decay = np.tile(np.arange(1, STATE + 1, dtype=np.float32), (INNER, 1))
            writer.add_tensor(f"{block}ssm_a", -0.1 * decay)
            ones(f"{block}ssm_d", INNER)
            add(f"{block}ssm_out.weight", EMBEDDING, INNER)
            if hybrid:
                ones(f"{block}ssm_dt_norm.weight", RANK)
                ones(f"{block}ssm_b_norm.weight", STATE)
                ones(f"{block}ssm_c_norm.weight", STATE)
        if hybrid:
            ones(f"{block}ffn_norm.weight", EMBEDDING)
            add(f"{block}ffn_gate.weight", FEED_FORWARD, EMBEDDING)
            add(f"{block}ffn_up.weight", FEED_FORWARD, EMBEDDING)
            add(f"{block}ffn_down.weight", EMBEDDING, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_metadata(writer: Any, hybrid: bool) -> None:
    writer.add_context_length(8192)
    writer.add_block_count(2)
    writer.add_embedding_length(EMBEDDING)
    writer.add_feed_forward_length(FEED_FORWARD if hybrid else 0)
    writer.add_head_count(HEADS if hybrid else 0)
    if hybrid:
        writer.add_head_count_kv([0, HEADS])
    writer.add_ssm_conv_kernel(KERNEL)
    writer.add_ssm_inner_size(INNER)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-5)
    add_byte_vocabulary(writer)


@pytest.fixture(scope="module", params=["mamba", "jamba"])
def model(request: pytest.FixtureRequest, module_paths: ModulePaths) -> Path:
    path = module_paths.mktemp("recurrent") / f"{request.param}.gguf"
    return write_model(path, request.param)


def engine(model: Path) -> Engine:
    return Engine(model, ServeSettings(ctx=8192, slots=4, threads=1))


def answer(engine: Engine, prompt: list[int]) -> Completion:
    return engine.generate([prompt], GREEDY)[0]


def test_a_prompt_that_begins_like_an_earlier_one_gets_a_fresh_engines_answer(model: Path) -> None:
    with engine(model) as fresh:
        alone = answer(fresh, SECOND)
    with engine(model) as used:
        first = answer(used, FIRST)
        second, again = answer(used, SECOND), answer(used, FIRST)
        assert used.stats().cached_prefixes == 0
        assert used.stats().cells_used == 0
    assert second.tokens == alone.tokens != first.tokens
    assert again.tokens == first.tokens
    assert len(alone.tokens) == 12
    assert [done.cached_tokens for done in (first, second, again)] == [0, 0, 0]


def test_a_prompt_that_begins_like_a_running_one_gets_a_fresh_engines_answer(model: Path) -> None:
    with engine(model) as fresh:
        alone = answer(fresh, SECOND)
    with engine(model) as busy:
        begun = threading.Event()
        running = busy.submit(
            FIRST, replace(GREEDY, max_tokens=None), on_event=lambda _: begun.set(), stream=True
        )
        assert begun.wait(30)
        beside = answer(busy, SECOND)
        assert busy.stats().running == 1
        running.cancel()
        assert running.result(30).finish_reason == "cancelled"
    assert beside.tokens == alone.tokens
    assert beside.cached_tokens == 0
