"""Memory of training, merging and serving, from a model's config.json alone.

Training is weights + adapter (with gradients and optimizer) + activations. What a layer keeps for
the backward pass, per token, follows from its shapes; how much more is alive while one layer is
computed backwards, and what PEFT's unfused path keeps on a CPU, are measured factors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.settings import ServeSettings, TrainSettings

GIB = 2**30
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
# Where most examples are much shorter than the longest, the heap is left in pieces in which a long
# batch finds no place, so that it takes more beside them. Measured over an epoch, as a share of the
# longest batch's activations: nothing with a mean of 0.6 of the longest length, 0.6 to 0.8 with a
# mean of 0.27. (Mapping large blocks apart avoids some of it and costs 6 to 21 % of the speed.)
_EVEN_LENGTHS = 0.6
_PIECES = 2.0
# The longest examples, in tokens, for which a CPU computes attention that way.
LONGEST_PLAIN = 512
# Resident memory of the process before any model: Python, torch, transformers, TRL, Unsloth; and
# what compiling adds.
_CPU_LIBRARIES = int(1.0 * GIB)
_COMPILER = int(0.1 * GIB)
_LARGEST_BATCH = 4096  # what the setting allows
# What configs of different families call the number of experts in a layer.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_BITS_PER_WEIGHT = {
    "Q4_K_M": 4.85, "Q4_K_S": 4.58, "Q5_K_M": 5.69, "Q5_K_S": 5.54, "Q6_K": 6.56, "Q8_0": 8.5,
    "Q4_0": 4.55, "IQ4_XS": 4.3, "F16": 16.0, "BF16": 16.0,
}  # fmt: skip
_CACHE_BYTES = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32,
    "q4_1": 20 / 32, "q4_0": 18 / 32,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama-like decoder."""

    hidden: int
    intermediate: int
    layers: int
    query: int
    key_value: int
    vocabulary: int
    heads: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str = "config.json") -> Shape:
        """From config.json's content. Raises UsageError naming a size that is missing, and for a
        mixture of experts, whose layers hold several times the sizes they compute with."""
        if any(config.get(key) not in (None, 0, 1) for key in _EXPERTS):
            raise UsageError("a mixture of experts can't be planned", where=where)
        try:
            heads = config["num_attention_heads"]
            head = config.get("head_dim") or config["hidden_size"] // heads
            return cls(
                hidden=config["hidden_size"],
                intermediate=config["intermediate_size"],
                layers=config["num_hidden_layers"],
                query=heads * head,
                key_value=(config.get("num_key_value_heads") or heads) * head,
                vocabulary=config["vocab_size"],
                heads=heads,
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"{error} is not in it: this model can't be planned", where=where
            ) from error

    @classmethod
    def read(cls, checkpoint: Path) -> Shape:
        path = checkpoint / "config.json"
        return cls.of(json.loads(path.read_text(encoding="utf-8")), str(path))

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of a layer's projections."""
        h, f = self.hidden, self.intermediate
        return {
            "q_proj": (h, self.query), "k_proj": (h, self.key_value),
            "v_proj": (h, self.key_value), "o_proj": (self.query, h),
            "gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h),
        }  # fmt: skip

    @property
    def projection_parameters(self) -> int:
        return self.layers * sum(a * b for a, b in self.projections.values())

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        return self.projection_parameters + self.embedding_parameters + norms

    def adapter_parameters(self, r: int, targets: tuple[str, ...]) -> int:
        sizes = [self.projections[name] for name in targets if name in self.projections]
        return self.layers * r * sum(a + b for a, b in sizes)

    def copied_parameters(self, modules: tuple[str, ...]) -> int:
        """Parameters of the modules that are trained whole, as copies."""
        wide = sum(name in ("embed_tokens", "lm_head") for name in modules)
        return wide * self.vocabulary * self.hidden

    @property
    def kept_per_token(self) -> int:
        """Values that one layer keeps per token for its backward pass."""
        return 3 * self.intermediate + 2 * self.query + 2 * self.key_value + 2 * self.hidden


