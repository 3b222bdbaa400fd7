"""As fast as the memory allows: what to keep, what to recompute, how much to compute at a time.

The cost of a way to train is estimated in units of what a token costs when nothing is recomputed
and the base is in 16 bits. The figures are from steps of the Llama-8B shape on one H100; what they
say (which of two ways is faster) hangs on their ratios, which a smaller card shares.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tuneserve.errors import UsageError
from tuneserve.finetune.memory.model import Shape, TrainingMemory, training_memory
from tuneserve.finetune.runtime.processes import process_count
from tuneserve.settings import Recipe, TrainSettings

# Computing a layer's activations again, as a share of the whole step.
_RECOMPUTED = 0.35
# What a pass costs however few tokens it computes, in tokens' worth of computing; on top of it for
# 4-bit weights, unpacking them once (forward, recomputed or backward); and looking embeddings up in
# main memory, for which the GPU waits.
_PASS_TOKENS = 360
_UNPACKED_TOKENS = 35
_LOOKED_UP_TOKENS = 190
# A pass never takes less time than starting its kernels, in tokens' worth of computing, and what is
# computed again is started again. (H100, 8B, 4-bit: 0.20 s with nothing recomputed, 0.28 s with 12
# of 32 layers, against 70 us a token; a slower GPU is never kept waiting as long.)
_SHORTEST_PASS = 2900
_STARTED_AGAIN = 1.15
# A way that takes all of the memory has to be faster by this share than one that takes none, and
# one with a 4-bit base by this than one that keeps the model's precision.
_MEMORY_GAINS = 0.05
_FOUR_BIT_GAINS = 0.02


@dataclass(frozen=True)
class Way:
    """A way to train: precision of the base, what is kept, and examples computed at a time.

    `kept_layers` of the model's `layers` keep their activations; the others compute them again
    from what `checkpointing` kept. `offloaded`: the token embeddings wait in main memory. `cost`
    has no unit: less is faster.
    """

    four_bit: bool
    checkpointing: str
    kept_layers: int
    offloaded: bool
    micro_batch: int
    accumulation: int
    layers: int
    memory: TrainingMemory
    cost: float

    def applied(self, settings: TrainSettings) -> TrainSettings:
        """The settings with this way's decisions in place of what was open."""
        return settings.model_copy(
            update={
                "gradient_checkpointing": self.checkpointing,
                "kept_layers": self.kept_layers,
                "offload_embeddings": "true" if self.offloaded else "false",
                "batch_size": self.micro_batch,
                "gradient_accumulation": self.accumulation,
            }
        )

    def describe(self) -> str:
        """The decisions in a clause."""
        kept = "all activations kept" if self.checkpointing == "false" else "activations recomputed"
        if self.checkpointing != "false" and self.kept_layers:
            kept += f" (kept in {self.kept_layers} of {self.layers} layers)"
        waiting = ["their inputs"] if self.checkpointing == "unsloth" else []
        waiting += ["the token embeddings"] if self.offloaded else []
        if waiting:
            kept += f", {' and '.join(waiting)} in main memory"
        bits = "4-bit" if self.four_bit else "16-bit"
        return f"{bits} base, {self.micro_batch} x {self.accumulation} examples a step, {kept}"


