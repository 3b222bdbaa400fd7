"""As fast as the memory allows: what to keep, what to recompute, how much to compute at a time.

The cost of a way to train is estimated in units of what a token costs when nothing is recomputed
and the base is in 16 bits. The figures are from steps of the Llama-8B shape on one H100; what they
say (which of two ways is faster) hangs on their ratios, which a smaller card shares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune.plan import Shape, TrainingMemory, training_memory
from tuneserve.settings import Recipe, TrainSettings

# Computing a layer's activations again, as a share of the whole step.
_RECOMPUTED = 0.35
# Unpacking 4-bit weights once (forward, recomputed or backward), in tokens' worth of computing.
_UNPACKED_TOKENS = 150
# A pass never takes less time than starting its kernels, in tokens' worth of computing, and what is
# computed again is started again. (H100, 8B, 4-bit: 0.20 s with nothing recomputed, 0.28 s with 12
# of 32 layers, against 70 us a token; a slower GPU is never kept waiting as long.)
_SHORTEST_PASS = 2900
_STARTED_AGAIN = 1.15
# A way that is slower by no more than this is taken if it needs less memory.
_NEAR = 0.01


@dataclass(frozen=True)
class Way:
    """A way to train: precision of the base, what is kept, and examples computed at a time.

    `kept_layers` of the model's `layers` keep their activations; the others compute them again
    from what `checkpointing` kept. `cost` has no unit: less is faster.
    """

    four_bit: bool
    checkpointing: str
    kept_layers: int
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
                "batch_size": self.micro_batch,
                "gradient_accumulation": self.accumulation,
            }
        )

    def describe(self) -> str:
        """The decisions in a clause."""
        kept = {
            "false": "all activations kept",
            "true": "activations recomputed",
            "unsloth": "activations recomputed, their inputs in main memory",
        }[self.checkpointing]
        if self.checkpointing != "false" and self.kept_layers:
            kept += f" (kept in {self.kept_layers} of {self.layers} layers)"
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
) -> Way:
    """The fastest way that fits into `available` bytes; the smallest one if none does.

    `lengths` are the examples' in tokens: the longest ones decide the peak. What the recipe
    settles stays as it is; the number of examples per optimizer step never changes.
    """
    longest = sorted(lengths, reverse=True)
    ways = []
    for four_bit, micro_batch in _open_choices(recipe, device):
        tokens = micro_batch * longest[0] if padded else sum(longest[:micro_batch])
        for checkpointing, kept_layers in _kept_choices(recipe.train, shape, device):
            memory = training_memory(
                shape, recipe.train, tokens=tokens, four_bit=four_bit, device=device,
                value_bytes=value_bytes, checkpointing=checkpointing, kept_layers=kept_layers,
            )  # fmt: skip
            recomputed = 1 - (kept_layers / shape.layers)
            ways.append(
                Way(
                    four_bit, checkpointing, kept_layers, micro_batch,
                    recipe.train.examples_per_step // micro_batch, shape.layers, memory,
                    _cost(recomputed, tokens, four_bit=four_bit),
                )
            )  # fmt: skip
    fitting = [way for way in ways if way.memory.total <= available]
    if not fitting:
        return min(ways, key=lambda way: way.memory.total)
    best = min(way.cost for way in fitting)
    near = [way for way in fitting if way.cost <= best * (1 + (_NEAR if device == "cuda" else 0))]
    return min(near, key=lambda way: (way.memory.total, way.cost))


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


def _cost(recomputed: float, tokens: int, *, four_bit: bool) -> float:
    """Time per token; `recomputed` is the share of layers whose activations are computed again."""
    unpacked = _UNPACKED_TOKENS * (2 + recomputed) if four_bit else 0.0
    computing = 1 + _RECOMPUTED * recomputed + unpacked / tokens
    return max(computing, _SHORTEST_PASS * (1 + _STARTED_AGAIN * recomputed) / tokens)
