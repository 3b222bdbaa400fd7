"""Models with eyes and ears: the text model in a checkpoint that holds more.

config.json nests the text model's in `text_config`, and the names of its tensors begin with where
it hangs. What is here gives both as the text model alone has them.
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


def is_shell(config: Mapping[str, Any]) -> bool:
    """Is this the config.json of a model with a text model in it?"""
    return isinstance(config.get("text_config"), dict)


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the text model alone (which it may be already)."""
    if not is_shell(config):
        return dict(config)
    shared = {key: config[key] for key in _SHARED if key in config}
    name = {"architectures": config["architectures"]} if config.get("architectures") else {}
    return {**name, **config["text_config"], **shared}


def text_name(name: str) -> str | None:
    """A tensor of the whole model as the text model calls it; None for what is none of its."""
    for prefix, short in _TEXT.items():
        if name.startswith(prefix):
            return short + name.removeprefix(prefix)
    return name if name.startswith(_OWN) else None


def part_name(name: str) -> str:
    """What a tensor that is not the text model's belongs to: 'vision_tower'."""
    return name.removeprefix("model.").partition(".")[0]
