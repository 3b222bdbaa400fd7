"""The memory of training against measured peaks, and the search for a strategy that fits."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneserve.errors import UsageError
from tuneserve.finetune.memory.model import TrainingMemory, largest_batch, training_memory
from tuneserve.finetune.memory.search import search_strategy
from tuneserve.finetune.runtime.targets import with_targets
from tuneserve.memory import GIB
from tuneserve.model_shape import ModelShape
from tuneserve.settings import (
    ALL_PROJECTIONS,
    ModelSettings,
    Recipe,
    TrainSettings,
)

LLAMA_8B = ModelShape(4096, 14336, 32, 4096, 1024, 128_256, heads=32, tied=False)
QV = ("q_proj", "v_proj")


def gpu_gib(batch: int, targets: tuple[str, ...], four_bit: bool, checkpointing: str) -> float:
    settings = TrainSettings(batch_size=batch, target_modules=targets)
    memory = training_memory(
        LLAMA_8B, settings, tokens=batch * 2048, four_bit=four_bit, device="cuda",
        checkpointing=checkpointing,
    )  # fmt: skip
    return memory.total / GIB


@pytest.mark.parametrize(
    ("batch", "targets", "four_bit", "checkpointing", "measured"),
    [
        (2, ALL_PROJECTIONS, True, "unsloth", 6.8),
        (2, ALL_PROJECTIONS, True, "true", 7.7),
        (2, ALL_PROJECTIONS, True, "false", 20.9),
        (2, ALL_PROJECTIONS, False, "false", 30.6),
        (8, ALL_PROJECTIONS, True, "unsloth", 10.0),
        (2, QV, True, "unsloth", 6.3),
    ],
)
def test_the_plan_is_within_a_tenth_of_what_was_measured_on_a_gpu(
    batch: int, targets: tuple[str, ...], four_bit: bool, checkpointing: str, measured: float
) -> None:
    """Peaks of Unsloth on one H100, Llama-8B shape, length 2,048, r 16."""
    assert gpu_gib(batch, targets, four_bit, checkpointing) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("batch", "length", "precision", "checkpointing", "compiled", "measured"),
    [
        (8, 64, "bf16", "false", False, 2.18),
        (8, 128, "bf16", "false", False, 3.12),
        (8, 256, "bf16", "false", False, 5.00),
        (4, 512, "bf16", "false", False, 5.42),
        (8, 64, "bf16", "false", True, 1.90),
        (8, 128, "bf16", "false", True, 2.53),
        (8, 256, "bf16", "false", True, 3.60),
        (4, 512, "bf16", "false", True, 4.05),
        (8, 256, "bf16", "true", False, 2.07),
        (4, 128, "fp32", "false", False, 2.99),
        (8, 128, "fp32", "false", False, 4.38),
        (4, 256, "fp32", "false", False, 4.22),
    ],
)
def test_the_plan_is_within_a_tenth_of_what_was_measured_on_a_cpu(
    batch: int,
    length: int,
    precision: str,
    checkpointing: str,
    compiled: bool,
    measured: float,
    demo_base: Path,
) -> None:
    """Peaks of `tuneserve train` with the 135M model on two cores (benchmarks/finetune_plan.py)."""
    memory = training_memory(
        ModelShape.read(demo_base), TrainSettings(), tokens=batch * length, four_bit=False,
        device="cpu", value_bytes=4 if precision == "fp32" else 2, checkpointing=checkpointing,
        length=length, compiled=compiled,
    )  # fmt: skip
    assert memory.total / GIB == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(("longest", "mean", "measured"), [(128, 77, 2.38), (288, 77, 5.56)])
def test_a_few_long_examples_among_short_ones_take_more_than_their_batch(
    longest: int, mean: float, measured: float, demo_base: Path
) -> None:
    """Peaks over an epoch: the sentiment recipe, and the same with general examples replayed."""
    memory = training_memory(
        ModelShape.read(demo_base), TrainSettings(), tokens=8 * longest, four_bit=False,
        device="cpu", checkpointing="false", length=longest, mean_length=mean, compiled=True,
    )  # fmt: skip
    assert memory.total / GIB == pytest.approx(measured, rel=0.1)


def test_a_divided_base_takes_its_part_and_what_is_gathered() -> None:
    def gib(divided: int, *, four_bit: bool) -> float:
        memory = training_memory(
            LLAMA_8B, TrainSettings(), tokens=64, four_bit=four_bit, device="cuda",
            checkpointing="unsloth", divided=divided,
        )  # fmt: skip
        return memory.total / GIB

    whole, half, quarter = (gib(parts, four_bit=False) for parts in (1, 2, 4))
    # Half of 15 GiB, the embeddings (2 GiB) once more, and two layers of 32.
    assert half == pytest.approx(whole / 2 + 2.0 + 0.8, abs=0.2)
    assert quarter == pytest.approx(whole / 4 + 2.0 + 0.8, abs=0.2)
    # A 4-bit base is whole in each process while it is loaded.
    assert gib(8, four_bit=True) == pytest.approx(gib(1, four_bit=True), rel=0.1)


def test_the_plan_says_among_how_many_the_base_is_divided() -> None:
    recipe = Recipe(
        model=ModelSettings(load_in_4bit=False), train=TrainSettings(shard=True, gpus=2)
    )
    strategy = search_strategy(LLAMA_8B, recipe, [512] * 9, available=14 * GIB, device="cuda")
    assert strategy.describe().startswith("16-bit base divided among 2 GPUs, ")
    assert strategy.memory.total < 14 * GIB
    alone = recipe.model_copy(update={"train": TrainSettings()})
    strategy = search_strategy(LLAMA_8B, alone, [512] * 9, available=14 * GIB, device="cuda")
    assert strategy.memory.total > 14 * GIB


def test_parameters_are_those_of_the_models(demo_base: Path) -> None:
    assert LLAMA_8B.parameters == 8_030_261_248
    assert LLAMA_8B.adapter_parameters(16, ALL_PROJECTIONS) == 41_943_040
    demo = ModelShape.read(demo_base)
    assert demo.parameters == 134_515_008
    assert demo.adapter_parameters(16, ALL_PROJECTIONS) == 4_884_480


def chosen(gib: float, *, batch: int = 2, accumulation: int = 4, **model: Any) -> Any:
    train = TrainSettings(batch_size=batch, gradient_accumulation=accumulation)
    recipe = Recipe(train=train, model=ModelSettings(**model))
    return search_strategy(LLAMA_8B, recipe, [2048] * 100, available=gib * GIB, device="cuda")


def searched(gib: float, train: TrainSettings) -> Any:
    recipe = Recipe(train=train)
    return search_strategy(LLAMA_8B, recipe, [2048] * 9, available=gib * GIB, device="cuda")


def test_memory_in_hand_is_spent_on_speed() -> None:
    costs = []
    for gib in (7.25, 11.25, 15.25, 23.25, 47, 79):
        strategy = chosen(gib)
        assert strategy.memory.total <= gib * GIB
        assert strategy.decisions.batch_size * strategy.decisions.gradient_accumulation == 8
        costs.append(strategy.cost)
    assert costs == sorted(costs, reverse=True)
    assert chosen(7.25).decisions.load_in_4bit
    assert not chosen(79).decisions.load_in_4bit
    assert chosen(79).decisions.gradient_checkpointing == "false"


def test_what_the_recipe_settles_stays() -> None:
    assert chosen(79, load_in_4bit=True).decisions.load_in_4bit
    assert not chosen(7.25, load_in_4bit=False).decisions.load_in_4bit
    settings = TrainSettings(
        batch_size=2, gradient_accumulation=4, speed="as_given", gradient_checkpointing="true",
        offload_embeddings="false",
    )  # fmt: skip
    assert searched(79, settings).decisions.applied(settings) == settings


def test_where_nothing_fits_the_smallest_strategy_is_taken() -> None:
    strategy = chosen(1)
    found = strategy.decisions
    assert (found.load_in_4bit, found.gradient_checkpointing) == (True, "unsloth")
    assert (found.kept_layers, found.batch_size) == (0, 1)
    assert strategy.memory.total > GIB


def test_embeddings_leave_a_small_card_to_a_larger_batch() -> None:
    small, large = chosen(7.25), chosen(79)
    assert small.decisions.offload_embeddings
    assert small.decisions.batch_size == 4
    assert not large.decisions.offload_embeddings
    settings = TrainSettings(offload_embeddings="false")
    strategy = searched(7.25, settings)
    assert not strategy.decisions.offload_embeddings
    assert strategy.decisions.applied(settings).offload_embeddings == "false"
    assert small.decisions.applied(settings).offload_embeddings == "true"


@pytest.mark.parametrize(
    ("device", "changes", "tied", "reason"),
    [
        ("cpu", {}, False, "no GPU"),
        ("cuda", {}, True, "shares the token embeddings"),
        ("cuda", {"modules_to_save": ("embed_tokens",)}, False, "are trained"),
    ],
)
def test_embeddings_that_can_not_be_offloaded_say_why(
    device: str, changes: dict[str, Any], tied: bool, reason: str
) -> None:
    def strategy(wanted: str) -> Any:
        train = TrainSettings.model_validate({"offload_embeddings": wanted, **changes})
        shape = replace(LLAMA_8B, tied=tied)
        recipe = Recipe(train=train)
        return search_strategy(shape, recipe, [64] * 9, available=79 * GIB, device=device)

    assert not strategy("auto").decisions.offload_embeddings
    with pytest.raises(UsageError, match=reason):
        strategy("true")


def test_several_processes_keep_the_embeddings_with_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not chosen(7.25).decisions.offload_embeddings


@given(st.lists(st.integers(16, 4096), min_size=1, max_size=40), st.floats(4, 90))
def test_a_choice_never_changes_the_examples_of_a_step(lengths: list[int], gib: float) -> None:
    recipe = Recipe(train=TrainSettings(batch_size=3, gradient_accumulation=4))
    strategy = search_strategy(LLAMA_8B, recipe, lengths, available=gib * GIB, device="cuda")
    assert strategy.decisions.batch_size * strategy.decisions.gradient_accumulation == 12
    assert 0 <= strategy.decisions.kept_layers <= LLAMA_8B.layers


@given(st.integers(1, 4000), st.integers(0, 100), st.integers(0, 100_000))
def test_the_largest_batch_fits_and_one_more_does_not(each: int, base: int, room: int) -> None:
    batch = largest_batch(room, lambda b: base + each * b)
    assert batch == 0 or base + each * batch <= room
    assert batch == 4096 or base + each * (batch + 1) > room


def test_a_config_without_the_sizes_is_named() -> None:
    with pytest.raises(UsageError, match="num_attention_heads"):
        ModelShape.of({"hidden_size": 8}, "x/config.json")


QWEN3_30B: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48, "head_dim": 128,
    "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 151936,
    "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
}  # fmt: skip
GPT_OSS_20B: dict[str, Any] = {
    "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24, "head_dim": 64,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 201088,
    "num_local_experts": 32, "num_experts_per_tok": 4,
}  # fmt: skip
DEEPSEEK_V2_LITE: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 27,
    "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 102400,
    "n_routed_experts": 64, "num_experts_per_tok": 6, "moe_intermediate_size": 1408,
    "n_shared_experts": 2, "first_k_dense_replace": 1, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "billions"), [(QWEN3_30B, 30.5), (GPT_OSS_20B, 20.9), (DEEPSEEK_V2_LITE, 15.7)]
)
def test_a_mixture_of_experts_has_the_published_size(
    config: dict[str, Any], billions: float
) -> None:
    assert ModelShape.of(config).parameters / 1e9 == pytest.approx(billions, rel=0.03)


def test_a_mixture_keeps_what_a_token_goes_through(demo_base: Path) -> None:
    shape = ModelShape.of(QWEN3_30B)
    assert shape.experts is not None
    dense = dataclasses.replace(shape, experts=None, intermediate=8 * 768)
    assert shape.kept_per_token == dense.kept_per_token + 2 * 8 * 2048
    every = shape.adapter_parameters(8, ("gate_up_proj", "down_proj"))
    assert every == shape.adapter_parameters(8, ("gate_proj", "up_proj", "down_proj"))
    assert every == 8 * 48 * 128 * 3 * (2048 + 768)
    assert shape.adapter_parameters(8, ("q_proj",)) == 8 * 48 * (2048 + 4096)
    config = json.loads((demo_base / "config.json").read_text(encoding="utf-8"))
    for none in (1, None):
        assert ModelShape.of({**config, "num_experts": none}) == ModelShape.of(config)


def test_of_the_last_layers_alone_fewer_activations_are_kept() -> None:
    def taken(checkpointing: str = "false", **chosen: Any) -> TrainingMemory:
        return training_memory(
            LLAMA_8B, TrainSettings.model_validate(chosen), tokens=4096, four_bit=False,
            device="cuda", checkpointing=checkpointing,
        )  # fmt: skip

    every, half = taken(), taken(last_layers=16)
    assert half.adapter == every.adapter // 2
    assert 0.4 * every.activations < half.activations < 0.6 * every.activations
    # What trains elsewhere, and what is computed again, takes the backward pass through all layers.
    assert taken(last_layers=16, bias="all").activations == every.activations
    again = [taken("unsloth", last_layers=count).activations for count in (0, 16)]
    assert again[0] == again[1]


def test_more_layers_than_the_base_has_are_refused(demo_base: Path) -> None:
    assert with_targets(demo_base, TrainSettings(last_layers=30)).last_layers == 30
    with pytest.raises(UsageError, match="this base has 30 layers") as refused:
        with_targets(demo_base, TrainSettings(last_layers=31))
    assert refused.value.where == "train.last_layers"