def choose(
    shape: Shape,
    recipe: Recipe,
    lengths: Sequence[int],
    *,
    available: float,
    device: str,
    value_bytes: int = 2,
    padded: bool = False,
    compiled: bool = False,
) -> Way:
    """The fastest way that fits into `available` bytes (of ways that are about as fast, one that
    takes less memory or keeps the base in 16 bits); the smallest one if none fits.

    `lengths` are the examples' in tokens: the longest ones decide the peak. What the recipe
    settles stays as it is; the number of examples per optimizer step never changes. `compiled`:
    layers are compiled where nothing is recomputed (CPU).
    Raises UsageError for token embeddings that shall be offloaded and can't.
    """
    longest = sorted(lengths, reverse=True)
    mean = sum(lengths) / len(lengths)
    ways = []
    for (four_bit, size), (kind, layers), offloaded in itertools.product(
        _open_choices(recipe, device),
        _kept_choices(recipe.train, shape, device),
        _offload_choices(recipe.train, shape, device),
    ):
        tokens = size * longest[0] if padded else sum(longest[:size])
        memory = training_memory(
            shape, recipe.train, tokens=tokens, four_bit=four_bit, device=device,
            value_bytes=value_bytes, checkpointing=kind, kept_layers=layers, offloaded=offloaded,
            length=longest[0], mean_length=mean, compiled=compiled and kind == "false",
        )  # fmt: skip
        cost = _cost(1 - layers / shape.layers, tokens, four_bit=four_bit, offloaded=offloaded)
        times = recipe.train.examples_per_step // size
        ways.append(Way(four_bit, kind, layers, offloaded, size, times, shape.layers, memory, cost))
    fitting = [way for way in ways if way.memory.total <= available]
    if not fitting:
        return min(ways, key=lambda way: way.memory.total)

    def price(way: Way) -> float:
        memory = _MEMORY_GAINS * way.memory.total / available
        return way.cost * (1 + memory + (_FOUR_BIT_GAINS if way.four_bit else 0))

    return min(fitting, key=price)


def _open_choices(recipe: Recipe, device: str) -> Iterator[tuple[bool, int]]:
    """(4-bit base?, examples computed at a time), as far as the recipe leaves them open."""
    settings = recipe.train
    automatic = settings.speed == "auto"
    wanted = recipe.model.load_in_4bit
    bits = (False, True) if wanted is None and automatic and device == "cuda" else (bool(wanted),)
    # What training is made of: it never changes.
    whole = settings.examples_per_step
    # A CPU gains nothing from computing more at a time than it was told to.
    most = whole if device == "cuda" else settings.batch_size
    sizes = [size for size in range(1, most + 1) if whole % size == 0]
    for four_bit in bits:
        for size in sizes if automatic else [settings.batch_size]:
            yield four_bit, size


def _kept_choices(settings: TrainSettings, shape: Shape, device: str) -> Iterator[tuple[str, int]]:
    """(gradient checkpointing, layers that keep their activations all the same)."""
    wanted = settings.gradient_checkpointing
    if wanted == "false":
        yield "false", shape.layers
        return
    if wanted != "auto":
        yield wanted, settings.kept_layers
        return
    yield "false", shape.layers
    if device == "cpu":
        yield "true", 0
        return
    # Offloading takes no more time than plain checkpointing, and less memory.
    for layers in range(settings.kept_layers, shape.layers):
        yield "unsloth", layers


def _offload_choices(settings: TrainSettings, shape: Shape, device: str) -> tuple[bool, ...]:
    """Do the token embeddings wait in main memory? Raises UsageError if they shall and can't."""
    wanted = settings.offload_embeddings
    obstacle = _obstacle_to_offloading(settings, shape, device)
    if obstacle is None:
        return {"auto": (False, True), "true": (True,), "false": (False,)}[wanted]
    if wanted == "true":
        raise UsageError(obstacle, where="train.offload_embeddings")
    return (False,)


def _obstacle_to_offloading(settings: TrainSettings, shape: Shape, device: str) -> str | None:
    if device != "cuda":
        return "there is no GPU whose memory this would save"
    if shape.tied:
        return "this base's output layer shares the token embeddings"
    if "embed_tokens" in settings.modules_to_save:
        return "the token embeddings are trained (modules_to_save)"
    if process_count() > 1:
        return "several processes can't train a model that is divided"
    return None


def _cost(recomputed: float, tokens: int, *, four_bit: bool, offloaded: bool) -> float:
    """Time per token; `recomputed` is the share of layers whose activations are computed again."""
    unpacked = _UNPACKED_TOKENS * (2 + recomputed) if four_bit else 0.0
    looked_up = _LOOKED_UP_TOKENS if offloaded else 0.0
    computing = 1 + _RECOMPUTED * recomputed + (_PASS_TOKENS + unpacked + looked_up) / tokens
    return max(computing, _SHORTEST_PASS * (1 + _STARTED_AGAIN * recomputed) / tokens)
