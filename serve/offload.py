"""Layer offload: which layers go to the GPU, namely all that fit beside KV cache and buffers.

llama.cpp's own fitting is C++ and not part of its library, so the sizes are worked out here: the
weights from the tensors of the GGUF, or of the one that a model of this shape will become, the KV
cache from the model's shape, and the buffers from what llama.cpp's graphs hold at most. A margin is
left for what can't be known (the driver, other programs, fragmentation).
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneserve.console import human_bytes, say
from tuneserve.errors import UsageError
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama import free_gpu_memory
from tuneserve.memory import GIB
from tuneserve.model_shape import ModelShape
from tuneserve.serve.engine.embedding import EMBEDDING_CONTEXT
from tuneserve.serve.engine.speculation import MOST_DRAFTED
from tuneserve.settings import ConvertSettings, ServeSettings

MARGIN_BYTES = 512 << 20
"""Left free for what the estimate misses."""

CONTEXT_BYTES = 600 << 20
"""What the driver and its libraries take on each GPU before any model is loaded. Memory that is
free is measured after that; a limit the user sets is for all of it."""

CONTEXT_STEP = 256
"""llama.cpp makes contexts in multiples of this many tokens."""

_LONGEST_CONTEXT = 1 << 24  # what the setting allows

BLOCK_TENSOR = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Bytes of a GGUF's tensors, and the shape that its KV cache has.

    `output` is what the GPU has beside the layers. `embedding` is the input embedding, which stays
    in main memory; 0 where it is tied to the output layer, of which the GPU then has a copy.
    """

    layers: tuple[int, ...]
    output: int
    embedding: int
    kv_width: int
    n_embd: int
    n_ff: int
    n_vocab: int

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, int], *, layers: int, **shape: int) -> ModelSizes:
        """From the bytes of each tensor, by name, and the `shape`: kv_width, n_embd, n_ff and
        n_vocab. Raises KeyError without an input embedding."""
        per_layer = [0] * layers
        output = 0
        for name, size in tensors.items():
            if block := BLOCK_TENSOR.match(name):
                per_layer[int(block.group(1))] += size
            elif name.startswith("output"):
                output += size
        embedding = tensors["token_embd.weight"]
        if "output.weight" not in tensors:
            output, embedding = output + embedding, 0
        return cls(tuple(per_layer), output, embedding, **shape)

    @classmethod
    def of_shape(cls, shape: ModelShape, settings: ConvertSettings) -> ModelSizes:
        """Of the GGUF that a model of this shape becomes."""
        # Serving a GGUF that is there needs nothing of convert.
        from tuneserve.convert.resources import gguf_tensor_bytes

        return cls.of_tensors(
            gguf_tensor_bytes(shape, settings), layers=shape.layers, kv_width=shape.key_value,
            n_embd=shape.hidden, n_ff=shape.intermediate, n_vocab=shape.vocabulary,
        )  # fmt: skip

    def taken(self, settings: ServeSettings) -> int:
        """Bytes on a GPU that has all layers: weights, KV cache, buffers."""
        return self.offloadable + self.kv_bytes(settings) + self.buffer_bytes(settings)

    @property
    def offloadable(self) -> int:
        """Bytes of weights on the GPU if all layers are."""
        return sum(self.layers) + self.output

    def kv_bytes(self, settings: ServeSettings) -> int:
        """The KV cache of all layers."""
        return self.kv_bytes_per_layer(settings) * len(self.layers)

    def kv_bytes_per_layer(self, settings: ServeSettings) -> int:
        """K and V of one layer for settings.ctx tokens, and those of the context for embeddings."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        total = 2 * 2 * EMBEDDING_CONTEXT * self.kv_width if settings.embeddings else 0
        for name in (settings.cache_type_k, settings.cache_type_v):
            elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]]
            total += settings.ctx * self.kv_width * size // elements
        return total

    def buffer_bytes(self, settings: ServeSettings) -> int:
        """Largest intermediate results of a micro-batch: activations, feed-forward, logits,
        and the attention mask."""
        tokens = min(settings.micro_batch, settings.ctx)
        rows = min(2 * settings.slots + 8, 256) + MOST_DRAFTED
        floats = tokens * (8 * self.n_embd + 3 * self.n_ff) + rows * self.n_vocab
        total = 4 * floats + 2 * tokens * settings.ctx
        if settings.embeddings:
            # Of a text of full length all activations, and logits though nobody asks for them.
            row = 8 * self.n_embd + 3 * self.n_ff + self.n_vocab
            total += EMBEDDING_CONTEXT * (4 * row + 2 * EMBEDDING_CONTEXT)
        return total


@dataclass(frozen=True, slots=True)
class Offload:
    """How many layers go to the GPU, and why. `layers` counts the output layer as one."""

    layers: int
    total: int
    reason: str


def largest_offload(
    sizes: ModelSizes, settings: ServeSettings, *, free_bytes: int, draft: ModelSizes | None = None
) -> Offload:
    """As many layers as fit into `free_bytes` of GPU memory, beside all of a `draft` model."""
    if draft is not None:
        free_bytes = max(0, free_bytes - draft.taken(draft_settings(settings)))
    total = len(sizes.layers) + 1
    budget = free_bytes - MARGIN_BYTES - sizes.buffer_bytes(settings)
    per_layer_cache = sizes.kv_bytes_per_layer(settings)
    count = 0
    # llama.cpp offloads the last layers first, and the output layer before them.
    for size in [sizes.output, *(one + per_layer_cache for one in reversed(sizes.layers))]:
        if budget < size:
            break
        budget -= size
        count += 1
    reason = (
        f"{count} of {total} layers fit {human_bytes(free_bytes)} of usable GPU memory "
        f"({human_bytes(sizes.offloadable)} of weights, "
        f"{human_bytes(sizes.kv_bytes(settings))} of KV cache, "
        f"{human_bytes(sizes.buffer_bytes(settings))} of buffers, "
        f"{human_bytes(MARGIN_BYTES)} left free)"
    )
    return Offload(count, total, reason)


def longest_context(
    sizes: ModelSizes, settings: ServeSettings, *, free_bytes: int, draft: ModelSizes | None = None
) -> int:
    """The largest settings.ctx, a multiple of CONTEXT_STEP, with which all layers fit into
    `free_bytes` of GPU memory, beside a `draft` model; 0 if they never do."""

    def too_long(ctx: int) -> bool:
        tried = settings.model_copy(update={"ctx": ctx})
        offload = largest_offload(sizes, tried, free_bytes=free_bytes, draft=draft)
        return offload.layers < offload.total

    contexts = range(CONTEXT_STEP, _LONGEST_CONTEXT + 1, CONTEXT_STEP)
    return bisect.bisect_left(contexts, True, key=too_long) * CONTEXT_STEP


def with_gpu_layers(path: Path, settings: ServeSettings, *, tell: bool = False) -> ServeSettings:
    """Settings with 'auto' GPU layers replaced by as many as fit beside what is loaded now;
    `tell`: say how many and why.

    A draft model comes first: it is small, and every step waits for several of its own."""
    free = free_gpu_memory()
    usable = usable_bytes(free, settings) if free else 0
    if settings.drafts:
        layers, taken = _draft_layers(settings, usable, tell=tell)
        usable = max(0, usable - taken)
        settings = settings.model_copy(update={"draft_gpu_layers": layers})
    if settings.gpu_layers >= 0:
        return settings
    offload = Offload(0, 0, "no GPU that the installed llama-cpp-python can use")
    if free:
        offload = largest_offload(read_sizes(path), settings, free_bytes=usable)
    if tell:
        say(f"GPU layers: {offload.layers} ({offload.reason})")
    return settings.model_copy(update={"gpu_layers": offload.layers})


def draft_settings(settings: ServeSettings) -> ServeSettings:
    """What a draft model's memory depends on: it has the same context, and embeds nothing."""
    return settings.model_copy(update={"embeddings": False})


