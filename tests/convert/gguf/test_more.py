"""The architectures of more_cases.py: bytes as llama.cpp's converter has them, adapters on them,
and what is refused. Their logits are compared in test_dense.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.convert.convert_support import write_sentencepiece_model
from tests.convert.gguf.more_cases import MORE
from tests.convert.gguf.test_dense import (
    SEQUENCES,
    SMALL,
    VISION,
    make_dense,
    spaces_tokenizer,
    trainer_logits,
    write,
)
from tests.convert.gguf.test_exact import DIFFERENT, DRIVER, check_same_file
from tuneserve.convert.gguf.lora import write_lora
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.merge.adapter import Adapter
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.verify.logits import file_logits
from tuneserve.convert.verify.reference import transformers_config
from tuneserve.convert.verify.streamed_model import StreamedModel, Variant
from tuneserve.convert.verify.weights import TrainerWeights
from tuneserve.divergence import divergence
from tuneserve.errors import UsageError
from tuneserve.files import read_json, write_json
from tuneserve.gguf.architectures import by_hf_name
from tuneserve.gguf.reader import GGUFFile
from tuneserve.model_shape import ModelShape

# Ours says that it has positions, and its own context.
_WITH_ROPE = "granite-4-h-rope"
_SENTENCEPIECE = ("ernie-4.5",)
_PARTS = ["experts.gate_up_proj", "experts.down_proj"]
# What gets an adapter: names of linear layers, and parameters of stacked experts.
ADAPTED: dict[str, tuple[list[str], list[str]]] = {
    "granite-4": (["q_proj", "input_linear", "output_linear"], []),
    "granite-4-h-moe": (["in_proj", "out_proj", "k_proj", "input_linear"], _PARTS),
    "qwen3-vl": (["q_proj", "v_proj", "down_proj"], []),
    "qwen3.5-moe-shell": (["in_proj_qkv", "in_proj_z", "out_proj", "up_proj"], _PARTS),
    "lfm2-moe": (["in_proj", "q_proj", "w2"], _PARTS),
}


def make_adapter(base: Path, directory: Path, case: str) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    auto = AutoModelForImageTextToText if case in VISION else AutoModelForCausalLM
    modules, parameters = ADAPTED[case]
    lora = LoraConfig(
        r=4, lora_alpha=8, target_modules=modules, target_parameters=parameters or None,
        exclude_modules=".*visual.*",
    )  # fmt: skip
    torch.manual_seed(2)
    peft = get_peft_model(auto.from_pretrained(base, dtype=torch.float32), lora)
    for name, weight in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    peft.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("case", ADAPTED)
def test_an_adapter(case: str, tokenizer_directory: Path, tmp_path: Path) -> None:
    """Merged, streamed and as a LoRA GGUF it computes what PEFT computes."""
    base = make_dense(tmp_path / "base", case, tokenizer_directory)
    adapter = make_adapter(base, tmp_path / "adapter", case)
    checkpoint = MergedCheckpoint(base, Adapter(adapter))
    tuned = GGUFModel(checkpoint, base, name="x")
    expected = trainer_logits(base, adapter)

    trainer = TrainerWeights(base, tied=checkpoint.tied)
    variants = [Variant(trainer, adapted=True), Variant(checkpoint)]
    streamed = StreamedModel(transformers_config(tuned), variants, adapter=adapter, threads=2)
    for found in streamed.logits(SEQUENCES):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-3)

    assert divergence(expected, trainer_logits(base)).mean > 1e-3
    # After rounding to F16 a router may choose another expert for some token.
    limit = 1e-4 if ADAPTED[case][1] else 1e-5
    merged = file_logits(write(tuned, tmp_path / "x.gguf"), SEQUENCES, threads=2)
    assert divergence(expected, merged).mean < limit
    plain = GGUFModel(MergedCheckpoint(base), base, name="x")
    file = write(plain, tmp_path / "base.gguf")
    write_lora(tmp_path / "lora.gguf", tuned, "x")
    with_lora = file_logits(file, SEQUENCES, threads=2, lora=tmp_path / "lora.gguf")
    assert divergence(expected, with_lora).mean < limit


@pytest.mark.slow
def test_equals_llama_cpps_converter(
    tokenizer_directory: Path, llama_cpp_source: Path, tmp_path: Path
) -> None:
    """Every tensor's bytes and every key, as F16."""
    pieces, rows = spaces_tokenizer(llama_cpp_source, tmp_path / "pieces")
    vocabulary = GGUFFile(llama_cpp_source / "models" / "ggml-vocab-llama-spm.gguf")
    bases = {}
    for case in MORE:
        of_pieces = case in _SENTENCEPIECE
        given = (pieces, rows) if of_pieces else (tokenizer_directory, SMALL["vocab_size"])
        bases[case] = make_dense(tmp_path / case, case, *given)
        if of_pieces:
            write_sentencepiece_model(vocabulary, bases[case] / "tokenizer.model")
    # Layers that draft further tokens are left out of Qwen3.5.
    driver = DRIVER.replace("kind]", 'kind] + ["--no-nextn"] * ("qwen3.5" in source)')
    made = {case: tmp_path / f"{case}.gguf" for case in MORE}
    done = subprocess.run(
        [sys.executable, "-c", driver, str(llama_cpp_source),
         *(f"{bases[case]}={path}=f16" for case, path in made.items())],
        capture_output=True, text=True, timeout=1000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for case, path in made.items():
        model = GGUFModel(MergedCheckpoint(bases[case]), bases[case], name=case)
        ours, theirs = GGUFFile(write(model, tmp_path / "x")), GGUFFile(path)
        known = set(DIFFERENT)
        if case == _WITH_ROPE:
            known |= {"granitehybrid.context_length", "granitehybrid.rope.scaling.finetuned"}
        check_same_file(ours, theirs, case, known)


def test_granites_one_name_stands_for_four_architectures() -> None:
    def name(kinds: list[str], experts: int) -> str:
        config = {"layer_types": kinds, "num_local_experts": experts}
        return by_hf_name("GraniteMoeHybridForCausalLM", config).gguf_name

    assert name(["attention"], 0) == name(["full_attention"], 0) == "granite"
    assert name(["attention"], 4) == "granitemoe"
    assert name(["mamba", "attention"], 0) == name(["linear_attention"], 4) == "granitehybrid"


def test_transformers_own_names_of_layers_give_the_same_file(
    tokenizer_directory: Path, tmp_path: Path
) -> None:
    base = make_dense(tmp_path / "base", "granite-4-h", tokenizer_directory)
    published = GGUFModel(MergedCheckpoint(base), base, name="x")
    config = read_json(base / "config.json")
    kinds = {"mamba": "linear_attention", "attention": "full_attention"}
    config["layer_types"] = [kinds[kind] for kind in config["layer_types"]]
    write_json(base / "config.json", config)
    saved = GGUFModel(MergedCheckpoint(base), base, name="x")
    assert saved.metadata("F16") == published.metadata("F16")
    assert set(saved.sources) == set(published.sources)


@pytest.mark.parametrize(
    ("case", "changes", "where"),
    [
        ("granite-4-h", {"mamba_n_groups": 2}, "mamba_n_groups"),
        ("lfm2-moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm"),
        ("qwen3.5-moe", {"rope_parameters": {"mrope_section": [1, 1, 1]}}, "mrope_section"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    case: str, changes: dict[str, Any], where: str, tokenizer_directory: Path, tmp_path: Path
) -> None:
    base = make_dense(tmp_path / "base", case, tokenizer_directory)
    model = GGUFModel(MergedCheckpoint(base), base, name="x")
    with pytest.raises(UsageError) as caught:
        model.architecture.to_metadata(model.config.changed(**changes))
    assert caught.value.where == f"config.json: {where}"


def test_a_published_qwen_vl_has_its_text_models_settings_beside_its_eyes(
    tokenizer_directory: Path, tmp_path: Path
) -> None:
    base = make_dense(tmp_path / "base", "qwen2.5-vl", tokenizer_directory)
    nested = GGUFModel(MergedCheckpoint(base), base, name="x")
    config = read_json(base / "config.json")
    text = config.pop("text_config")
    rope = {"type": "mrope", "mrope_section": text["rope_parameters"]["mrope_section"]}
    del text["rope_parameters"], text["model_type"]
    flat = {**text, **config, "rope_theta": 10000.0, "rope_scaling": rope}
    write_json(base / "config.json", flat)
    beside = GGUFModel(MergedCheckpoint(base), base, name="x")
    assert beside.metadata("F16") == nested.metadata("F16")
    assert set(beside.sources) == set(nested.sources)
    assert beside.checkpoint.left_out == {"visual": len(beside.checkpoint.outside)}
    assert transformers_config(beside).model_type == "qwen2"


def test_a_mixture_without_dense_layers_has_a_shape(
    tokenizer_directory: Path, tmp_path: Path
) -> None:
    base = make_dense(tmp_path / "base", "qwen3.5-moe", tokenizer_directory)
    shape = ModelShape.read(base)
    assert shape.experts is not None
    assert (shape.experts.count, shape.experts.intermediate, shape.experts.shared) == (4, 32, 48)
    assert shape.experts.dense_layers == 0
