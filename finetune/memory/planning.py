"""A recipe's memory plan, and what fits into a given memory."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tuneserve.base import resolve_base
from tuneserve.finetune.memory.model import (
    GIB,
    Shape,
    largest_batch,
    merge_memory,
    serving_memory,
    training_memory,
)
from tuneserve.finetune.memory.search import Way, choose
from tuneserve.settings import Recipe

# The CUDA context and what the allocator can't use.
RESERVED_GIB = 0.75


def plan(recipe: Recipe, *, device: str) -> dict[str, Any]:
    """Peaks in bytes by stage and part, and advice in sentences where `train.vram` is given.

    Reads the base's config.json; loads no weights. Every example counts as one of
    `max_seq_length` tokens.
    """
    shape = Shape.read(resolve_base(recipe.model.base).path)
    vram = recipe.train.vram
    available = (vram - RESERVED_GIB) * GIB if vram else None
    length = recipe.model.max_seq_length
    value_bytes = 4 if recipe.train.precision == "fp32" else 2
    examples = recipe.train.examples_per_step
    if available is None:
        # Nothing to choose by: the batch as it is given, and what takes the least memory.
        as_given = recipe.train.model_copy(update={"speed": "as_given"})
        recipe = recipe.model_copy(update={"train": as_given})
    way = choose(
        shape, recipe, [length] * examples, available=available or 0.0, device=device,
        value_bytes=value_bytes,
    )  # fmt: skip
    found: dict[str, Any] = {
        "parameters": shape.parameters,
        "chosen": {
            "load_in_4bit": way.four_bit,
            "gradient_checkpointing": way.checkpointing,
            "kept_layers": way.kept_layers,
            "offload_embeddings": way.offloaded,
            "batch_size": way.micro_batch,
            "gradient_accumulation": way.accumulation,
        },
        "peaks": {
            f"training: {way.describe()}": asdict(way.memory),
            "merge": {"tensors and libraries": merge_memory(shape)},
            f"serving: {recipe.convert.quantization}, context {recipe.serve.ctx}": serving_memory(
                shape, recipe.serve, recipe.convert.quantization
            ),
        },
        "advice": [],
    }
    if available is None:
        return found

    def training(batch: int, checkpointing: str) -> int:
        return training_memory(
            shape, recipe.train, tokens=batch * length, four_bit=way.four_bit, device=device,
            value_bytes=value_bytes, checkpointing=checkpointing,
        ).total  # fmt: skip

    found["largest_batch"] = {
        kind: largest_batch(available, lambda batch, kind=kind: training(batch, kind))
        for kind in ("false", "true", "unsloth")
    }
    found["longest_context"] = _longest_context(recipe, shape, available)
    found["advice"] = _advice(found, way, available)
    return found


def _advice(found: dict[str, Any], way: Way, available: float) -> list[str]:
    room = f"{available / GIB:.1f} GiB that training can use"
    verdict = "fits into" if way.memory.total <= available else "does NOT fit into"
    names = {"false": "off", "true": "plain", "unsloth": "offloaded"}
    batches = ", ".join(
        f"{batch} with checkpointing {names[kind]}"
        for kind, batch in found["largest_batch"].items()
    )
    context = found["longest_context"]
    return [
        f"training takes {way.memory.total / GIB:.1f} GiB and {verdict} the {room}",
        f"largest batch computed at a time: {batches}",
        f"served, all layers on the GPU, a context of {context:,} tokens fits",
    ]


def _longest_context(recipe: Recipe, shape: Shape, available: float) -> int:
    parts = serving_memory(shape, recipe.serve, recipe.convert.quantization)
    left = available - parts["weights"] - parts["compute"]
    per_token = parts["kv_cache"] / recipe.serve.ctx
    return max(0, int(left / per_token) // 256 * 256)
