"""The GGUF's size, known from config.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.convert.gguf.test_exact import GEMMA, LLAMA3_ROPE, make_checkpoint
from tests.support import ModulePaths
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.writer import encoded_size
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.resources import gguf_tensor_bytes
from tuneserve.model_shape import ModelShape
from tuneserve.settings import ConvertSettings

# Sizes at which the mixtures' rules for the first and the last layers act.
SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 9,
         "num_attention_heads": 8}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"rope_scaling": LLAMA3_ROPE},
    "MistralForCausalLM": {"head_dim": 64, "tie_word_embeddings": True},
    "Qwen2ForCausalLM": {"tie_word_embeddings": True},
    "Qwen3ForCausalLM": {"head_dim": 64},
    "Gemma3ForCausalLM": GEMMA,
    "Phi3ForCausalLM": {"sliding_window": None, "original_max_position_embeddings": 4096},
}


@pytest.fixture(scope="module", params=sorted(CASES))
def checkpoint(
    request: pytest.FixtureRequest,
    tokenizer_directory: Path,
    module_paths: ModulePaths,
) -> Path:
    changes = {**SIZES, **CASES[request.param]}
    folder = module_paths.mktemp(request.param)
    return make_checkpoint(folder, request.param, tokenizer_directory, changes)


@pytest.mark.parametrize("quantization", ["Q4_K_M", "Q5_K_S", "IQ4_XS", "Q8_0", "F16"])
def test_every_tensor_has_the_size_that_is_planned(checkpoint: Path, quantization: Any) -> None:
    model = GGUFModel(MergedCheckpoint(checkpoint), checkpoint, name="x")
    written = {
        choice.name: encoded_size(model.sources[choice.name].shape, choice.type)
        for choice in model.choices(quantization)
        if not choice.name.startswith("rope_")  # computed, and a few numbers only
    }
    settings = ConvertSettings(quantization=quantization)
    assert gguf_tensor_bytes(ModelShape.read(checkpoint), settings) == written
