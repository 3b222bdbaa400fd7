"""Dense look-alikes of Llama with a twist each: norms behind a layer, scales, several kinds of
layers. SmolLM3, Ministral 3, OLMo 2 and 3, GLM-4, EXAONE 4, Cohere, StarCoder2, Ernie 4.5,
StableLM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import common, llama
from tuneserve.gguf.architectures.table import BIASES, Architecture, Config, Entries, no_import
from tuneserve.gguf.reader import ArchitectureMetadata

QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
# The norm comes behind what it belongs to.
_NORMS_BEHIND = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
LAYERS_OF_EXAONE_32B = 64
_MATRICES = {k: v for k, v in common.LAYER_TENSORS.items() if "norm" not in k}


def window_base(config: Config) -> float | None:
    """RoPE base of the layers with a sliding window, where the configuration has one of theirs."""
    local = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    found = local.get("rope_theta")
    return None if found is None else float(found)


def windows(config: Config) -> Entries:
    """The sliding window, and which layers have it."""
    if not config.get("sliding_window"):
        return []
    sliding = [kind == "sliding_attention" for kind in config["layer_types"]]
    base = window_base(config)
    entries: Entries = [
        ("attention.sliding_window", "uint32", config["sliding_window"]),
        ("attention.sliding_window_pattern", "array", sliding),
    ]
    return entries if base is None else [("rope.freq_base_swa", "float32", base), *entries]


def smollm3_metadata(config: Config) -> Entries:
    """llama.cpp leaves RoPE out in every fourth layer."""
    count = int(config["num_hidden_layers"])
    rotated = config.get("no_rope_layers") or [(n + 1) % 4 != 0 for n in range(count)]
    if [bool(flag) for flag in rotated] != [(n + 1) % 4 != 0 for n in range(count)]:
        raise UsageError(
            "llama.cpp computes every fourth layer without RoPE, this model others",
            where="config.json: no_rope_layers",
        )
    return llama_metadata(config)


def llama_metadata(config: Config) -> Entries:
    """Llama's, of a config.json that may know no head size of its own."""
    sizes = () if config.get("head_dim") else ("attention.key_length", "attention.value_length")
    return [entry for entry in llama.to_metadata(config) if entry[0] not in sizes]


def ministral_metadata(config: Config) -> Entries:
    if config["model_type"] != "ministral3":  # a Mistral in the same shell
        return llama.to_metadata(config)
    scaling = common.rope_scaling(config)
    if scaling.get("rope_type") != "yarn":
        raise UsageError("llama.cpp knows Ministral 3 with yarn alone", where="config.json")
    return [
        *llama.to_metadata(config),
        ("rope.scaling.yarn_log_multiplier", "float32", scaling["mscale_all_dim"]),
        ("attention.temperature_scale", "float32", scaling["llama_4_scaling_beta"]),
    ]


def olmo_metadata(config: Config) -> Entries:
    theta = common.rope_theta(config)
    local = window_base(config)
    if local not in (None, theta):
        raise UsageError(
            "llama.cpp computes all of OLMo 3's layers with one RoPE base, this model with "
            f"{theta:g} and {local:g}",
            where="config.json: rope_parameters",
        )
    return [*common.usual_metadata(config), *common.given_head_size(config), *windows(config)]


def olmo_config(metadata: ArchitectureMetadata) -> dict[str, Any]:
    """OLMo 3 has windows, OLMo 2 has none."""
    config = common.shape_config(metadata)
    if not metadata.get("attention.sliding_window", 0):
        return config
    theta = config["rope_theta"]
    if common.shortest(metadata.get("rope.freq_base_swa", theta)) != theta:
        raise UsageError("an OLMo 3 of two RoPE bases can't be imported: llama.cpp knows one")
    # transformers takes a `rope_theta` for the layers without a window alone.
    base = {"rope_type": "default", "rope_theta": theta}
    return {
        **config,
        "architectures": ["Olmo3ForCausalLM"],
        "model_type": "olmo3",
        "rope_parameters": {"full_attention": base, "sliding_attention": {**base}},
        **common.window_config(metadata, config["num_hidden_layers"], 4),
    }


