"""Dense architectures: tensors and metadata as llama.cpp's converter makes them, and its logits.

Tiny random checkpoints. What takes llama.cpp's converter is measured by
benchmarks/convert_architectures.py; here a file of each is computed with by llama.cpp and compared
with transformers, which needs every tensor and every key to be right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.convert.convert_support import copy_tokenizer
from tests.convert.gguf.more_cases import MORE, MORE_TEXT_TYPES, MORE_VISION, as_published
from tuneserve.base.tokenizer import write_tokenizer
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.verify.logits import file_logits
from tuneserve.divergence import divergence
from tuneserve.gguf.reader import GGUFFile

SMALL: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.15,
    "tie_word_embeddings": False,
}  # fmt: skip
_MIXED = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
_LINEAR = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
_YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "original_max_position_embeddings": 128, "mscale": 1.0, "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}  # fmt: skip
_QWEN35: dict[str, Any] = {
    "head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4,
    "layer_types": _LINEAR, "full_attention_interval": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1],
                        "partial_rotary_factor": 0.25},
}  # fmt: skip
_GEMMA3 = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}  # fmt: skip
_GEMMA4 = {"head_dim": 16, "global_head_dim": 32, "sliding_window": 16, "layer_types": _MIXED,
           "hidden_size_per_layer_input": 16,
           "attention_k_eq_v": False, "enable_moe_block": False,
           "tie_word_embeddings": True}  # fmt: skip
_VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
           "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
# name: (model class, config; of a model with eyes that of its text model, and the whole one's)
DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3.5": ("Qwen3_5ForCausalLM", _QWEN35),
    "gemma-2": ("Gemma2ForCausalLM", {"head_dim": 32, "query_pre_attn_scalar": 32,
                                      "sliding_window": 16, "tie_word_embeddings": True}),
    "gemma": ("GemmaForCausalLM", {"head_dim": 32, "tie_word_embeddings": True}),
    "smollm3": ("SmolLM3ForCausalLM", {}),
    "granite": ("GraniteForCausalLM", {"attention_multiplier": 0.2, "embedding_multiplier": 3.0,
                                       "residual_multiplier": 0.7, "logits_scaling": 2.0}),
    "ministral3": ("Ministral3ForCausalLM", {"head_dim": 32, "rope_parameters": _YARN}),
    "olmo2": ("Olmo2ForCausalLM", {}),
    "olmo3": ("Olmo3ForCausalLM", {"sliding_window": 16, "layer_types": _MIXED}),
    "exaone4": ("Exaone4ForCausalLM", {"head_dim": 16, "sliding_window": None,
                "layer_types": ["full_attention"] * 4, "sliding_window_pattern": 4}),
    "glm4": ("Glm4ForCausalLM", {"head_dim": 32, "partial_rotary_factor": 0.5}),
    "cohere": ("CohereForCausalLM", {"tie_word_embeddings": True, "logit_scale": 0.25}),
    "cohere2": ("Cohere2ForCausalLM", {"tie_word_embeddings": True, "logit_scale": 0.25,
                "head_dim": 16, "sliding_window": 16, "layer_types": _MIXED, "rotary_pct": 1.0}),
    "starcoder2": ("Starcoder2ForCausalLM", {"sliding_window": None}),
    "lfm2": ("Lfm2ForCausalLM", {"layer_types": ["conv", "full_attention", "conv", "conv"],
             "block_auto_adjust_ff_dim": True, "block_multiple_of": 32, "conv_L_cache": 3,
             "block_ff_dim": 96}),
    "phi-4-mini": ("Phi3ForCausalLM", {"partial_rotary_factor": 0.5, "sliding_window": None,
                   "original_max_position_embeddings": 512}),
    "gemma-4": ("Gemma4ForCausalLM", {**_GEMMA4, "num_kv_shared_layers": 0}),
    "gemma-3-shell": ("Gemma3ForConditionalGeneration", _GEMMA3),
    "mistral-3-shell": ("Mistral3ForConditionalGeneration", {"head_dim": 32}),
    "qwen3.5-shell": ("Qwen3_5ForConditionalGeneration", _QWEN35),
    **MORE,
}  # fmt: skip
VISION: dict[str, dict[str, Any]] = {
    "gemma-3-shell": {"mm_tokens_per_image": 1, "vision_config": _VISION},
    "mistral-3-shell": {"vision_config": {"model_type": "pixtral", **_VISION}},
    "qwen3.5-shell": {"vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 32,
                                        "num_heads": 2, "out_hidden_size": 64}},
    **MORE_VISION,
}  # fmt: skip
TEXT_TYPES = {"gemma-3-shell": "gemma3_text", "mistral-3-shell": "mistral",
              "qwen3.5-shell": "qwen3_5_text", **MORE_TEXT_TYPES}  # fmt: skip
SEQUENCES = [[5, 17, 300, 4, 99, 230, 1, 8, 1000, 77, 31, 2, 45, 9, 600, 12, 88, 7, 40, 3, 21, 5],
             [7, 8, 9]]  # fmt: skip


def make_dense(directory: Path, case: str, tokenizer: Path, vocabulary: int = 49152) -> Path:
    """A random checkpoint of a case; skips the test if this transformers has no such class."""
    import torch
    import transformers

    name, changes = DENSE[case]
    cls = getattr(transformers, name, None)
    if cls is None:
        pytest.skip(f"this transformers has no {name}")
    settings = {**SMALL, "vocab_size": vocabulary, **changes}
    if case == "gemma-4":
        settings["vocab_size_per_layer_input"] = vocabulary
    torch.manual_seed(3)
    if case in VISION:
        text = {**settings, "model_type": TEXT_TYPES[case]}
        config = cls.config_class(text_config=text, tie_word_embeddings=False, **VISION[case])
    else:
        config = cls.config_class(**settings)
    model = cls(config).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # norms and biases too
    model.save_pretrained(directory)
    as_published(directory, case)
    copy_tokenizer(tokenizer, directory)
    return directory


def spaces_tokenizer(llama_cpp_source: Path, directory: Path) -> tuple[Path, int]:
    """A tokenizer whose spaces are '▁', as Gemma 4's, and how many tokens it has."""
    gguf = GGUFFile(llama_cpp_source / "models" / "ggml-vocab-llama-spm.gguf")
    gguf.metadata["tokenizer.ggml.add_space_prefix"] = False
    directory.mkdir()
    write_tokenizer(gguf, directory)
    return directory, len(gguf.metadata["tokenizer.ggml.tokens"])


def write(model: GGUFModel, path: Path, kind: str = "F16") -> Path:
    write_gguf(path, model.metadata(kind), model.sources, model.choices(kind), threads=2)
    return path


def trainer_logits(base: Path, adapter: Path | None = None) -> list[Any]:
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(base)
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = auto.from_pretrained(base, dtype=torch.float32).eval()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids])).logits[0].numpy() for ids in SEQUENCES]


@pytest.mark.slow
@pytest.mark.parametrize("case", DENSE)
def test_llama_cpp_computes_what_transformers_computes(
    case: str, tokenizer_directory: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tokenizer, vocabulary = tokenizer_directory, SMALL["vocab_size"]
    if case in ("gemma-4", "ernie-4.5"):
        source = request.getfixturevalue("llama_cpp_source")
        tokenizer, vocabulary = spaces_tokenizer(source, tmp_path / "tokenizer")
    base = make_dense(tmp_path / "base", case, tokenizer, vocabulary)
    model = GGUFModel(MergedCheckpoint(base), base, name=case)
    ours = file_logits(write(model, tmp_path / "ours.gguf"), SEQUENCES, threads=2)
    found = divergence(trainer_logits(base), ours)
    assert found.mean < 1e-5, found
