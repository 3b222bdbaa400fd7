"""The adapter itself as a GGUF, so that one base file serves many adapters.

llama.cpp adds `alpha / r * b a` to each weight while it computes. Layout: `NAME.lora_a`
[r, columns] and `NAME.lora_b` [rows, r]; rows are in GGUF's order, an embedding's `lora_a` is
transposed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.adapter import Adapter, LowRank
from convert.gguf_output import write_gguf
from convert.model import ComputedTensor, GGUFModel
from convert.quantization import MIXTURES, Choice
from convert.vocabulary import Value
from tuneserve.errors import UsageError

FILE_TYPE = "F16"


@dataclass(frozen=True)
class LoraGGUF:
    """Metadata and tensors of an adapter's GGUF."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, ComputedTensor]

    def write(self, path: Path) -> None:
        choices = [Choice(name, FILE_TYPE) for name in self.tensors]
        write_gguf(path, self.metadata, self.tensors, choices, threads=1)


def lora_gguf(model: GGUFModel, name: str) -> LoraGGUF:
    """The GGUF of the adapter in `model.checkpoint`; `name` becomes general.name.

    Raises UsageError for adapters that llama.cpp can't apply at run time: DoRA, whole tensors
    (`modules_to_save`), and scales that differ between modules.
    """
    adapter = model.checkpoint.adapter
    assert adapter is not None
    _check_applicable(adapter)
    tensors: dict[str, ComputedTensor] = {}
    for hf_name, change in adapter.changes.items():
        gguf_name = model.architecture.gguf_tensor_name(hf_name)
        if gguf_name is None:
            raise UsageError(
                "this tensor has no place in a GGUF", where=f"{adapter.directory}: {hf_name}"
            )
        order = model.architecture.gguf_row_order(gguf_name, model.config, len(change.b))
        b = change.b if order is None else change.b[order]
        a = change.a.T if gguf_name == "token_embd.weight" else change.a
        tensors[f"{gguf_name}.lora_a"] = ComputedTensor(np.ascontiguousarray(a))
        tensors[f"{gguf_name}.lora_b"] = ComputedTensor(b)
    metadata: dict[str, Value] = {
        "general.architecture": ("string", model.architecture.gguf_name),
        "general.type": ("string", "adapter"),
        "adapter.type": ("string", "lora"),
        "general.name": ("string", name),
        "adapter.lora.alpha": ("float32", written_alpha(adapter)),
        "general.quantization_version": ("uint32", 2),
        "general.file_type": ("uint32", MIXTURES[FILE_TYPE].file_type),
    }
    return LoraGGUF(metadata, tensors)


def written_alpha(adapter: Adapter) -> float:
    """The alpha for which llama.cpp's alpha / r is the adapter's scale.

    For rsLoRA that is alpha * sqrt(r).
    """
    change: LowRank = next(iter(adapter.changes.values()))
    return float(change.scale * change.rank)


def _check_applicable(adapter: Adapter) -> None:
    config: dict[str, Any] = adapter.config
    problems = []
    if not adapter.changes:
        problems.append("it has no low-rank factors")
    if config.get("use_dora"):
        problems.append("it is a DoRA adapter, whose magnitudes llama.cpp does not know")
    if adapter.replaced:
        problems.append(f"it holds whole tensors: {', '.join(sorted(adapter.replaced))}")
    alphas = [change.scale * change.rank for change in adapter.changes.values()]
    if any(not math.isclose(alpha, alphas[0], rel_tol=1e-6) for alpha in alphas):
        problems.append("its modules have different alphas, and a GGUF has room for one")
    if problems:
        raise UsageError(
            "this adapter can't be a GGUF of its own",
            where=str(adapter.directory),
            problems=problems,
            hint="Merge it: tuneserve convert without --adapter-only.",
        )