def is_quantized(checkpoint: Path) -> bool:
    """Are the checkpoint's weights quantized already?"""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
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
    shape: Shape,
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
) -> TrainingMemory:
    """Peak of one step that computes `tokens` tokens at a time (examples x their length).

    `value_bytes` is the size of a computed value (2: bf16, 4: fp32). `checkpointing` and
    `kept_layers`, the layers that keep their activations all the same, default to the settings'.
    `offloaded`: the token embeddings wait in main memory. On a CPU it matters how many tokens the
    longest example has (`length`) and the mean one (`mean_length`; 0: they are all as long), and
    whether the layers are `compiled`.
    On a GPU the figure is torch's own, without the CUDA context.
    """
    cuda = device == "cuda"
    linear = _NF4_BYTES if four_bit else value_bytes
    embeddings = shape.embedding_parameters
    if offloaded:
        embeddings -= shape.vocabulary * shape.hidden
    weights = shape.projection_parameters * linear + embeddings * value_bytes
    optimizer = settings.optimizer
    if optimizer == "auto":
        optimizer = "adamw_8bit" if cuda else "adamw_torch"
    trained = shape.adapter_parameters(settings.r, settings.target_modules)
    trained += shape.copied_parameters(settings.modules_to_save)
    checkpointing = checkpointing or settings.gradient_checkpointing
    whole = settings.kept_layers if kept_layers is None else kept_layers
    whole = shape.layers if checkpointing == "false" else min(whole, shape.layers)
    # Offloaded, the inputs of the layers that are computed again wait in main memory.
    inputs = 0 if checkpointing == "unsloth" and cuda else (shape.layers - whole) * shape.hidden
    if cuda:
        kept = float(shape.kept_per_token * value_bytes)
        backward = _BACKWARD_FACTOR * kept
    else:
        kept, backward = _kept_on_cpu(shape, value_bytes, length, compiled=compiled)
    activations = tokens * (whole * kept + inputs * value_bytes + backward)
    if not cuda and mean_length:
        activations *= 1 + _PIECES * max(0.0, _EVEN_LENGTHS - mean_length / length)
    return TrainingMemory(
        weights=int(weights),
        adapter=trained * _TRAINED_BYTES[optimizer],
        activations=int(activations),
        libraries=0 if cuda else _CPU_LIBRARIES + (_COMPILER if compiled else 0),
    )


def _kept_on_cpu(
    shape: Shape, value_bytes: int, length: int, *, compiled: bool
) -> tuple[float, float]:
    """Bytes per token that a layer keeps, and that are alive beside that at the most: the logits,
    or what one layer computed backwards takes."""
    copies = _COMPILED_COPIES if compiled else _CPU_COPIES[value_bytes]
    kept = shape.kept_per_token * value_bytes * copies
    if length <= LONGEST_PLAIN:
        kept += _SCORE_BYTES * shape.heads * length
    return kept, max(_LOGIT_BYTES * shape.vocabulary, _BACKWARD_FACTOR * kept)


def largest_batch(available: float, memory_of_batch: Any) -> int:
    """The largest batch (0: not even one) whose memory, `memory_of_batch(batch)`, fits."""
    if memory_of_batch(1) > available:
        return 0
    batch = 1
    while batch < _LARGEST_BATCH and memory_of_batch(2 * batch) <= available:
        batch *= 2
    step = batch // 2
    while step:
        if memory_of_batch(batch + step) <= available:
            batch += step
        step //= 2
    return min(batch, _LARGEST_BATCH)


def merge_memory(shape: Shape) -> int:
    """Peak of the merge, which holds one tensor at a time, in fp32 with its update."""
    largest = max(shape.vocabulary * shape.hidden, shape.intermediate * shape.hidden)
    return _CPU_LIBRARIES // 2 + largest * 4 * 3


def serving_memory(shape: Shape, settings: ServeSettings, quantization: str) -> dict[str, int]:
    """Bytes of the served model: weights, KV cache for the whole context, compute buffers."""
    cache = sum(
        _CACHE_BYTES[kind] * settings.ctx * shape.layers * shape.key_value
        for kind in (settings.cache_type_k, settings.cache_type_v)
    )
    widest = max(shape.vocabulary, 2 * shape.intermediate)
    return {
        "weights": int(shape.parameters * _BITS_PER_WEIGHT[quantization] / 8),
        "kv_cache": int(cache),
        "compute": 4 * settings.micro_batch * (widest + 4 * shape.hidden),
    }
