"""A recipe's memory plan: what each stage says it takes, and what fits into a given memory."""

from __future__ import annotations

from dataclasses import asdict, replace

from tuneserve.convert.resources import needed_memory, worker_threads
from tuneserve.finetune.memory.budget import free_for_training
from tuneserve.finetune.memory.model import RESERVED_GIB, largest_batch, training_memory
from tuneserve.finetune.memory.search import Decisions, MemoryStrategy, search_strategy
from tuneserve.finetune.runtime.libraries import value_bytes
from tuneserve.memory import GIB
from tuneserve.model_shape import ModelShape
from tuneserve.records import Record
from tuneserve.serve.offload import (
    ModelSizes,
    draft_settings,
    largest_offload,
    longest_context,
    read_sizes,
    usable_bytes,
)
from tuneserve.settings import Recipe, ServeSettings


class MemoryPlan(Record):
    """A recipe's memory: the base's parameters, `peaks` in bytes by stage and part, and advice in
    sentences. Where `train.vram` is given also the largest batch by gradient checkpointing, and
    the longest context served with all layers on the GPU, at most the one that the model was made
    for (0: there is none)."""

    parameters: int
    chosen: Decisions
    peaks: dict[str, dict[str, int]]
    advice: list[str]
    largest_batch: dict[str, int] | None = None
    longest_context: int | None = None


def plan(
    recipe: Recipe,
    shape: ModelShape,
    *,
    device: str,
    model_context: int | None = None,
    strategy: MemoryStrategy | None = None,
) -> MemoryPlan:
    """What each stage takes, with advice where `train.vram` is given.

    `strategy` is how the recipe's own examples are trained, where that is known; without it every
    example counts as one of `max_seq_length` tokens. Training on a CPU is planned for the main
    memory that is free here, as training itself does it. Serving is planned for the GPU, or for
    main memory where `device` is 'cpu'. `model_context` is the longest context, in tokens, that the
    model was made for.
    """
    examples = "these examples"
    if strategy is None:
        examples = f"every example of {recipe.model.max_seq_length:,} tokens"
    available = _available(recipe, device)
    if available is None:
        # Nothing to choose by: the batch as it is given, and what takes the least memory.
        as_given = recipe.train.model_copy(update={"speed": "as_given"})
        recipe = recipe.model_copy(update={"train": as_given})
    strategy = strategy or search_strategy(
        shape, recipe, [recipe.model.max_seq_length] * recipe.train.examples_per_step,
        available=available or 0.0, device=device,
        value_bytes=value_bytes(recipe.train.precision, device),
    )  # fmt: skip
    sizes = _served_sizes(recipe, shape)
    found = MemoryPlan(
        parameters=shape.parameters,
        chosen=strategy.decisions,
        peaks=_peaks(recipe, strategy, examples, sizes, device, model_context),
        advice=[],
    )
    if available is None or not recipe.train.vram:
        return found
    largest = {
        kind: _largest_batch(recipe, shape, strategy, kind, available, device)
        for kind in ("false", "true", "unsloth")
    }
    training = _training_advice(strategy, largest, available)
    context, serving = _longest_context(recipe, sizes, model_context)
    advice = [*training, serving]
    return found.model_copy(
        update={"largest_batch": largest, "longest_context": context, "advice": advice}
    )


def _available(recipe: Recipe, device: str) -> float | None:
    """Bytes that training may take; None where no GPU's memory is named."""
    if recipe.train.vram:
        return (recipe.train.vram - RESERVED_GIB) * GIB
    return free_for_training() if device == "cpu" else None


