"""Is the model that config.json describes, as transformers builds it, the one whose weights are
stored? A bias that only one of both has would change what is computed without a word."""

from __future__ import annotations

from typing import Any

from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.findings import Finding

_NAMED = 3
_KEYS = {"self_attn": "attention_bias", "mlp": "mlp_bias"}
"""What config.json calls the biases in these parts of a layer."""


def check_trainer_model(model: GGUFModel) -> list[Finding]:
    """What is wrong; nothing where the two fit each other. For a process that may import torch."""
    from huggingface_hub.errors import StrictDataclassError

    from tuneserve.convert.verify.reference import transformers_config

    try:
        config = transformers_config(model)
    except StrictDataclassError as error:
        told = " ".join(str(error).split())
        return [
            Finding(
                "configuration", "refused", f"transformers does not take config.json: {told}",
                "A training does not load it either. Where a number with a fraction is meant, 0 is "
                "written 0.0.",
            )
        ]  # fmt: skip
    return _check_biases(model, config)


def _check_biases(model: GGUFModel, config: Any) -> list[Finding]:
    from tuneserve.convert.verify.bare_model import empty_model

    computed = {name for name, _ in empty_model(config).named_parameters()}
    stored = set(model.checkpoint.names)
    # Of layers that both have under one name: transformers renames some as it loads them.
    layers = [name.removesuffix(".weight") for name in computed & stored if ".weight" in name]
    biases = {f"{layer}.bias" for layer in layers}
    only_stored = sorted((biases & stored) - computed)
    only_computed = sorted((biases & computed) - stored)
    found = []
    if only_stored:
        found.append(
            Finding(
                "biases", "refused", f"{_listed(only_stored)} in the weights, which config.json "
                "does not speak of: a training leaves them out, llama.cpp computes with them",
                f"If the model was made with them, say so in config.json{_key(only_stored)}; "
                "otherwise remove them from the weights.",
            )
        )  # fmt: skip
    if only_computed:
        found.append(
            Finding(
                "biases", "refused", f"config.json asks for {_listed(only_computed)}, which the "
                "weights do not have",
                "If the model was made without, say so in config.json"
                f"{_key(only_computed, 'false')}; otherwise download the weights again.",
            )
        )  # fmt: skip
    return found


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" … (+{more})" if more > 0 else "")


def _key(names: list[str], value: str = "true") -> str:
    """The entries of config.json, as far as they are known."""
    keys = {key for part, key in _KEYS.items() for name in names if f".{part}." in name}
    shown = ", ".join(f"{key} = {value}" for key in sorted(keys))
    return f" ({shown})" if shown else ""