def _draft_layers(settings: ServeSettings, usable: int, *, tell: bool) -> tuple[int, int]:
    """How many of the draft model's layers go to the GPU, and the bytes that they take there."""
    assert settings.draft is not None
    sizes, settings = read_sizes(settings.draft), draft_settings(settings)
    total = len(sizes.layers) + 1
    layers = min(settings.draft_gpu_layers, total)
    if layers < 0:
        layers = largest_offload(sizes, settings, free_bytes=usable).layers
        if tell and usable:
            say(f"GPU layers of the draft model: {layers} of {total}")
    if not layers or not usable:
        return layers, 0
    count = layers - 1  # The output layer goes first, then the last layers.
    on_gpu = sum(sizes.layers[len(sizes.layers) - count :]) + sizes.output
    cache = count * sizes.kv_bytes_per_layer(settings)
    return layers, on_gpu + cache + sizes.buffer_bytes(settings)


def offline_settings(serve: ServeSettings, *, ctx: int, slots: int) -> ServeSettings:
    """Settings for an engine that works through a list of prompts without a server: a context for
    every prompt answered at a time, no limit of time, no draft model, and no prefixes kept of
    prompts that are done (a later one would be computed from another place, in other last digits,
    after a kill)."""
    return serve.model_copy(
        update={
            "ctx": ctx,
            "slots": slots,
            "queue_seconds": 86_400,
            "answer_seconds": 0,
            "prefix_share": 0.0,
            "prefix_ram": 0.0,
            "draft": None,
        }
    )


