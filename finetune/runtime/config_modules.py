"""The tensors that a checkpoint of some config.json has, where there is only the config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import by_hf_name
from tuneserve.gguf.architectures.table import Architecture
from tuneserve.text_model import text_config

_CONVOLUTIONS = ("conv", "conv1d")


def tensor_dimensions(config: Mapping[str, Any]) -> dict[str, int] | None:
    """How many dimensions each tensor has, by its name; None for an architecture whose tensors are
    not known here, or a configuration that leaves out what they depend on."""
    config = text_config(config)
    try:
        architecture = by_hf_name((config.get("architectures") or [""])[0], config)
        layers = [_of_layer(architecture, config, n) for n in range(config["num_hidden_layers"])]
    except (UsageError, LookupError, TypeError):
        return None
    found = {f"{name}.weight": _dimensions(name) for name in architecture.tensors.values()}
    if config.get("tie_word_embeddings"):
        found.pop("lm_head.weight", None)
    for layer in layers:
        found |= layer
    return found


def _of_layer(architecture: Architecture, config: Mapping[str, Any], number: int) -> dict[str, int]:
    absent = architecture.absent(config, number)
    names = [
        f"{name}.weight"
        for gguf_name, name in architecture.layer_tensors.items()
        if f"{gguf_name}.weight" not in absent
    ]
    names += [
        stack.source if stack.source.endswith(".weight") else f"{stack.source}.weight"
        for gguf_name, stack in architecture.stacks.items()
        if gguf_name.endswith(".weight") and gguf_name not in absent
    ]
    return {f"model.layers.{number}.{name}": _dimensions(name) for name in names}


def _dimensions(name: str) -> int:
    leaf = name.removesuffix(".weight").rpartition(".")[2]
    if leaf in _CONVOLUTIONS:
        return 3
    return 1 if "norm" in leaf else 2