def exaone_metadata(config: Config) -> Entries:
    if config.get("sliding_window") and config["num_hidden_layers"] != LAYERS_OF_EXAONE_32B:
        raise UsageError(
            "llama.cpp computes EXAONE 4 with windows in its 32B alone, of 64 layers",
            where="config.json: sliding_window",
        )
    if common.head_size(config) * int(config["num_attention_heads"]) != config["hidden_size"]:
        raise UsageError(
            "llama.cpp computes EXAONE 4 with heads that share the hidden size out",
            where="config.json: head_dim",
        )
    return [
        *common.usual_metadata(config, computed=("llama3",)),
        *common.given_head_size(config),
        ("vocab_size", "uint32", config["vocab_size"]),
        *windows(config),
    ]


def glm_metadata(config: Config) -> Entries:
    share = common.partial_rotary(config, 0.5)
    return [
        *common.usual_metadata(config),
        *common.given_head_size(config),
        ("rope.dimension_count", "uint32", int(common.head_size(config) * share)),
    ]


def _layer_norm_metadata(config: Config, epsilon: str) -> Entries:
    """The usual, of a model whose norms subtract the mean."""
    usual = common.usual_metadata({**config, "rms_norm_eps": config[epsilon]})
    renamed = {"attention.layer_norm_rms_epsilon": "attention.layer_norm_epsilon"}
    return [(renamed.get(key, key), kind, value) for key, kind, value in usual]


def cohere_config(metadata: ArchitectureMetadata) -> dict[str, Any]:
    config = common.shape_config(metadata, "attention.layer_norm_epsilon")
    scale = common.shortest(metadata["logit_scale"])
    epsilon = config.pop("rms_norm_eps")
    return {**config, "layer_norm_eps": epsilon, "logit_scale": scale, "attention_bias": False}


def command_r_config(metadata: ArchitectureMetadata) -> dict[str, Any]:
    return {**cohere_config(metadata), "use_qk_norm": False}


def cohere2_config(metadata: ArchitectureMetadata) -> dict[str, Any]:
    config = cohere_config(metadata)
    return {**config, **common.window_config(metadata, config["num_hidden_layers"], 4)}


def cohere_metadata(config: Config) -> Entries:
    context = config.get("model_max_length") or config["max_position_embeddings"]
    return [
        *_layer_norm_metadata({**config, "max_position_embeddings": context}, "layer_norm_eps"),
        *common.given_head_size(config),
        ("logit_scale", "float32", config["logit_scale"]),
        ("rope.scaling.type", "string", "none"),
    ]


def cohere2_metadata(config: Config) -> Entries:
    size = int(config["hidden_size"]) // int(config["num_attention_heads"])
    return [
        *_layer_norm_metadata(config, "layer_norm_eps"),
        *common.given_head_size(config),
        ("logit_scale", "float32", config["logit_scale"]),
        ("attention.sliding_window", "uint32", config["sliding_window"]),
        *common.window_pattern(config, 4),
        ("vocab_size", "uint32", config["vocab_size"]),
        ("rope.dimension_count", "uint32", int(config.get("rotary_pct", 1.0) * size)),
        ("rope.scaling.type", "string", "none"),
    ]


def starcoder2_metadata(config: Config) -> Entries:
    return [*_layer_norm_metadata(config, "norm_epsilon"), *common.given_head_size(config)]


