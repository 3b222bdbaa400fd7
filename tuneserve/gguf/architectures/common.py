"""What the decoder-only architectures share: the usual tensors and the usual metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from tuneserve.errors import UsageError
from tuneserve.gguf.architectures.table import Config, Entries
from tuneserve.gguf.architectures.values import ONE_MORE, Values
from tuneserve.gguf.reader import ArchitectureMetadata

TENSORS: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_TENSORS: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def norms_plus_one(*tables: Mapping[str, str]) -> dict[str, Values]:
    """Of every norm of these tables, where a norm multiplies by (1 + weight)."""
    names = (name for table in tables for name in table if name.endswith("_norm"))
    return dict.fromkeys(names, ONE_MORE)


def by_kind(kinds: Mapping[str, Iterable[str]]) -> Callable[[Config, int], frozenset[str]]:
    """`absent` of an architecture with layers of several kinds: what belongs to the kinds that a
    layer is not of. `kinds`: GGUF names by the kind's name in config.json's `layer_types`."""
    suffixed = {kind: {with_suffix(name) for name in names} for kind, names in kinds.items()}

    def absent(config: Config, layer: int) -> frozenset[str]:
        own = suffixed.get(config["layer_types"][layer], set())
        return frozenset().union(*suffixed.values()) - own

    return absent


def window_pattern(config: Config, period: int) -> Entries:
    """Which layers have the sliding window, where it is not all but every `period`-th, as llama.cpp
    takes it to be."""
    sliding = [kind == "sliding_attention" for kind in config.get("layer_types") or []]
    if sliding == [(layer + 1) % period != 0 for layer in range(len(sliding))]:
        return []
    return [("attention.sliding_window_pattern", "array", sliding)]


USUAL_THETA = 10000.0


def window_config(metadata: ArchitectureMetadata, layers: int, period: int) -> dict[str, Any]:
    """The window and the layers that have it: those of the file's pattern, which may be a period,
    or all but every `period`-th."""
    pattern = metadata.get("attention.sliding_window_pattern", period)
    if not isinstance(pattern, list):
        pattern = [(layer + 1) % pattern != 0 for layer in range(layers)]
    return {
        "layer_types": ["sliding_attention" if one else "full_attention" for one in pattern],
        "sliding_window": int(metadata["attention.sliding_window"]),
    }


def with_suffix(name: str) -> str:
    """A tensor's full name: '.weight' where it has no suffix."""
    return name if name.endswith((".weight", ".bias")) else f"{name}.weight"


def head_size(config: Config) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def key_value_heads(config: Config) -> int:
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def rope_theta(config: Config) -> float:
    """RoPE base: `rope_parameters` (transformers 5) or the older top-level key."""
    parameters = config.get("rope_parameters") or {}
    parameters = parameters.get("full_attention") or parameters
    return float(parameters.get("rope_theta") or config.get("rope_theta") or USUAL_THETA)


def rope_scaling(config: Config) -> dict[str, Any]:
    """RoPE scaling of either generation of config.json; {} for none."""
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    scaling = dict(scaling.get("full_attention") or scaling)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    # 'mrope' says that there are three positions, which are the same for text.
    return {} if kind in ("default", "mrope") else {**scaling, "rope_type": kind}


def position_sections(
    config: Config, default: tuple[int, ...], turned: int | None = None
) -> Entries:
    """RoPE with several positions: how many pairs of numbers turn with time, height and width.
    `turned`: how many numbers of a head do; None: all.

    Raises UsageError if some pairs turn with none of them: llama.cpp lets these stand still.
    """
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    given = parameters.get("mrope_section", default)
    pairs = (turned or head_size(config)) // 2
    if sum(given) != pairs:
        raise UsageError(
            f"{given} are {sum(given)} pairs of numbers, a head has {pairs}",
            where="config.json: mrope_section",
        )
    return [("rope.dimension_sections", "array", [*given, 0, 0, 0, 0][:4])]