def usable_bytes(free: Sequence[int], settings: ServeSettings) -> int:
    """Bytes a model can have in all, of the `free` bytes of each GPU: the GPU that is full
    first ends it where the shares are given, and settings.vram where that is less."""
    used = dict.fromkeys(range(len(free)), 1.0)
    usable = sum(free)
    if settings.split_mode == "none":
        used = {min(settings.main_gpu, len(free) - 1): 1.0}
        usable = free[next(iter(used))]
    elif settings.tensor_split:
        used = {
            index: share / sum(settings.tensor_split)
            for index, share in enumerate(settings.tensor_split[: len(free)])
            if share > 0.0
        }
        usable = int(min((free[index] / share for index, share in used.items()), default=0))
    elif settings.split_mode == "tensor":
        # Equal parts, whatever is free on each.
        usable = min(free) * len(free)
    if settings.vram:
        limit = int(settings.vram * GIB) - CONTEXT_BYTES * len(used)
        usable = min(usable, max(0, limit))
    return usable


def read_sizes(path: Path) -> ModelSizes:
    """Tensor sizes and shape from a GGUF's header. Raises UsageError if it can't be read."""
    header = GGUFFile(path)
    embedding = header.tensor("token_embd.weight")
    try:
        count = int(header.require(f"{header.architecture}.block_count"))
        if count > len(header.tensors):
            raise ValueError(f"{count} layers in {len(header.tensors)} tensors")
        n_embd, n_ff, heads = (
            _largest(header, key)
            for key in ("embedding_length", "feed_forward_length", "attention.head_count")
        )
        kv_heads = _largest(header, "attention.head_count_kv", default=heads)
        head_size = _largest(header, "attention.key_length", default=n_embd // heads)
        return ModelSizes.of_tensors(
            {name: tensor.size for name, tensor in header.tensors.items()},
            layers=count,
            kv_width=kv_heads * head_size,
            n_embd=n_embd,
            n_ff=n_ff,
            n_vocab=embedding.shape[0],
        )
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        raise UsageError(f"its sizes can't be read: {error}", where=str(path)) from error


def _largest(header: GGUFFile, key: str, *, default: int | None = None) -> int:
    """A number of the header, by its key without the architecture; of one for each layer the
    largest, with which every layer fits. Raises UsageError if it is not there."""
    name = f"{header.architecture}.{key}"
    value = header.require(name) if default is None else header.get(name, default)
    return int(max(value) if isinstance(value, list) else value)