def stablelm_metadata(config: Config) -> Entries:
    if config.get("qk_layernorm"):
        raise UsageError(
            "a norm of its own for each head is not supported", where="config.json: qk_layernorm"
        )
    usual = _layer_norm_metadata(config, "layer_norm_eps")
    if common.rope_theta(config) == common.USUAL_THETA:
        usual = [entry for entry in usual if entry[0] != "rope.freq_base"]
    turned = int(common.partial_rotary(config, 0.25) * common.head_size(config))
    return [
        *usual,
        ("rope.dimension_count", "uint32", turned),
        ("use_parallel_residual", "bool", bool(config["use_parallel_residual"])),
    ]


SMOLLM3 = replace(
    llama.LLAMA,
    gguf_name="smollm3",
    hf_names=("SmolLM3ForCausalLM",),
    to_metadata=smollm3_metadata,
    biases=BIASES,
)
MINISTRAL3 = replace(
    llama.LLAMA,
    gguf_name="mistral3",
    hf_names=("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
    model_type="ministral3",
    to_config=no_import,
    to_metadata=ministral_metadata,
)
OLMO2 = Architecture(
    gguf_name="olmo2",
    hf_names=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    tensors=common.TENSORS,
    layer_tensors={**_MATRICES, **QK_NORMS, **_NORMS_BEHIND},
    to_config=olmo_config,
    to_metadata=olmo_metadata,
)
EXAONE4 = Architecture(
    gguf_name="exaone4",
    hf_names=("Exaone4ForCausalLM",),
    tensors=common.TENSORS,
    layer_tensors={**_MATRICES, **QK_NORMS, **_NORMS_BEHIND},
    to_metadata=exaone_metadata,
    extra_tensors=llama.extra_tensors,
)
GLM4 = Architecture(
    gguf_name="glm4",
    hf_names=("Glm4ForCausalLM",),
    tensors=common.TENSORS,
    layer_tensors={
        "attn_norm": "input_layernorm",
        **{name: _MATRICES[name] for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        "post_attention_norm": "post_self_attn_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
        "post_ffw_norm": "post_mlp_layernorm",
    },
    to_metadata=glm_metadata,
)
COMMAND_R = Architecture(
    gguf_name="command-r",
    hf_names=("CohereForCausalLM",),
    tensors=common.TENSORS,
    layer_tensors={"attn_norm": "input_layernorm", **_MATRICES, **QK_NORMS},
    absent=lambda config, _: () if config.get("use_qk_norm") else {f"{n}.weight" for n in QK_NORMS},
    model_type="cohere",
    to_config=command_r_config,
    to_metadata=cohere_metadata,
)
COHERE2 = Architecture(
    gguf_name="cohere2",
    hf_names=("Cohere2ForCausalLM",),
    tensors=common.TENSORS,
    layer_tensors={"attn_norm": "input_layernorm", **_MATRICES},
    to_config=cohere2_config,
    to_metadata=cohere2_metadata,
)
STARCODER2 = Architecture(
    gguf_name="starcoder2",
    activation="gelu_pytorch_tanh",
    hf_names=("Starcoder2ForCausalLM",),
    tensors=common.TENSORS,
    layer_tensors={
        "attn_norm": "input_layernorm",
        **{name: _MATRICES[name] for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
    to_metadata=starcoder2_metadata,
)
ERNIE45 = Architecture(
    gguf_name="ernie4_5",
    hf_names=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    tensors=common.TENSORS,
    layer_tensors=common.LAYER_TENSORS,
    to_metadata=olmo_metadata,
)
STABLELM = Architecture(
    gguf_name="stablelm",
    hf_names=("StableLmForCausalLM",),
    tensors=common.TENSORS,
    layer_tensors=common.LAYER_TENSORS,
    absent=lambda config, _: {"ffn_norm.weight"} if config["use_parallel_residual"] else (),
    to_metadata=stablelm_metadata,
)
ARCHITECTURES = (
    ERNIE45, STABLELM, SMOLLM3, MINISTRAL3, OLMO2, EXAONE4, GLM4, COMMAND_R, COHERE2, STARCODER2,
)  # fmt: skip