def usual_metadata(config: Config, *, computed: tuple[str, ...] = ()) -> Entries:
    """Sizes (blocks, context, embedding, feed-forward, heads), RoPE and norms; the kinds of RoPE
    scaling in `computed` are written as tensors instead."""
    return [
        ("block_count", "uint32", config["num_hidden_layers"]),
        ("context_length", "uint32", config["max_position_embeddings"]),
        ("embedding_length", "uint32", config["hidden_size"]),
        ("feed_forward_length", "uint32", config["intermediate_size"]),
        ("attention.head_count", "uint32", config["num_attention_heads"]),
        ("attention.head_count_kv", "uint32", key_value_heads(config)),
        *_scaling_metadata(config, computed),
        ("rope.freq_base", "float32", rope_theta(config)),
        ("attention.layer_norm_rms_epsilon", "float32", config["rms_norm_eps"]),
    ]


def head_size_metadata(config: Config) -> Entries:
    return [
        ("attention.key_length", "uint32", head_size(config)),
        ("attention.value_length", "uint32", head_size(config)),
    ]


def given_head_size(config: Config) -> Entries:
    """The size of a head, of a model whose heads share the hidden size out where it says none."""
    return head_size_metadata(config) if config.get("head_dim") else []


def partial_rotary(config: Config, default: float = 1.0) -> float:
    """The share of a head that RoPE turns."""
    parameters = config.get("rope_parameters") or {}
    share = parameters.get("partial_rotary_factor") or config.get("partial_rotary_factor")
    return float(share or default)


def _scaling_metadata(config: Config, computed: tuple[str, ...]) -> Entries:
    """Raises UsageError for a kind that llama.cpp does not know for dense models."""
    scaling = rope_scaling(config)
    kind = scaling.get("rope_type")
    if kind is None or kind in computed:
        return []
    if kind == "linear":
        return [
            ("rope.scaling.type", "string", "linear"),
            ("rope.scaling.factor", "float32", scaling["factor"]),
        ]
    if kind == "yarn":
        context = scaling.get("original_max_position_embeddings")
        entries: Entries = [
            ("rope.scaling.type", "string", "yarn"),
            ("rope.scaling.factor", "float32", scaling["factor"]),
            ("rope.scaling.original_context_length", "uint32",
             context or config["max_position_embeddings"]),
        ]  # fmt: skip
        optional = {
            "rope.scaling.yarn_ext_factor": scaling.get("extrapolation_factor"),
            "rope.scaling.yarn_attn_factor": scaling.get(
                "attention_factor", scaling.get("attn_factor")
            ),
            "rope.scaling.yarn_beta_fast": scaling.get("beta_fast"),
            "rope.scaling.yarn_beta_slow": scaling.get("beta_slow"),
        }
        return entries + [
            (key, "float32", value) for key, value in optional.items() if value is not None
        ]
    raise UsageError(
        f"RoPE scaling '{kind}' is not supported for this architecture",
        hint=f"Supported: {', '.join(('none', 'linear', 'yarn', *computed))}.",
    )


def shape_config(
    metadata: ArchitectureMetadata, epsilon: str = "attention.layer_norm_rms_epsilon"
) -> dict[str, Any]:
    """The part of config.json that every architecture has, from GGUF metadata."""
    heads = int(metadata["attention.head_count"])
    hidden = int(metadata["embedding_length"])
    size = metadata.get("attention.key_length", None) or metadata.get("rope.dimension_count", None)
    return {
        "hidden_size": hidden,
        "intermediate_size": int(metadata["feed_forward_length"]),
        "num_hidden_layers": int(metadata["block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(metadata.get("attention.head_count_kv", heads)),
        "head_dim": int(size or hidden // heads),
        "max_position_embeddings": int(metadata["context_length"]),
        "rms_norm_eps": shortest(metadata[epsilon]),
        "rope_theta": shortest(metadata.get("rope.freq_base", 10000.0)),
        "hidden_act": "silu",
    }


def shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 rather than 9.999999747378752e-06."""
    return float(str(np.float32(value)))
