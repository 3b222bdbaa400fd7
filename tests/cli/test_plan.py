"""`tuneserve plan` promises what the stages then do: each is asked for its own estimate."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import ROOT, Runner, write_small_weights
from tuneserve.base import is_hub_id, read_base_config
from tuneserve.cli.planning import plan
from tuneserve.convert.preflight.configuration import require_planned
from tuneserve.convert.resources import check_memory, needed_memory
from tuneserve.errors import TuneserveError, UsageError
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
    "vocab_size": 128_256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
}  # fmt: skip


def write_checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    """A checkpoint directory whose weights are small: only their names and kinds are read."""
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'
    )
    write_small_weights(folder / "model.safetensors", layers=config["num_hidden_layers"])
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A hundred examples of about 50 tokens."""
    rows = [
        {"instruction": f"What is {n} times {n * 7}? " + "Think of it well. " * 9, "output": str(n)}
        for n in range(100)
    ]
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


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
    base_8b = write_checkpoint(tmp_path, {**CONFIG_8B, "max_position_embeddings": 1 << 20})
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


def test_no_context_is_promised_that_the_model_was_not_made_for(
    tuneserve: Runner, tmp_path: Path
) -> None:
    base = write_checkpoint(tmp_path, CONFIG_8B)
    done = tuneserve("plan", "--base", str(base), "--vram", "24", "--json")
    assert json.loads(done.stdout)["longest_context"] == 8192
    assert "the model's whole context of 8,192 tokens fits" in done.stderr
    assert "all requests together" not in done.stderr
    done = tuneserve("plan", "--base", str(base), "--vram", "24", "--ctx", "16384", "--json")
    titles = json.loads(done.stdout)["peaks"]
    assert any("context 16384 for all requests together, 8192 for one" in one for one in titles)


@pytest.mark.slow
def test_of_examples_that_are_here_memory_is_planned_as_training_plans_it(
    tuneserve: Runner, tmp_path: Path
) -> None:
    rows = [{"instruction": f"Name {n} in one word.", "output": "x"} for n in range(40)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--base", "demo", "--file", str(tmp_path / "x.jsonl"), "--max-seq-length", "256")
    done = tuneserve("plan", *options, "--cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = re.search(
        r"training: (.*), these examples\n.*?in all +([\d.]+ GiB)", done.stderr, re.DOTALL
    )
    assert told is not None, done.stderr
    trained = tuneserve("train", *options, "--run", "x", "--max-steps", "2", cwd=tmp_path)
    assert f"{told[1]}: {told[2]} planned" in trained.stderr, (done.stderr, trained.stderr)


def test_a_gpu_that_is_not_there_is_told(tuneserve: Runner, tmp_path: Path) -> None:
    import torch

    (tmp_path / "config.json").write_text(json.dumps(CONFIG_8B))
    arguments = ("plan", "--base", str(tmp_path), "--vram", "24")
    told = "planned for a GPU of 24 GiB, which this machine does not have"
    assert (told in tuneserve(*arguments).stderr) is not torch.cuda.is_available()
    assert told not in tuneserve(*arguments, "--cpu").stderr
    # Without a size it is planned for what is here.
    here = tuneserve(*arguments[:3], "--no-calibrate").stderr
    assert ("planned for this machine's CPU" in here) is not torch.cuda.is_available()
    assert ("memory that are free here" in here) is not torch.cuda.is_available()
    asked = tuneserve(*arguments[:3], "--no-calibrate", "--gpu").stderr
    assert ("planned for a GPU, which" in asked) is not torch.cuda.is_available()


@pytest.mark.parametrize("vram", [0.25, 0.75])
def test_where_nothing_is_left_for_training_no_negative_room_is_told(vram: float) -> None:
    recipe = Recipe.model_validate({"train": {"vram": vram}})
    first = plan(recipe, next(iter(SHAPES.values())), device="cuda").advice[0]
    assert f"does NOT fit: of {vram} GiB nothing is left for it" in first
    assert "-0" not in first


@given(
    shape=st.sampled_from(list(SHAPES.values())),
    vram=st.floats(1.0, 90.0),
    length=st.sampled_from([256, 2048, 32_768]),
    device=st.sampled_from(["cuda", "cpu"]),
    tied=st.booleans(),
)
def test_a_training_that_fits_has_a_batch_that_fits(
    shape: ModelShape, vram: float, length: int, device: str, tied: bool
) -> None:
    recipe = Recipe.model_validate({"model": {"max_seq_length": length}, "train": {"vram": vram}})
    found = plan(recipe, replace(shape, tied=tied), device=device)
    fits = any("fits into" in line for line in found.advice)
    assert found.largest_batch is not None
    assert (max(found.largest_batch.values()) > 0) is fits
    assert max(found.largest_batch.values()) >= found.chosen.batch_size or not fits


def test_a_base_in_4_bits_is_planned_as_it_is_trained(tuneserve: Runner, tmp_path: Path) -> None:
    config = {**CONFIG_8B, "quantization_config": {"quant_method": "bitsandbytes"}}
    base = write_checkpoint(tmp_path, config)
    done = tuneserve("plan", "--base", str(base), "--vram", "80", "--json")
    assert json.loads(done.stdout)["chosen"]["load_in_4bit"]


def test_a_configuration_alone_is_planned_as_a_checkpoint_is(
    tuneserve: Runner, tmp_path: Path
) -> None:
    whole = write_checkpoint(tmp_path, CONFIG_8B)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "config.json").write_text(json.dumps(CONFIG_8B))
    named = tmp_path / "my-8b.json"
    named.write_text(json.dumps(CONFIG_8B))
    found = [
        tuneserve("plan", "--base", str(base), "--vram", "12", "--json", "--no-calibrate")
        for base in (whole, alone, alone / "config.json", named)
    ]
    assert [done.returncode for done in found] == [0] * 4, found[1].stderr
    plans = [json.loads(done.stdout) for done in found]
    assert plans[0]["longest_context"] > 0
    assert plans[0] == plans[1] == plans[2] == plans[3]


