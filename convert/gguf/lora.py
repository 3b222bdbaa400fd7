"""The adapter itself as a GGUF, so that one base file serves many adapters.

llama.cpp adds `alpha / r * b a` to each weight while it computes. Layout: `NAME.lora_a`
[r, columns] and `NAME.lora_b` [rows, r], rows in GGUF's order, of experts with their number before;
of an embedding `lora_a` [tokens, r]
and `lora_b` [columns, r].
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tuneserve.convert.gguf.model import (
    QUANTIZATION_VERSION,
    CheckpointTensor,
    ComputedTensor,
    GGUFModel,
)
from tuneserve.convert.gguf.quantization import Choice
from tuneserve.convert.gguf.stacks import StackedTensor
from tuneserve.convert.gguf.vocabulary import Value
from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.convert.merge.adapter import LowRank
from tuneserve.convert.merge.applied import EMBEDDING, HEAD
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.merge.experts import StackedLowRank
from tuneserve.errors import UsageError


def write_lora(path: Path, model: GGUFModel, name: str) -> None:
    """Write the GGUF of the adapter in `model.checkpoint`; `name` becomes general.name.

    A GGUF has room for one alpha: a module whose alpha differs has the ratio in its `lora_b`.
    Raises UsageError for adapters that llama.cpp can't apply at run time: DoRA, whole tensors
    (`modules_to_save`), an embedding that is the output too; TuneserveError for weights too large
    for float16.
    """
    adapter = model.checkpoint.adapter
    assert adapter is not None
    check_applicable(model.checkpoint)
    changes = dict(gguf_changes(model))
    # The alpha for which llama.cpp's alpha / r is the scale of the adapter's first module; for
    # rsLoRA that is alpha * sqrt(r).
    first = next(iter(changes.values()))
    alpha = first.scale * first.rank
    tensors: dict[str, ComputedTensor] = {}
    for gguf_name, change in changes.items():
        a, b = change.a, change.b
        if gguf_name == "token_embd.weight":
            a, b = b, a.T  # llama.cpp looks rows of lora_a up by token
        elif (order := model.row_order(gguf_name)) is not None:
            b = b[order]
        if (columns := model.column_order(gguf_name)) is not None:
            a = a[:, columns]
        ratio = change.scale * change.rank / alpha
        if not math.isclose(ratio, 1.0, rel_tol=1e-6):
            b = b * np.float32(ratio)
        tensors[f"{gguf_name}.lora_a"] = ComputedTensor(np.ascontiguousarray(a))
        tensors[f"{gguf_name}.lora_b"] = ComputedTensor(np.ascontiguousarray(b))
    metadata: dict[str, Value] = {
        "general.architecture": ("string", model.architecture.gguf_name),
        "general.type": ("string", "adapter"),
        "adapter.type": ("string", "lora"),
        "general.name": ("string", name),
        "adapter.lora.alpha": ("float32", alpha),
        **model.own_metadata,
        "general.quantization_version": ("uint32", QUANTIZATION_VERSION),
    }
    choices = [Choice(tensor, "F16") for tensor in tensors]
    write_gguf(path, metadata, tensors, choices, threads=1)


def gguf_changes(model: GGUFModel) -> Iterator[tuple[str, LowRank | StackedLowRank]]:
    """What the adapter adds to a GGUF's tensors, by their names, in the checkpoint's row order.

    Raises UsageError for a tensor that llama.cpp computes with without asking for an adapter.
    """
    directory = model.checkpoint.directory
    for name, source in model.sources.items():
        if not any(stored in model.checkpoint.changes for stored in source.names):
            continue
        inner = re.sub(r"^blk\.\d+\.", "", name)
        if inner in model.architecture.no_adapter or name in model.architecture.no_adapter:
            raise UsageError(
                f"llama.cpp can't put an adapter on {name}",
                where=f"{directory}: {source.names[0]}",
                hint="Merge it: tuneserve convert without --adapter-only.",
            )
        change: LowRank | StackedLowRank | None = None
        if isinstance(source, StackedTensor):
            change = source.change()
        elif isinstance(source, CheckpointTensor):
            change = model.checkpoint.changes[source.name]
        if change is not None:
            yield name, change


def check_applicable(checkpoint: MergedCheckpoint) -> None:
    """Raise UsageError if llama.cpp can't apply this adapter while it computes."""
    adapter = checkpoint.adapter
    assert adapter is not None
    problems = []
    if not checkpoint.changes:
        problems.append("it has no low-rank factors")
    if adapter.config.get("use_dora"):
        problems.append("it is a DoRA adapter, whose magnitudes llama.cpp does not know")
    replaced = checkpoint.replaced_names()
    if replaced:
        problems.append(f"it holds whole tensors: {', '.join(sorted(replaced))}")
    both_ends = [name for name in (EMBEDDING, HEAD) if name in checkpoint.changes]
    if checkpoint.tied and both_ends:
        problems.append(f"it changes {both_ends[0]}, which is embedding and output in one")
    if problems:
        raise UsageError(
            "this adapter can't be a GGUF of its own",
            where=str(adapter.directory),
            problems=problems,
            hint="Merge it: tuneserve convert without --adapter-only.",
        )
