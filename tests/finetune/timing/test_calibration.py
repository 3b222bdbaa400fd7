"""Timing this machine with a layer of a base's shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tuneserve.finetune.timing import calibration
from tuneserve.finetune.timing.calibration import Pace, measure_pace, needed_bytes
from tuneserve.model_shape import Experts, ModelShape
from tuneserve.settings import TrainSettings

TINY = ModelShape(64, 128, 2, 64, 32, 20_000, heads=4, tied=True)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And on one thread: several would wait for each other where other tests run beside them."""
    monkeypatch.setattr(calibration, "_SECONDS", 0.02)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pace(shape: ModelShape, *, precision: str = "fp32", length: int = 32) -> Pace:
    return measure_pace(
        torch, shape, TrainSettings(r=4), device="cpu", precision=precision, batch=4, length=length
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_layer_takes_more_than_its_products(precision: str) -> None:
    found = pace(TINY, precision=precision)
    assert 0 < found.products <= found.layer
    assert found.head > 0
    assert 1 <= found.tokens <= 4 * 32


def test_a_wider_model_takes_longer() -> None:
    wide = replace(TINY, hidden=1024, intermediate=4096, query=1024, key_value=1024)
    assert pace(wide).products > 3 * pace(TINY).products
    assert pace(replace(TINY, vocabulary=2_000_000)).head > 3 * pace(TINY).head


def test_longer_examples_take_longer_though_fewer_tokens_are_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "_MOST_TOKENS", 64)
    found = pace(TINY, length=100_000)
    assert found.tokens == 64
    assert found.products > 3 * pace(TINY, length=64).products


def test_shapes_of_all_kinds_can_be_timed() -> None:
    mixture = replace(TINY, experts=Experts(8, 2, 48, shared=16))
    fused = TrainSettings(r=4, target_modules=("qkv_proj", "self_attn.o_proj", "gate_up_proj"))
    for shape, settings in ((mixture, TrainSettings(r=4)), (TINY, fused)):
        found = measure_pace(
            torch, shape, settings, device="cpu", precision="fp32", batch=2, length=600
        )
        assert found.layer > 0


def test_the_memory_that_timing_takes_is_known_before() -> None:
    large = ModelShape(8192, 28672, 80, 8192, 1024, 128_256, heads=64, tied=False)
    weights = 855_638_016 + 16_384 * 8192
    kept = 2 * 8192 * large.kept_per_token
    assert needed_bytes(large, "fp32") == 2 * needed_bytes(large, "bf16") == 4 * (weights + kept)
