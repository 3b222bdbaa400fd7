"""Does config.json ask for what llama.cpp's graph of its architecture computes, in values that can
be read?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.gguf.architectures.table import Architecture, Config

_COUNTS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
)  # fmt: skip
# Ways of storing weights in fewer bits that training and conversion both read.
_METHODS = ("bitsandbytes", "mxfp4")
# One function each, by transformers' names. ggml computes GELU by its tanh form; the exact one
# differs by less than 5e-4.
_SAME_ACTIVATIONS = (
    frozenset({"silu", "swish"}),
    frozenset({"gelu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast"}),
)
SCALING_KEYS: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "yarn": ("factor",),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
    "longrope": ("short_factor", "long_factor"),
    "su": ("short_factor", "long_factor"),
}  # fmt: skip
"""What each kind of RoPE scaling can't do without."""
_ROPE_LISTS = frozenset({"short_factor", "long_factor"})
# Of transformers' configurations: what max_window_layers is, and where windows start from it.
_MAX_WINDOW_LAYERS = 28
_WINDOWS_FROM_A_LAYER_ON = frozenset({"qwen2", "qwen3", "qwen2_vl_text", "qwen2_5_vl_text"})
# Every layer of these has the window that the configuration names; llama.cpp's graphs have none.
_WINDOWS_EVERYWHERE = frozenset({"mistral", "mixtral", "phi3", "starcoder2"})


def check_computed(architecture: Architecture, config: Config) -> None:
    """Raise UsageError, by key, for a value that can't be read, or that llama.cpp does not compute
    with."""
    _check_counts(config)
    _check_storage(config)
    for key in ("rope_parameters", "rope_scaling"):
        _check_rope(config, key)
    _check_activation(architecture, config)
    _check_window(config)


def ignored_window(config: Config) -> int | None:
    """Tokens of the sliding window that llama.cpp computes without: texts up to this length are
    the same. None if there is none."""
    window = config.get("sliding_window")
    if config.get("model_type") not in _WINDOWS_EVERYWHERE or not window:
        return None
    return int(window) if window < config["max_position_embeddings"] else None


def _check_counts(config: Config) -> None:
    for key in _COUNTS:
        value = config.get(key)
        if value is not None and not (type(value) is int and value > 0):
            raise UsageError(f"{key} is {value!r}, no positive integer", where="config.json")

    window = config.get("sliding_window")  # 0: none
    if window is not None and not (type(window) is int and window >= 0):
        raise UsageError(f"sliding_window is {window!r}, no number of tokens", where="config.json")


def _check_storage(config: Config) -> None:
    stored = config.get("quantization_config") or {}
    if not isinstance(stored, Mapping):
        raise UsageError(f"quantization_config is {stored!r}, no object", where="config.json")
    method = stored.get("quant_method", _METHODS[0])
    if method not in _METHODS:
        raise UsageError(
            f"weights quantized by {method!r} are not read",
            where="config.json: quantization_config.quant_method",
            hint="Name the checkpoint in 16 bits, or bitsandbytes' in 4 bits.",
        )


def _check_rope(config: Config, key: str) -> None:
    given = config.get(key)
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise UsageError(f"{key} is {given!r}, no object", where="config.json")
    by_layer = {f"{key}.{name}": one for name, one in given.items() if isinstance(one, Mapping)}
    for place, one in (by_layer or {key: given}).items():
        _check_scaling(one, place)


def _check_scaling(scaling: Config, place: str) -> None:
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    for name in SCALING_KEYS.get(str(kind), ()):
        value: Any = scaling.get(name)
        if value is None:
            raise UsageError(
                f"{place}.{name} is missing, which '{kind}' needs", where="config.json"
            )
        if name in _ROPE_LISTS:
            if not isinstance(value, list):
                raise UsageError(f"{place}.{name} is {value!r}, no list", where="config.json")
        elif isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UsageError(
                f"{place}.{name} is {value!r}, no positive number", where="config.json"
            )


def _check_activation(architecture: Architecture, config: Config) -> None:
    key = "hidden_activation" if config.get("hidden_activation") else "hidden_act"
    given, computed = config.get(key), architecture.activation
    if given in (None, computed):
        return
    if not any({given, computed} <= same for same in _SAME_ACTIVATIONS):
        raise UsageError(
            f"llama.cpp computes with {computed} where this model has {given}",
            where=f"config.json: {key}",
        )


def _check_window(config: Config) -> None:
    """The window that Qwen's and SmolLM3's configurations switch on: llama.cpp reads none."""
    window = config.get("sliding_window")
    if not config.get("use_sliding_window") or not window:
        return
    kinds = config.get("layer_types")
    if kinds is not None and "sliding_attention" not in kinds:
        return
    first = config.get("max_window_layers", _MAX_WINDOW_LAYERS)
    by_first = config.get("model_type") in _WINDOWS_FROM_A_LAYER_ON
    if kinds is None and by_first and first >= config["num_hidden_layers"]:
        return
    if window < config["max_position_embeddings"]:
        raise UsageError(
            f"llama.cpp computes every layer without a window, this model with one of {window} "
            "tokens",
            where="config.json: use_sliding_window",
        )
