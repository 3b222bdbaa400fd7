"""A checkpoint's config.json: what it leaves out is what transformers takes for it, and what can't
be left out is an error that names the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.files import read_json
from tuneserve.text_model import text_config

_EPS = {"rms_norm_eps": 1e-6}
# Defaults of transformers' configuration classes, as far as conversion reads them.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": _EPS,
    "mistral": _EPS,
    "qwen2": _EPS,
    "qwen3": {**_EPS, "head_dim": 128},
    "gemma3_text": {**_EPS, "head_dim": 256, "tie_word_embeddings": True},
    "phi3": {"rms_norm_eps": 1e-5},
}


class CheckpointConfig(dict[str, Any]):
    """config.json as a dict; asking for a key that it lacks raises UsageError."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise UsageError(f"lacks '{key}'", where=str(self.path))

    def changed(self, **values: Any) -> CheckpointConfig:
        """A copy with other values."""
        return CheckpointConfig({**self, **values}, self.path)


def read_config(checkpoint: Path) -> CheckpointConfig:
    """config.json with the defaults of its model type, of a model with eyes and ears its text
    model's. Raises UsageError if it can't be read."""
    path = checkpoint / "config.json"
    config = text_config(read_json(path))
    defaults = DEFAULTS.get(str(config.get("model_type")), {})
    return CheckpointConfig({**defaults, **config}, path)
