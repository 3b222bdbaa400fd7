"""Models with eyes and ears: the text model in a checkpoint that holds more.

config.json nests the text model's in `text_config` (published ones of Qwen2-VL have it beside what
is in `vision_config`), and the names of its tensors begin with where it hangs. What is here gives
both as the text model alone has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where the text model hangs, in what transformers writes, wrote, and in checkpoints of others.
_TEXT = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.text_model.": "model.",
    "lm_head.": "lm_head.",
}
# The text model's own names: what an adapter has that was trained on the text model alone.
_OWN = ("model.layers.", "model.embed_tokens.", "model.norm.")
# What the whole model says and the text part may leave out.
_SHARED = ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config")


# Text models that transformers has in the whole model alone, and what computes the same from text.
_PLAIN = {
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
}
_ROPE = ("rope_parameters", "rope_scaling")


def is_shell(config: Mapping[str, Any]) -> bool:
    """Is this the config.json of a model with a text model in it?"""
    return isinstance(config.get("text_config"), dict) or _is_flat(config)


def _is_flat(config: Mapping[str, Any]) -> bool:
    """Does the text model's configuration lie beside that of the eyes?"""
    inside = isinstance(config.get("text_config"), dict)
    return isinstance(config.get("vision_config"), dict) and not inside and "hidden_size" in config


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the text model alone (which it may be already)."""
    if not is_shell(config):
        return dict(config)
    eyes = config.get("vision_config") or {}
    deep = eyes.get("deepstack_visual_indexes")
    layers = {} if deep is None else {"deepstack_layers": len(deep)}
    if _is_flat(config):
        return {**{key: of for key, of in config.items() if key != "vision_config"}, **layers}
    shared = {key: config[key] for key in _SHARED if key in config}
    name = {"architectures": config["architectures"]} if config.get("architectures") else {}
    return {**name, **config["text_config"], **shared, **layers}


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of a model that transformers has on its own, and that computes from text what
    this text model does."""
    plain = _PLAIN.get(str(config.get("model_type")))
    if plain is None:
        return dict(config)
    ropes = {key: _one_position(config[key]) for key in _ROPE if config.get(key)}
    return {**config, **ropes, "model_type": plain}


def _one_position(rope: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's settings without those of three positions."""
    kept = {key: of for key, of in rope.items() if not key.startswith("mrope")}
    return {key: "default" if of == "mrope" else of for key, of in kept.items()}


def text_name(name: str) -> str | None:
    """A tensor of the whole model as the text model calls it; None for what is none of its."""
    for prefix, short in _TEXT.items():
        if name.startswith(prefix):
            return short + name.removeprefix(prefix)
    return name if name.startswith(_OWN) else None


def part_name(name: str) -> str:
    """What a tensor that is not the text model's belongs to: 'vision_tower'."""
    return name.removeprefix("model.").partition(".")[0]
