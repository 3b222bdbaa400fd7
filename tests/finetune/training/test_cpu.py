"""When layers are compiled and attention is plain: what is decided, not how fast it is."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tuneserve.errors import UsageError
from tuneserve.finetune.memory.budget import compiles
from tuneserve.finetune.memory.schedule import Schedule
from tuneserve.finetune.runtime.libraries import Runtime
from tuneserve.finetune.tokens.encoder import Encoded
from tuneserve.finetune.training.cpu import compile_layers, is_compiled, plain_attention
from tuneserve.settings import TrainSettings

CPU = Runtime(None, torch, "cpu", "bf16")
GPU = Runtime(None, torch, "cuda", "bf16")
# 100 tokens an example, 10 examples a step.
EXAMPLES = [Encoded([1] * length, [1] * length, length, 0) for length in (50, 150)]
ENOUGH = 60


def wanted(steps: int = ENOUGH, runtime: Runtime = CPU, **given: Any) -> bool:
    usual = {"batch_size": 5, "gradient_accumulation": 2, "gradient_checkpointing": "false"}
    settings = TrainSettings.model_validate({**usual, **given})
    return compiles(settings, runtime, EXAMPLES, Schedule(steps, 0, 0))


def test_layers_are_compiled_from_60_000_tokens_on() -> None:
    assert wanted(ENOUGH)
    assert not wanted(ENOUGH - 1)
    # Twice as many steps of half as many examples are as many tokens.
    assert wanted(2 * ENOUGH, gradient_accumulation=1)
    assert not wanted(2 * ENOUGH - 1, gradient_accumulation=1)


def test_what_compiling_does_not_help_is_not_compiled() -> None:
    assert not wanted(gradient_checkpointing="true")
    assert not wanted(runtime=Runtime(None, torch, "cpu", "fp32"))
    assert not wanted(runtime=GPU)


def test_the_recipe_can_settle_it_for_a_cpu() -> None:
    assert wanted(1, compile="true")
    assert not wanted(compile="false")
    assert not wanted(compile="true", runtime=GPU)


def test_compiling_that_is_asked_for_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(UsageError, match=r"no C\+\+ compiler is at hand") as caught:
        wanted(compile="true")
    assert caught.value.where == "train.compile"
    assert not wanted()  # left to the trainer, it trains uncompiled


@pytest.mark.parametrize(("compiled", "value"), [(True, "1"), (False, "0")])
def test_unsloth_is_told(monkeypatch: pytest.MonkeyPatch, compiled: bool, value: str) -> None:
    for name in ("UNSLOTH_CPU_COMPILE", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "as it was")
    compile_layers(compiled)
    assert os.environ["UNSLOTH_CPU_COMPILE"] == value
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "as it was"
    assert not is_compiled(torch.nn.Linear(1, 1))


def plain(runtime: Runtime, longest: int) -> bool:
    """Is PyTorch's fused attention off while training on examples up to this length?"""
    fused: Any = torch.backends.cuda.flash_sdp_enabled
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        with plain_attention(runtime, [EXAMPLES[0], Encoded([1] * longest, [], longest, 0)]):
            inside = fused()
        assert fused()
    return not inside


def test_attention_over_short_texts_is_plain_on_a_cpu() -> None:
    assert plain(CPU, 512)
    assert not plain(CPU, 513)
    assert not plain(GPU, 512)


def test_plain_attention_gives_what_the_fused_one_gives() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 16, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    with plain_attention(CPU, EXAMPLES):
        ours = attend(query, key, value, is_causal=True)
    torch.testing.assert_close(ours, attend(query, key, value, is_causal=True))