def test_a_configuration_says_what_modules_there_are(tuneserve: Runner, tmp_path: Path) -> None:
    def adapter(config: dict[str, Any], *options: str) -> int:
        (tmp_path / "config.json").write_text(json.dumps({**CONFIG_8B, **config}))
        done = tuneserve("plan", "--base", str(tmp_path), "--json", "--no-calibrate", *options)
        assert done.returncode == 0, done.stderr
        peaks = json.loads(done.stdout)["peaks"]
        size: int = next(parts for title, parts in peaks.items() if "training" in title)["adapter"]
        return size

    everything = ("--target-modules", "all-linear")
    phi = {"architectures": ["Phi3ForCausalLM"]}
    assert adapter({}, *everything) == adapter({})
    assert adapter({}) > adapter(phi, *everything) > 2**28
    refused = tuneserve("plan", "--base", str(tmp_path), "--target-modules", "q_proj")
    assert refused.returncode == 2
    assert "this base model has no module 'q_proj'" in refused.stderr
    # What this architecture's modules are called stands in its weights alone.
    known = adapter({})
    assert adapter({"architectures": ["NewForCausalLM"]}, *everything) == known
    told = tuneserve("plan", "--base", str(tmp_path), "--target-modules", "q_prol")
    assert told.returncode == 0
    assert "target_modules and modules_to_save are not checked" in told.stderr


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("empty", "empty: no config.json is there"),
        ("nowhere", "model.base = 'nowhere': no such base model"),
        ("nobody/nothing", "model.base = 'nobody/nothing': the hub model can't be downloaded"),
        ("list.json", "list.json: not a JSON object"),
        ("half.json", "half.json: 'hidden_size' is not in it: this model can't be planned"),
    ],
)
def test_what_is_no_base_is_one_error(
    tuneserve: Runner, tmp_path: Path, spec: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "half.json").write_text('{"num_attention_heads": 4}')
    done = tuneserve("plan", "--base", spec, cwd=tmp_path)
    assert done.returncode == (1 if is_hub_id(spec) else 2)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_tokens_and_steps_are_told_without_a_tokenizer(
    tuneserve: Runner, tmp_path: Path, data: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_8B))
    command = ("plan", "--base", str(tmp_path), "--file", str(data), "--epochs", "2", "--json")
    done = tuneserve(*command, "--cpu", "--no-calibrate")
    assert done.returncode == 0, done.stderr
    work = json.loads(done.stdout)["work"]
    assert work["lengths"] == "estimated"
    assert "characters a token: 4 of Latin text" in done.stderr
    assert 60 < work["epoch_examples"] < 80
    assert work["epoch_tokens"] / work["epoch_examples"] == pytest.approx(62, abs=6)
    assert work["steps"] == -(-work["epoch_examples"] // 8) * 2
    assert "time" not in work
    assert "time: left out, this machine was not timed (--no-calibrate)" in done.stderr
    shorter = json.loads(
        tuneserve(*command, "--cpu", "--no-calibrate", "--max-seq-length", "32").stdout
    )["work"]
    assert shorter["epoch_tokens"] == 32 * shorter["epoch_examples"]


def test_without_examples_the_memory_is_told_all_the_same(
    tuneserve: Runner, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_8B))
    done = tuneserve("plan", "--base", str(tmp_path), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["left_out"].startswith("the examples are not here (data/sent")
    steps = tuneserve(
        "plan", "--base", str(tmp_path), "--json", "--max-steps", "10", "--max-seq-length", "512",
        "--no-calibrate", "--cpu", cwd=tmp_path,
    )  # fmt: skip
    work = json.loads(steps.stdout)["work"]
    assert (work["lengths"], work["steps"], work["tokens"]) == ("longest", 10, 10 * 8 * 512)
    named = tuneserve("plan", "--base", str(tmp_path), "--file", "mine.jsonl", cwd=tmp_path)
    assert named.returncode == 2
    assert "error: mine.jsonl: no such file" in named.stderr
    (tmp_path / "bad.jsonl").write_text('{"nothing": 1}\n')
    bad = tuneserve("plan", "--base", str(tmp_path), "--file", "bad.jsonl", cwd=tmp_path)
    assert bad.returncode == 0
    assert "time: left out, the examples can't be trained on as they are" in bad.stderr


def test_a_plan_needs_nothing_that_trains(tmp_path: Path, data: Path, demo_gguf: Path) -> None:
    """Neither torch nor a tokenizer library: a GGUF is planned by its header then."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_8B))
    blocked = (
        "import importlib.metadata as metadata, sys\n"
        "names = ('torch', 'transformers', 'tokenizers', 'datasets', 'peft', 'unsloth')\n"
        "sys.modules.update(dict.fromkeys(names))\n"
        "installed = metadata.version\n"
        "def version(name):\n"
        "    if name in names:\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return installed(name)\n"
        "metadata.version = version\n"
        "from tuneserve.cli import main\n"
        "main(['plan', '--cpu', '--json', *sys.argv[1:]])\n"
    )
    for base, parameters in ((tmp_path, 8_030_261_248), (demo_gguf, 134_515_008)):
        done = subprocess.run(
            [sys.executable, "-c", blocked, "--base", str(base), "--file", str(data)],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["parameters"] == parameters
        assert found["work"]["lengths"] == "estimated"
        assert "pip install 'tuneserve[train]'" in found["work"]["left_out"]


@pytest.mark.slow
def test_the_time_of_a_training_is_told(tuneserve: Runner, data: Path, tmp_path: Path) -> None:
    command = ("plan", "--base", "demo", "--file", str(data), "--cpu", "--max-steps", "5")
    done = tuneserve(*command, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    work = json.loads(done.stdout)["work"]
    assert work["lengths"] == "counted"
    low, high = work["time"]["seconds"]
    assert 0 < low < high < 3 * low + 60
    # The evaluations come to it, which of so few steps take as long.
    assert low / 2 < work["tokens"] / work["time"]["tokens_per_second"] < high
    assert "a calibration of this machine" in work["time"]["known_from"]
    assert "tokens/s, by a calibration of this machine" in done.stderr


EVIL_CODE = "__import__('os')"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"hidden_act": EVIL_CODE},
            f"computes with silu where this model has {EVIL_CODE}",
        ),
        ({"quantization_config": {"quant_method": "evil"}}, "weights quantized by 'evil'"),
        ({"rope_scaling": {"type": "odd", "factor": "9"}}, "RoPE scaling 'odd' is not supported"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "9"}}, "factor is '9', no positive"),
        ({"dtype": "load"}, "dtype is 'load', which is no type of weights"),
        ({"architectures": ["os.system"]}, "architecture 'os.system' is not supported"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, and the weights are those of 32"),
    ],
    ids=lambda given: str(given)[:30],
)
def test_a_base_that_training_refuses_is_refused(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """With its weights or, but for what only these tell, by its config.json alone."""
    whole = write_checkpoint(tmp_path, CONFIG_8B)
    (whole / "config.json").write_text(json.dumps({**CONFIG_8B, **changed}))
    needs_weights = changed.keys() & {"architectures", "num_hidden_layers"}
    for base in (whole, whole / "config.json"):
        recipe = Recipe.model_validate({"model": {"base": str(base)}})
        if base != whole and needs_weights:
            require_planned(read_base_config(str(base)), recipe.convert, spec=str(base))
            continue
        with pytest.raises(UsageError) as caught:
            require_planned(read_base_config(str(base)), recipe.convert, spec=str(base))
        assert message in caught.value.render()


def test_a_plan_refuses_in_one_error_and_is_told_to_do_without(
    tuneserve: Runner, tmp_path: Path
) -> None:
    base = write_checkpoint(tmp_path, {**CONFIG_8B, "hidden_act": "relu"})
    options = ("--base", str(base), "--no-calibrate", "--json")
    refused = tuneserve("plan", *options)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: {base}: what is trained here can't be converted")
    assert "llama.cpp computes with silu where this model has relu" in refused.stderr
    assert tuneserve("plan", *options, "--no-preflight").returncode == 0


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
