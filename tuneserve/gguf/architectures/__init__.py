"""The model architectures: what their tensors are called on both sides, and their metadata.

One module each, most of it tables. `by_gguf_name` finds a row for a GGUF, `by_hf_name` for a
checkpoint's config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import dense, gemma, llama, moe, phi, qwen, qwen35
from tuneserve.gguf.architectures.shell import is_shell, text_config
from tuneserve.gguf.architectures.table import Architecture

ARCHITECTURES: tuple[Architecture, ...] = (
    llama.LLAMA,
    qwen.QWEN2,
    qwen.QWEN3,
    gemma.GEMMA3,
    gemma.GEMMA2,
    gemma.GEMMA,
    phi.PHI3,
    qwen35.QWEN35,
    *dense.ARCHITECTURES,
    *moe.ARCHITECTURES,
)


def by_gguf_name(name: str) -> Architecture:
    """The architecture of a GGUF's `general.architecture`."""
    for architecture in ARCHITECTURES:
        if architecture.gguf_name == name:
            return architecture
    raise UsageError(
        f"architecture '{name}' is not supported",
        hint=f"Supported: {', '.join(row.gguf_name for row in ARCHITECTURES)}.",
    )


def by_hf_name(name: str) -> Architecture:
    """The architecture of a config.json's `architectures[0]`."""
    for architecture in ARCHITECTURES:
        if name in architecture.hf_names:
            return architecture
    known = [hf_name for row in ARCHITECTURES for hf_name in row.hf_names]
    raise UsageError(
        f"architecture '{name}' is not supported", hint=f"Supported: {', '.join(known)}."
    )


def class_of(config: Mapping[str, Any]) -> str | None:
    """config.json's `architectures[0]`; of a model with eyes and ears the class of its text model,
    where that has a row of its own (a Mistral and a Ministral 3 come in the same shell)."""
    names = config.get("architectures") or [None]
    if is_shell(config):
        text = text_config(config)
        for architecture in ARCHITECTURES:
            if text.get("model_type") in architecture.text_types:
                return architecture.hf_names[0]
    return names[0] and str(names[0])
