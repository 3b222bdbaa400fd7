"""Memory of training, from a model's config.json alone.

It is weights + adapter (with gradients and optimizer) + activations. What a layer keeps for
the backward pass, per token, follows from its shapes; how much more is alive while one layer is
computed backwards, and what PEFT's unfused path keeps on a CPU, are measured factors.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneserve.finetune.runtime.shards import GATHERED_LAYERS
from tuneserve.memory import GIB
from tuneserve.model_shape import ModelShape
from tuneserve.settings import TrainSettings

# Of a GPU's memory, what training can't use: the CUDA context, and the gaps that torch's allocator
# leaves.
RESERVED_GIB = 0.75
# NF4: half a byte, and per 64 weights a scale of one byte (itself scaled per 256).
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Bytes a trained parameter takes: fp32 weight and gradient, and two AdamW moments.
_TRAINED_BYTES = {"adamw_8bit": 4 + 4 + 2, "adamw_torch": 4 + 4 + 8}
# Measured on the Llama-8B shape: alive while one layer is computed backwards, in units of what
# the layer keeps for it.
_BACKWARD_FACTOR = 2.3
# Measured on the 135M model: on a CPU PEFT's layers keep several copies of what Unsloth's GPU
# kernels keep once (by bytes of a value), hardly any of them where the layers are compiled.
_CPU_COPIES = {2: 3.0, 4: 2.6}
_COMPILED_COPIES = 1.25
# There the logits of all tokens are alive at once: bytes per token and vocabulary entry.
_LOGIT_BYTES = 8
# Attention that is plain matrix products keeps a score for every pair of tokens, in bytes.
_SCORE_BYTES = 3.2
# Where most examples are much shorter than the longest, short batches leave the heap fragmented: a
# long batch fits no free block, and the heap grows by it. Measured over an epoch, as a share of the
# longest batch's activations: nothing where the mean length is 0.6 of the longest, 0.6 to 0.8 where
# it is 0.27. (Mapping large blocks apart avoids some of it and costs 6 to 21 % of the speed.)
_EVEN_LENGTHS = 0.6
_FRAGMENTATION_FACTOR = 2.0
# The longest examples, in tokens, for which a CPU computes attention that way.
LONGEST_PLAIN = 512
# Resident memory of the process before any model: Python, torch, transformers, TRL, Unsloth; and
# what compiling adds.
_CPU_LIBRARIES = GIB
_COMPILER = int(0.1 * GIB)
_LARGEST_BATCH = 4096  # what the setting allows


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Are the weights of a checkpoint with this config.json quantized already?"""
    return "quantization_config" in config


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step at its peak, by what they are for."""

    weights: int
    adapter: int
    activations: int
    libraries: int

    @property
    def total(self) -> int:
        return self.weights + self.adapter + self.activations + self.libraries


def training_memory(
    shape: ModelShape,
    settings: TrainSettings,
    *,
    tokens: int,
    four_bit: bool,
    device: str,
    value_bytes: int = 2,
    checkpointing: str | None = None,
    kept_layers: int | None = None,
    offloaded: bool = False,
    length: int = 0,
    mean_length: float = 0.0,
    compiled: bool = False,
    divided: int = 1,
) -> TrainingMemory:
    """Peak of one step that computes `tokens` tokens at a time (examples x their length).

    `value_bytes` is the size of a computed value (2: bf16, 4: fp32). `checkpointing` and
    `kept_layers`, the layers that keep their activations all the same, default to the settings'.
    `offloaded`: the token embeddings wait in main memory. On a CPU it matters how many tokens the
    longest example has (`length`) and the mean one (`mean_length`; 0: they are all as long), and
    whether the layers are `compiled`.
    `divided`: into how many parts, of which each GPU holds one.
    On a GPU the figure is torch's own, without the CUDA context.
    """
    cuda = device == "cuda"
    linear = _NF4_BYTES if four_bit else value_bytes
    embeddings = shape.embedding_parameters
    if offloaded:
        embeddings -= shape.vocabulary * shape.hidden
    projections = shape.projection_parameters * linear
    weights = projections + embeddings * value_bytes
    optimizer = settings.optimizer
    if optimizer == "auto":
        optimizer = "adamw_8bit" if cuda else "adamw_torch"
    trained = shape.adapter_parameters(settings.r, settings.target_modules)
    trained = trained * adapted_layers(settings, shape.layers) // shape.layers
    trained += shape.copied_parameters(settings.modules_to_save)
    checkpointing = checkpointing or settings.gradient_checkpointing
    whole = settings.kept_layers if kept_layers is None else kept_layers
    backward_layers = layers_backward(settings, shape.layers, checkpointing)
    whole = backward_layers if checkpointing == "false" else min(whole, backward_layers)
    # Offloaded, the inputs of the layers that are computed again wait in main memory.
    inputs = 0 if checkpointing == "unsloth" and cuda else (backward_layers - whole) * shape.hidden
    if cuda:
        kept = float(shape.kept_per_token * value_bytes)
        backward = _BACKWARD_FACTOR * kept
    else:
        kept, backward = _kept_on_cpu(shape, value_bytes, length, compiled=compiled)
    activations = tokens * (whole * kept + inputs * value_bytes + backward)
    if not cuda and mean_length:
        activations *= 1 + _FRAGMENTATION_FACTOR * max(0.0, _EVEN_LENGTHS - mean_length / length)
    adapter = trained * _TRAINED_BYTES[optimizer] // divided
    if divided > 1:
        # The embeddings are gathered for the whole step, beside the part that stays.
        held = weights / divided + embeddings * value_bytes
        held += projections * min(GATHERED_LAYERS / shape.layers, 1.0)
        # Weights in 4 bits are divided once each process has loaded all of them.
        weights = max(held, weights - adapter - activations) if four_bit else held
    return TrainingMemory(
        weights=int(weights),
        adapter=adapter,
        activations=int(activations),
        libraries=0 if cuda else _CPU_LIBRARIES + (_COMPILER if compiled else 0),
    )


def adapted_layers(settings: TrainSettings, layers: int) -> int:
    """How many of the base's layers get an adapter."""
    return min(settings.last_layers, layers) or layers


def layers_backward(settings: TrainSettings, layers: int, checkpointing: str) -> int:
    """How many of the base's layers are computed backward: those from the first on that trains, or
    all where activations are computed again."""
    elsewhere = settings.bias == "all" or {*settings.modules_to_save} - {"lm_head"}
    every = elsewhere or checkpointing != "false"
    return layers if every else adapted_layers(settings, layers)


def _kept_on_cpu(
    shape: ModelShape, value_bytes: int, length: int, *, compiled: bool
) -> tuple[float, float]:
    """Bytes per token that a layer keeps, and that are alive beside that at the most: the logits,
    or what one layer computed backwards takes."""
    copies = _COMPILED_COPIES if compiled else _CPU_COPIES[value_bytes]
    kept = shape.kept_per_token * value_bytes * copies
    if length <= LONGEST_PLAIN:
        kept += _SCORE_BYTES * shape.heads * length
    return kept, max(_LOGIT_BYTES * shape.vocabulary, _BACKWARD_FACTOR * kept)


def largest_batch(available: float, memory_of_batch: Callable[[int], int]) -> int:
    """The largest batch (0: not even one) whose memory in bytes, `memory_of_batch(batch)`, is
    available; more examples never take less."""
    return bisect.bisect_right(range(1, _LARGEST_BATCH + 1), available, key=memory_of_batch)
