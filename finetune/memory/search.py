"""The search for the memory strategy: the fastest way to train that fits into the memory.

A strategy says what is kept, what is recomputed and how many examples are computed at a time. Its
cost is estimated in units of what one token costs when nothing is recomputed and the base is in 16
bits. The constants are from steps of the Llama-8B shape on one H100. Which of two strategies is
faster follows from their ratios, which a smaller card shares.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BeforeValidator

from tuneserve.errors import UsageError
from tuneserve.finetune.memory.model import TrainingMemory, layers_backward, training_memory
from tuneserve.finetune.runtime.processes import process_count
from tuneserve.finetune.runtime.shards import parts
from tuneserve.finetune.tokens.sharing import Computed
from tuneserve.model_shape import ModelShape
from tuneserve.records import Record
from tuneserve.settings import Recipe, TrainSettings

# A pass (forward and backward) over a batch costs one unit for each of its tokens, and by this
# share more if the activations of all layers are computed again.
_RECOMPUTING = 0.35
# What a pass costs beside its tokens, whatever their number, in units:
# always;
_PASS_COST = 360
# with a 4-bit base, each time that all its weights are unpacked: in the forward pass, in the
# backward pass, and once more where activations are computed again;
_UNPACKING_COST = 35
# with the token embeddings in main memory, where the GPU waits until they are looked up.
_LOOK_UP_COST = 190
# A pass takes at least the time that starting its GPU kernels takes, however few tokens it has, and
# this share more if all layers are computed again. (H100, 8B, 4-bit: 0.20 s, or 0.28 s with 12 of
# 32 layers computed again, where a token takes 70 us. On a slower GPU, starting them counts for
# less.)
_STARTING_COST = 2900
_STARTING_AGAIN = 1.15
# A strategy that takes all of the memory must be faster by this share than one that takes none,
_MEMORY_GAIN = 0.05
# and one with a 4-bit base by this share than one that keeps the model's precision.
_FOUR_BIT_GAIN = 0.02


class Decisions(Record):
    """How training is fitted into the memory, by setting: `kept_layers` keep their activations; the
    others compute them again from what `gradient_checkpointing` kept. `offload_embeddings`: the
    token embeddings wait in main memory."""

    load_in_4bit: bool
    gradient_checkpointing: str
    kept_layers: int
    offload_embeddings: Annotated[bool, BeforeValidator(lambda setting: setting in (True, "true"))]
    batch_size: int
    gradient_accumulation: int

    @classmethod
    def of(cls, settings: TrainSettings, *, four_bit: bool) -> Self:
        """What these settings say."""
        given = settings.model_dump(include=set(cls.model_fields))
        return cls.model_validate({"load_in_4bit": four_bit, **given})

    def applied(self, settings: TrainSettings) -> TrainSettings:
        """The settings with these decisions in place of what was open."""
        offloaded = "true" if self.offload_embeddings else "false"
        decided = self.model_dump(exclude={"load_in_4bit"})
        return settings.model_copy(update={**decided, "offload_embeddings": offloaded})


@dataclass(frozen=True)
class MemoryStrategy:
    """Precision of the base, what is kept in memory, and how many examples are computed at a time.

    `backward`: how many of the `layers` are computed backward too. `compiled`: they are compiled
    (CPU). `cost` has no unit: less is faster. `divided`: among how many GPUs the base is.
    """

    decisions: Decisions
    layers: int
    backward: int
    compiled: bool
    memory: TrainingMemory
    cost: float
    divided: int = 1

    def describe(self) -> str:
        """The decisions in a clause."""
        chosen = self.decisions
        recomputed = chosen.gradient_checkpointing != "false"
        kept = "activations recomputed" if recomputed else "all activations kept"
        if recomputed and chosen.kept_layers:
            kept += f" (kept in {chosen.kept_layers} of {self.layers} layers)"
        waiting = ["their inputs"] if chosen.gradient_checkpointing == "unsloth" else []
        waiting += ["the token embeddings"] if chosen.offload_embeddings else []
        if waiting:
            kept += f", {' and '.join(waiting)} in main memory"
        if self.backward < self.layers:
            kept = f"the last {self.backward} of {self.layers} layers backward, {kept}"
        base = f"{'4' if chosen.load_in_4bit else '16'}-bit base"
        if self.divided > 1:
            base += f" divided among {self.divided} GPUs"
        batches = f"{chosen.batch_size} x {chosen.gradient_accumulation}"
        return f"{base}, {batches} examples a step, {kept}"


def search_strategy(
    shape: ModelShape,
    recipe: Recipe,
    lengths: Sequence[int],
    *,
    available: float,
    device: str,
    value_bytes: int = 2,
    padded: bool = False,
    compiled: bool = False,
    computed: Callable[[int], Computed] | None = None,
) -> MemoryStrategy:
    """The fastest strategy that fits into `available` bytes (of some that are about as fast, one
    that takes less memory or keeps the base in 16 bits); the smallest one if none fits.

    `lengths` are the examples' in tokens: the longest ones decide the peak. What the recipe
    settles stays as it is; the number of examples per optimizer step never changes. `compiled`:
    the layers are to be compiled (CPU); where they are computed again, only if the recipe says so.
    `computed` says what batches of so many examples compute where they share their beginnings.
    Raises UsageError for token embeddings that shall be offloaded and can't.
    """
    longest = sorted(lengths, reverse=True)
    mean = sum(lengths) / len(lengths)
    strategies = []
    compiled_anyhow = compiled and recipe.train.compile == "true"
    for (four_bit, size), (kind, layers), offloaded in itertools.product(
        _open_choices(recipe, device),
        _kept_choices(recipe.train, shape, device),
        _offload_choices(recipe.train, shape, device),
    ):
        tokens = size * longest[0] if padded else sum(longest[:size])
        length, mean_length = longest[0], float(mean)
        if computed is not None:
            batches = computed(size)
            tokens = batches.most_tokens
            # Attention is over an example's tokens all the same; how even the batches are is new.
            mean_length = length * batches.mean_tokens / tokens
        memory = training_memory(
            shape, recipe.train, tokens=tokens, four_bit=four_bit, device=device,
            value_bytes=value_bytes, checkpointing=kind, kept_layers=layers, offloaded=offloaded,
            length=length, mean_length=mean_length, compiled=compiled and kind == "false",
            divided=parts(recipe.train),
        )  # fmt: skip
        backward = layers_backward(recipe.train, shape.layers, kind)
        recomputed = max(0, backward - layers) / shape.layers
        cost = _cost(recomputed, tokens, four_bit=four_bit, offloaded=offloaded)
        if computed is not None:
            # The larger a batch is, the fewer tokens are computed for each of its examples.
            cost *= batches.mean_tokens / size
        decisions = Decisions(
            load_in_4bit=four_bit, gradient_checkpointing=kind, kept_layers=layers,
            offload_embeddings=offloaded, batch_size=size,
            gradient_accumulation=recipe.train.examples_per_step // size,
        )  # fmt: skip
        compiles = compiled_anyhow or (compiled and kind == "false")
        strategies.append(
            MemoryStrategy(
                decisions, shape.layers, backward, compiles, memory, cost, parts(recipe.train)
            )
        )
    fitting = [strategy for strategy in strategies if strategy.memory.total <= available]
    if not fitting:
        return min(strategies, key=lambda strategy: strategy.memory.total)

    def price(strategy: MemoryStrategy) -> float:
        memory = _MEMORY_GAIN * strategy.memory.total / available
        return strategy.cost * (
            1 + memory + (_FOUR_BIT_GAIN if strategy.decisions.load_in_4bit else 0)
        )

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


def _kept_choices(
    settings: TrainSettings, shape: ModelShape, device: str
) -> Iterator[tuple[str, int]]:
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


def _offload_choices(settings: TrainSettings, shape: ModelShape, device: str) -> tuple[bool, ...]:
    """Do the token embeddings wait in main memory? Raises UsageError if they shall and can't."""
    wanted = settings.offload_embeddings
    obstacle = _obstacle_to_offloading(settings, shape, device)
    if obstacle is None:
        return {"auto": (False, True), "true": (True,), "false": (False,)}[wanted]
    if wanted == "true":
        raise UsageError(obstacle, where="train.offload_embeddings")
    return (False,)


def _obstacle_to_offloading(settings: TrainSettings, shape: ModelShape, device: str) -> str | None:
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
    """Cost per token of a pass over `tokens` tokens; `recomputed` is the share of layers whose
    activations are computed again."""
    unpacking = _UNPACKING_COST * (2 + recomputed) if four_bit else 0.0
    looking_up = _LOOK_UP_COST if offloaded else 0.0
    computing = 1 + _RECOMPUTING * recomputed + (_PASS_COST + unpacking + looking_up) / tokens
    return max(computing, _STARTING_COST * (1 + _STARTING_AGAIN * recomputed) / tokens)