def _peaks(
    recipe: Recipe,
    strategy: MemoryStrategy,
    examples: str,
    sizes: ModelSizes,
    device: str,
    model_context: int | None,
) -> dict[str, dict[str, int]]:
    """Bytes by part, of each stage as that stage itself estimates them."""
    serve = recipe.serve
    draft = _draft_sizes(recipe)
    serving = _served(sizes, serve, device)
    if draft is not None:
        parts = _served(draft, draft_settings(serve), device)
        serving |= {f"draft_{part}": size for part, size in parts.items()}
    context = f"context {serve.ctx}"
    if model_context is not None and model_context < serve.ctx:
        context += f" for all requests together, {model_context} for one"
    return {
        f"training: {strategy.describe()}, {examples}": asdict(strategy.memory),
        "merge": {"tensors and libraries": needed_memory(worker_threads(recipe.convert))},
        f"serving: {recipe.convert.quantization}, {context}": serving,
    }


def _served(sizes: ModelSizes, serve: ServeSettings, device: str) -> dict[str, int]:
    """Bytes by part of one loaded model."""
    return {
        "weights": sizes.offloadable + (sizes.embedding if device == "cpu" else 0),
        "kv_cache": sizes.kv_bytes(serve),
        "compute": sizes.buffer_bytes(serve),
    }


def _draft_sizes(recipe: Recipe) -> ModelSizes | None:
    serve = recipe.serve
    return read_sizes(serve.draft) if serve.drafts and serve.draft is not None else None


def _served_sizes(recipe: Recipe, shape: ModelShape) -> ModelSizes:
    # One matrix until training changes the embedding or the output layer.
    untied = {"embed_tokens", "lm_head"} & {*recipe.train.modules_to_save}
    return ModelSizes.of_shape(replace(shape, tied=shape.tied and not untied), recipe.convert)


def _largest_batch(
    recipe: Recipe,
    shape: ModelShape,
    strategy: MemoryStrategy,
    checkpointing: str,
    available: float,
    device: str,
) -> int:
    def taken(batch: int) -> int:
        return training_memory(
            shape, recipe.train, tokens=batch * recipe.model.max_seq_length,
            four_bit=strategy.decisions.load_in_4bit, device=device,
            value_bytes=value_bytes(recipe.train.precision, device), checkpointing=checkpointing,
            offloaded=strategy.decisions.offload_embeddings, length=recipe.model.max_seq_length,
        ).total  # fmt: skip

    return largest_batch(available, taken)


def _training_advice(
    strategy: MemoryStrategy, largest: dict[str, int], available: float
) -> list[str]:
    verdict = "fits into" if strategy.memory.total <= available else "does NOT fit into"
    verdict += f" the {available / GIB:.1f} GiB that training can use"
    if available <= 0:
        verdict = (
            f"does NOT fit: of {available / GIB + RESERVED_GIB:g} GiB nothing is left for it, the "
            f"CUDA context and the allocator's gaps take {RESERVED_GIB:g} GiB"
        )
    names = {"false": "off", "true": "plain", "unsloth": "offloaded"}
    batches = ", ".join(
        f"{batch or 'none'} with checkpointing {names[kind]}" for kind, batch in largest.items()
    )
    return [
        f"training takes {strategy.memory.total / GIB:.1f} GiB and {verdict}",
        f"largest batch computed at a time: {batches}",
    ]


def _longest_context(
    recipe: Recipe, sizes: ModelSizes, model_context: int | None
) -> tuple[int, str]:
    """The longest context with which the server puts all layers on the GPU (0: none), in tokens;
    and a sentence about it."""
    serve = recipe.serve
    serve = serve.model_copy(update={"vram": serve.vram or recipe.train.vram})
    free = usable_bytes([int(serve.vram * GIB)], serve)
    draft = _draft_sizes(recipe)
    context = longest_context(sizes, serve, free_bytes=free, draft=draft)
    if model_context is not None and context > model_context:
        return model_context, (
            f"served, all layers on the GPU, the model's whole context of {model_context:,} tokens "
            "fits"
        )
    if context:
        return context, f"served, all layers on the GPU, a context of {context:,} tokens fits"
    offload = largest_offload(sizes, serve, free_bytes=free, draft=draft)
    return 0, (
        f"served with a context of {serve.ctx:,} tokens, {offload.layers} of {offload.total} "
        "layers fit the GPU; not all of them do, however short the context"
    )
