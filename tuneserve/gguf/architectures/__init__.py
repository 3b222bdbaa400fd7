"""The model architectures: what their tensors are called on both sides, and their metadata.

One module each, most of it tables. `by_gguf_name` finds a row for a GGUF, `by_hf_name` for a
checkpoint's config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import (
    dense,
    gemma,
    gemma4,
    granite,
    lfm2,
    llama,
    moe,
    phi,
    qwen,
    qwen35,
    qwen_vl,
)
from tuneserve.gguf.architectures.table import Architecture, Config

ARCHITECTURES: tuple[Architecture, ...] = (
    llama.LLAMA,
    qwen.QWEN2,
    qwen.QWEN3,
    gemma.GEMMA3,
    gemma.GEMMA2,
    gemma.GEMMA,
    gemma4.GEMMA4,
    phi.PHI3,
    *qwen35.ARCHITECTURES,
    *qwen_vl.ARCHITECTURES,
    *dense.ARCHITECTURES,
    *moe.ARCHITECTURES,
    *granite.ARCHITECTURES,
    *lfm2.ARCHITECTURES,
)


def by_gguf_name(name: str) -> Architecture:
    """The architecture of a GGUF's `general.architecture`."""
    for architecture in ARCHITECTURES:
        if architecture.gguf_name == name:
            return architecture
    raise _unknown(name, [row.gguf_name for row in ARCHITECTURES])


def by_hf_name(name: str, config: Config | None = None) -> Architecture:
    """The architecture of a config.json's `architectures[0]`; without a `config`, the first of
    those that the name stands for."""
    for architecture in ARCHITECTURES:
        if name in architecture.hf_names and (config is None or architecture.when(config)):
            return architecture
    raise _unknown(name, [hf_name for row in ARCHITECTURES for hf_name in row.hf_names])


def _unknown(name: str, known: Sequence[str]) -> UsageError:
    """The error that names the few supported architectures nearest to an unknown one."""
    nearest = get_close_matches(name, list(dict.fromkeys(known)), n=3)
    near = f"Nearest supported: {', '.join(nearest)}. " if nearest else ""
    return UsageError(
        f"architecture '{name}' is not supported", hint=f"{near}All are in docs/own-model.md."
    )
