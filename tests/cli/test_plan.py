"""`tuneserve plan` promises what the stages then do: each is asked for its own estimate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import Runner, write_small_weights
from tuneserve.cli.planning import plan
from tuneserve.convert.resources import check_memory, needed_memory
from tuneserve.errors import TuneserveError
from tuneserve.memory import GIB, MainMemory
from tuneserve.model_shape import ModelShape
from tuneserve.serve.offload import CONTEXT_STEP, ModelSizes, largest_offload, usable_bytes
from tuneserve.settings import ConvertSettings, Recipe, ServeSettings, TrainSettings

SHAPES = {
    "135M": ModelShape(576, 1536, 30, 576, 192, 49_152, heads=9, tied=True),
    "1B": ModelShape(2048, 8192, 16, 2048, 512, 128_256, heads=32, tied=True),
    "8B": ModelShape(4096, 14336, 32, 4096, 1024, 128_256, heads=32, tied=False),
    "70B": ModelShape(8192, 28672, 80, 8192, 1024, 128_256, heads=64, tied=False),
}
CONFIG_8B = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128_256,
}  # fmt: skip


def write_checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """A checkpoint directory whose weights are small: only their names and kinds are read."""
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    write_small_weights(folder / "model.safetensors")
    return folder


def all_layers_fit(shape: ModelShape, recipe: Recipe, vram: float, ctx: int) -> bool:
    """Would the server put all layers of the converted model on a GPU of `vram` GiB?"""
    settings = recipe.serve.model_copy(update={"vram": vram, "ctx": ctx})
    sizes = ModelSizes.of_shape(shape, recipe.convert)
    free = usable_bytes([int(vram * GIB)], settings)
    offload = largest_offload(sizes, settings, free_bytes=free)
    return offload.layers == offload.total


def test_the_command_plans_without_loading_weights(tuneserve: Runner) -> None:
    done = tuneserve("plan", "--base", "demo", "--vram", "12", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["parameters"] == 134_515_008
    assert found["chosen"]["gradient_checkpointing"] == "false"
    assert found["largest_batch"]["unsloth"] > found["largest_batch"]["false"] > 0
    assert "fits into" in done.stderr


def test_the_command_says_what_convert_and_serve_say(tuneserve: Runner, tmp_path: Path) -> None:
    base_8b = write_checkpoint(tmp_path, CONFIG_8B)
    done = tuneserve(
        "plan", "--base", str(base_8b), "--vram", "12", "--threads", "2", "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(found["peaks"]["merge"].values()) == needed_memory(2)
    ctx = found["longest_context"]
    assert f"all layers on the GPU, a context of {ctx:,} tokens fits" in done.stderr
    assert all_layers_fit(SHAPES["8B"], Recipe(), 12, ctx)
    assert not all_layers_fit(SHAPES["8B"], Recipe(), 12, ctx + CONTEXT_STEP)


def test_a_base_in_4_bits_is_planned_as_it_is_trained(tuneserve: Runner, tmp_path: Path) -> None:
    config = {**CONFIG_8B, "quantization_config": {"quant_method": "bitsandbytes"}}
    base = write_checkpoint(tmp_path, config)
    done = tuneserve("plan", "--base", str(base), "--vram", "80", "--json")
    assert json.loads(done.stdout)["chosen"]["load_in_4bit"]


@pytest.mark.parametrize(
    ("options", "where", "message"),
    [
        (("--target-modules", "q_prol"), "train.target_modules", "no module 'q_prol'"),
        (("--target-modules", "q_proj,mlp"), "train.target_modules", "'mlp' is no linear layer"),
        (("--target-modules", "lm_head"), "train.target_modules", "'lm_head' can't have"),
        (("--modules-to-save", "nonsense"), "train.modules_to_save", "no module 'nonsense'"),
        (("--cpu", "--precision", "fp16"), "train.precision", "fp16 needs a GPU"),
        (("--cpu", "--optimizer", "adamw_8bit"), "train.optimizer", "needs a GPU"),
    ],
)
def test_what_training_refuses_is_refused(
    tuneserve: Runner, tmp_path: Path, options: tuple[str, ...], where: str, message: str
) -> None:
    base = write_checkpoint(tmp_path, CONFIG_8B)
    done = tuneserve("plan", "--base", str(base), *options)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {where}: ")
    assert message in done.stderr
    assert done.stdout == ""


def test_all_linear_is_planned_as_all_projections(tuneserve: Runner, tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path, CONFIG_8B)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[train]\ntarget_modules = "all-linear"\n')
    found = [
        json.loads(tuneserve("plan", "--base", str(base), "--json", *options).stdout)
        for options in ((), ("--config", str(recipe)), ("--target-modules", "all-linear"))
    ]
    assert found[0] == found[1] == found[2]
    training = next(parts for title, parts in found[0]["peaks"].items() if "training" in title)
    assert training["adapter"] > 2**28


def test_phi_3_has_the_same_projections_in_fewer_matrices() -> None:
    shape = SHAPES["8B"]
    apart = shape.adapter_parameters(16, ("q_proj", "k_proj", "v_proj"))
    # One A matrix in place of three.
    assert shape.adapter_parameters(16, ("qkv_proj",)) == apart - 2 * 32 * 16 * 4096


@pytest.mark.parametrize("threads", [2, 8, 16])
def test_the_merge_takes_what_convert_asks_for(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(convert=ConvertSettings(threads=threads))
    for shape in SHAPES.values():
        planned = sum(plan(recipe, shape, device="cuda").peaks["merge"].values())
        for missing, refused in ((0, False), (1, True)):
            memory = MainMemory(64 * GIB, 64 * GIB, planned - missing)
            monkeypatch.setattr(
                "tuneserve.convert.resources.main_memory", lambda memory=memory: memory
            )
            if refused:
                with pytest.raises(TuneserveError, match="of memory are needed"):
                    check_memory(threads)
            else:
                check_memory(threads)


@given(
    name=st.sampled_from(sorted(SHAPES)),
    vram=st.floats(0.5, 160),
    quantization=st.sampled_from(["Q4_K_M", "Q8_0", "F16"]),
    serve=st.builds(
        ServeSettings,
        cache_type_k=st.sampled_from(["f16", "q8_0"]),
        slots=st.integers(1, 64),
        embeddings=st.booleans(),
    ),
)
def test_a_promised_context_fits_and_one_step_more_does_not(
    name: str, vram: float, quantization: Any, serve: ServeSettings
) -> None:
    recipe = Recipe(
        train=TrainSettings(vram=vram), convert=ConvertSettings(quantization=quantization),
        serve=serve,
    )  # fmt: skip
    found = plan(recipe, SHAPES[name], device="cuda")
    ctx = found.longest_context
    assert ctx is not None
    assert ctx % CONTEXT_STEP == 0
    assert ctx == 0 or all_layers_fit(SHAPES[name], recipe, vram, ctx)
    assert not all_layers_fit(SHAPES[name], recipe, vram, ctx + CONTEXT_STEP)
    if not ctx:
        assert "layers fit the GPU" in found.advice[-1]


def test_serving_has_a_limit_of_its_own() -> None:
    def context(**serve: Any) -> int:
        recipe = Recipe(train=TrainSettings(vram=24), serve=ServeSettings(**serve))
        found = plan(recipe, SHAPES["8B"], device="cuda").longest_context
        assert found is not None
        return found

    assert 0 < context(vram=8) < context() == context(vram=24)


def test_what_is_served_from_main_memory_includes_the_input_embedding() -> None:
    def weights(shape: ModelShape, device: str, **train: Any) -> int:
        recipe = Recipe(train=TrainSettings(**train))
        peaks = plan(recipe, shape, device=device).peaks
        found: int = next(parts for title, parts in peaks.items() if "serving" in title)["weights"]
        return found

    large, tied = SHAPES["8B"], SHAPES["1B"]
    assert weights(large, "cpu") - weights(large, "cuda") == 128_256 * 4096 // 256 * 144  # Q4_K
    assert weights(tied, "cpu") == weights(tied, "cuda")
    # An output layer of its own, once the adapter has changed it.
    assert weights(tied, "cpu", modules_to_save=("lm_head",)) == weights(
        replace(tied, tied=False), "cpu"
    )


def test_a_draft_model_is_counted(demo_gguf: Path) -> None:
    def planned(**serve: Any) -> tuple[int, int]:
        recipe = Recipe(train=TrainSettings(vram=12), serve=ServeSettings(**serve))
        found = plan(recipe, SHAPES["8B"], device="cuda")
        parts = next(parts for title, parts in found.peaks.items() if "serving" in title)
        return found.longest_context or 0, parts.get("draft_weights", 0)

    alone, nothing = planned()
    beside, weights = planned(draft=demo_gguf)
    assert nothing == 0
    assert weights == pytest.approx(demo_gguf.stat().st_size, rel=0.03)
    assert 0 < beside < alone
    assert planned(draft=demo_gguf, speculate="off") == (alone, 0)
