"""A recipe's memory plan, and what fits into a given memory."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from finetune.plan import (
    GIB,
    Shape,
    fastest_checkpointing,
    largest_batch,
    merge_memory,
    serving_memory,
    training_memory,
)
from tuneserve.base import resolve_base
from tuneserve.settings import Recipe

# The CUDA context and what the allocator can't use.
RESERVED_GIB = 0.75


def plan(recipe: Recipe, *, device: str) -> dict[str, Any]:
    """Peaks in bytes by stage and part, and advice in sentences where `train.vram` is given.

    Reads the base's config.json; loads no weights.
    """
    shape = Shape.read(resolve_base(recipe.model.base).path)
    length, four_bit = recipe.model.max_seq_length, recipe.model.load_in_4bit
    value_bytes = 4 if recipe.train.precision == "fp32" else 2
    vram = recipe.train.vram
    available = (vram - RESERVED_GIB) * GIB if vram else None
    checkpointing: str = recipe.train.gradient_checkpointing
    if checkpointing == "auto":
        checkpointing = fastest_checkpointing(
            shape, recipe.train, available=available or 0.0, length=length, four_bit=four_bit,
            device=device, value_bytes=value_bytes,
        )  # fmt: skip

    def training(batch: int, way: str) -> Any:
        return training_memory(
            shape, recipe.train, length=length, four_bit=four_bit, device=device,
            value_bytes=value_bytes, checkpointing=way, batch=batch,
        )  # fmt: skip

    batch = recipe.train.batch_size
    title = f"training: batch {batch} x {length}, gradient checkpointing {checkpointing}"
    found: dict[str, Any] = {
        "parameters": shape.parameters,
        "gradient_checkpointing": checkpointing,
        "peaks": {
            title: asdict(training(batch, checkpointing)),
            "merge": {"tensors and libraries": merge_memory(shape)},
            f"serving: {recipe.convert.quantization}, context {recipe.serve.ctx}": serving_memory(
                shape, recipe.serve, recipe.convert.quantization
            ),
        },
        "advice": [],
    }
    if available is None:
        return found
    found["largest_batch"] = {
        way: largest_batch(available, lambda b, way=way: training(b, way).total)
        for way in ("false", "true", "unsloth")
    }
    found["advice"] = _advice(found, training(batch, checkpointing).total, available)
    found["longest_context"] = _longest_context(recipe, shape, available)
    found["advice"].append(
        f"served, all layers on the GPU, a context of {found['longest_context']:,} tokens fits"
    )
    return found


def _advice(found: dict[str, Any], total: int, available: float) -> list[str]:
    room = f"{available / GIB:.1f} GiB that training can use"
    verdict = "fits into" if total <= available else "does NOT fit into"
    lines = [f"training takes {total / GIB:.1f} GiB and {verdict} the {room}"]
    names = {"false": "off", "true": "plain", "unsloth": "offloaded"}
    batches = ", ".join(
        f"{batch} with checkpointing {names[way]}" for way, batch in found["largest_batch"].items()
    )
    return [*lines, f"largest batch that fits: {batches}"]


def _longest_context(recipe: Recipe, shape: Shape, available: float) -> int:
    parts = serving_memory(shape, recipe.serve, recipe.convert.quantization)
    left = available - parts["weights"] - parts["compute"]
    per_token = parts["kv_cache"] / recipe.serve.ctx
    return max(0, int(left / per_token) // 256 * 256)
