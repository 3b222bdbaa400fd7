"""What a config.json alone says of a model, as `tuneserve plan` takes it."""

from __future__ import annotations

import json
from typing import Any

from fuzz.target import Target, must
from fuzz.targets.scratch import written
from tuneserve.base import read_base_config
from tuneserve.cli.planning import plan
from tuneserve.convert.preflight.configuration import require_planned
from tuneserve.finetune.memory.budget import with_precision_of_base
from tuneserve.finetune.runtime.targets import planned_targets
from tuneserve.model_shape import ModelShape
from tuneserve.settings import Recipe


def _check_plan(data: bytes) -> None:
    path = str(written("plan/config.json", data))
    base = read_base_config(path)
    tables = {"model": {"base": path}, "train": {"target_modules": ["all-linear"]}}
    recipe = Recipe.model_validate(tables)
    require_planned(base, recipe.convert, spec=path)
    train, _ = planned_targets(base, recipe.train)
    recipe = with_precision_of_base(recipe.model_copy(update={"train": train}), base.config)
    found = plan(recipe, ModelShape.of(base.config, base.where), device="cpu")
    must(found.parameters > 0, "a model without parameters")


_SIZES: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 1000, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 512, "tie_word_embeddings": True, "eos_token_id": [1, 2],
    "hidden_act": "silu",
}  # fmt: skip
_LAYERS = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        **_SIZES, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    },
    "qwen2": {
        **_SIZES, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "head_dim": 16,
        "use_sliding_window": False, "sliding_window": 32, "max_window_layers": 2,
        "layer_types": ["full_attention"] * 4,
    },
    "gemma3": {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": {
            **_SIZES, "model_type": "gemma3_text", "head_dim": 32, "sliding_window": 32,
            "layer_types": _LAYERS, "query_pre_attn_scalar": 32, "hidden_act": "gelu_pytorch_tanh",
            "rope_local_base_freq": 10000.0,
        },
        "vision_config": {"hidden_size": 32, "deepstack_visual_indexes": [1, 2]},
    },
    "mixture": {
        **_SIZES, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16,
        "mlp_only_layers": [], "decoder_sparse_step": 1, "norm_topk_prob": True,
    },
    "phi3": {
        **_SIZES, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
        "original_max_position_embeddings": 128, "sliding_window": 512, "pad_token_id": 0,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    },
    "hybrid": {
        **_SIZES, "architectures": ["Lfm2ForCausalLM"], "model_type": "lfm2",
        "layer_types": ["conv", "conv", "full_attention", "conv"], "conv_L_cache": 3,
        "norm_eps": 1e-5, "block_dim": 64,
    },
    "4 bits": {
        **_SIZES, "architectures": ["MistralForCausalLM"], "model_type": "mistral",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    },
}  # fmt: skip


def _plan_seeds() -> dict[str, bytes]:
    return {name: json.dumps(config).encode() for name, config in _CONFIGS.items()}


TARGETS = (
    Target(
        "plan",
        _check_plan,
        _plan_seeds,
        (
            *(b"[]", b"{}", b"null", b"-1", b"0", b"1.5", b'"x"', b"[1, 2]", b"1e400", b"true"),
            *(b"16777216", b'"layer_types"', b'"text_config"', b'"rope_parameters"'),
            *(b'"num_experts"', b'"first_k_dense_replace"', b'"head_dim"', b'"sliding_window"'),
        ),
    ),
)
