"""A batch as a tree of shared beginnings, each computed once: as tensors, its loss, and the check
that loss and gradients are those of the examples alone. Import it late: it takes torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tuneserve.finetune.memory.model import LONGEST_PLAIN
from tuneserve.finetune.runtime import flex_tree, tree_attention
from tuneserve.finetune.runtime.flex_tree import TREE, FlexTree
from tuneserve.finetune.runtime.trained_rows import TrainedRows
from tuneserve.finetune.runtime.tree_attention import CHUNKS, Chunks
from tuneserve.finetune.tokens.encoder import IGNORED
from tuneserve.finetune.tokens.prefix_tree import PrefixTree, prefix_tree
from tuneserve.finetune.tokens.sharing import LONGEST_CHUNKED, RowCosts

SHARED = "shared_prefixes"
"""The key of a batch under which its tree is."""
ENDS = "ends"
Collate = Callable[[Sequence[Any]], dict[str, Any]]
"""Examples (input_ids and labels) to a batch."""
TreeAttention = Literal["chunks", "mask", "additive", "flex"]
"""How attention sees a tree: by chunks of transformers' `sdpa`, by a mask over the whole row (of
booleans, or added to the scores), or by FlexAttention (Unsloth, GPU)."""
# Queries of a chunk, and the share of a row's pairs of tokens below which chunks are worth it.
_CHUNK_SIZES = (16, 32, 64, 128)
_WORTH_CHUNKS = 0.75
_COUNT_UNIT, _KEYS_UNIT = 4, 16
_LOOKED_AT = 64  # batches, in search of one that is a tree
# What rounding may change of the loss and of the gradient's norm, as a share of them. (Measured on
# 135M parameters: 3e-6 and 4e-6 in fp32, 0.035 and 0.06 in bf16. A GPU's kernels multiply fp32 as
# TF32: 2e-5 and 3e-3.)
_TOLERANCE = {
    "fp32": (1e-4, 1e-4), "tf32": (1e-3, 0.02), "bf16": (0.1, 0.2), "fp16": (0.1, 0.2),
}  # fmt: skip


class SharingCollator:
    """Lays the examples of a batch out as a tree where that is cheaper than padding them.

    The batch stays what `plain` makes of it: tokens are counted and examples named by that.
    """

    def __init__(self, plain: Collate, costs: RowCosts, attention: TreeAttention) -> None:
        self.plain, self.costs, self.attention = plain, costs, attention
        self.active = True
        if attention == "flex":
            flex_tree.install()
        else:
            tree_attention.install()

    def __call__(self, features: Sequence[Any]) -> dict[str, Any]:
        batch = self.plain(features)
        if self.active:
            tree = prefix_tree((f["input_ids"], f["labels"]) for f in features)
            lengths = [len(f["input_ids"]) for f in features]
            if tree.rows and self.costs.is_less(len(tree), lengths):
                batch[SHARED] = self.tensors(tree)
        return batch

    def tensors(self, tree: PrefixTree) -> dict[str, Any]:
        """What the loss takes: the row [1, length] with its positions, and the trained pairs [n];
        with its mask [1, 1, length, length], or where a tree ends [length] for FlexAttention."""
        length = self.costs.padded(len(tree))
        rest = length - len(tree)
        # What fills the row sees itself alone, and nothing sees it.
        ends = torch.cat([torch.tensor(tree.ends), torch.arange(len(tree), length) + 1])
        return {
            "input_ids": torch.tensor([tree.ids + [0] * rest]),
            "position_ids": torch.tensor([tree.positions + [0] * rest]),
            "places": torch.tensor(tree.rows),
            "targets": torch.tensor(tree.targets),
            "weights": torch.tensor(tree.weights, dtype=torch.float32),
            **({ENDS: ends} if self.attention == "flex" else self._masked(tree, ends)),
        }

    def _masked(self, tree: PrefixTree, ends: torch.Tensor) -> dict[str, Any]:
        places = torch.arange(len(ends))
        chunks = chunks_of(tree, len(ends)) if self.attention == "chunks" else None
        seen = (places[:, None] >= places) & (places[:, None] < ends)
        mask: Any = seen
        if self.attention == "additive":
            lowest = torch.finfo(torch.float32).min
            mask = torch.zeros(seen.shape).masked_fill(~seen, lowest)
        return {
            "attention_mask": mask[None, None],
            **({CHUNKS: chunks._asdict()} if chunks is not None else {}),
        }


def chunks_of(tree: PrefixTree, length: int) -> Chunks | None:
    """The row's places as chunks, in the size with the fewest pairs of tokens; None where a mask
    over the whole row has about as few, or examples are long."""
    seen = max(tree.positions) + 1
    if seen > LONGEST_CHUNKED:
        return None
    ends = torch.tensor(tree.ends)
    positions = torch.tensor(tree.positions)
    # A place that nothing continues ends a run.
    borders = (ends == torch.arange(1, len(tree) + 1)).nonzero().flatten().tolist()
    best: tuple[int, int, list[tuple[int, int]]] | None = None
    for size in _CHUNK_SIZES:
        parts, start = [], 0
        for border in borders:
            parts += [(n, min(n + size, border + 1)) for n in range(start, border + 1, size)]
            start = border + 1
        pairs = len(parts) * size * seen
        if best is None or pairs < best[0]:
            best = pairs, size, parts
    if best is None or best[0] > _WORTH_CHUNKS * length * length:
        return None
    _, size, parts = best
    # Few different shapes: oneDNN makes kernels for each that it meets.
    count, seen = len(parts), -(-seen // _KEYS_UNIT) * _KEYS_UNIT
    parts += [(0, 1)] * (-count % _COUNT_UNIT)
    first = torch.tensor([part[0] for part in parts])[:, None]
    last = torch.tensor([part[1] for part in parts])[:, None] - 1
    queries = torch.minimum(first + torch.arange(size), last)
    keys = torch.zeros(len(parts), seen, dtype=torch.long)
    places = torch.arange(len(tree))
    for number, place in enumerate(last.flatten().tolist()):
        beginning = places[: place + 1][ends[: place + 1] > place]
        keys[number, : len(beginning)] = beginning
    hidden = torch.arange(seen) > positions[queries][..., None]
    order = torch.zeros(length, dtype=torch.long)
    inside = first + torch.arange(size) <= last
    inside[count:] = False
    order[queries[inside]] = torch.arange(queries.numel()).view(queries.shape)[inside]
    return Chunks(queries.flatten(), keys.flatten(), hidden, order)


def shared_loss(trained: TrainedRows, model: Any, shared: dict[str, Any], items: Any) -> Any:
    """The loss of a tree, divided by `items`, or where that is None by its trained tokens.

    Raises CannotShareError if the model's attention takes no tree.
    """
    inputs = {name: shared[name] for name in ("input_ids", "position_ids")}
    if ENDS in shared:
        return _flex_loss(trained, model, shared, inputs, items)
    inputs["attention_mask"] = shared["attention_mask"]
    kernels: Any = nullcontext()
    if CHUNKS in shared:
        inputs[CHUNKS] = Chunks(**shared[CHUNKS])
    elif inputs["input_ids"].shape[1] > LONGEST_PLAIN:
        # A row may be longer than the examples that plain attention was chosen for.
        kernels = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    with kernels:
        found = trained.log_probs(model, shared["places"], shared["targets"], **inputs)
    weights = shared["weights"]
    return -(found * weights).sum() / (weights.sum() if items is None else items)


def _flex_loss(
    trained: TrainedRows, model: Any, shared: dict[str, Any], inputs: dict[str, Any], items: Any
) -> Any:
    # The fused output layer weighs all tokens alike: one that counts n times stands there n times.
    times = shared["weights"].long()
    places, targets = (shared[name].repeat_interleave(times) for name in ("places", "targets"))
    # A label is of the row before it: the first one of none, and behind the last row is none.
    rows = torch.cat([places, places[-1:]])
    labels = torch.cat([targets.new_tensor([IGNORED]), targets])
    tree = FlexTree(shared[ENDS])
    # Evaluation would keep keys and values.
    given = {**inputs, TREE: tree, "use_cache": False}
    loss = trained.loss(model, rows, labels, len(targets) if items is None else items, **given)
    if tree.uses < trained.layers:
        raise CannotShareError(f"{tree.uses} of its {trained.layers} layers took the tree")
    return loss


class CannotShareError(Exception):
    """A model does not take a tree."""


@dataclass(frozen=True)
class Difference:
    """How far two ways to compute a batch are apart, as a share of its loss and of the norm of its
    gradient."""

    loss: float
    gradient: float

    def within(self, precision: str) -> bool:
        """Is this what rounding does?"""
        # NaN is within nothing.
        loss, gradient = _TOLERANCE[precision]
        return self.loss <= loss and self.gradient <= gradient

    def __str__(self) -> str:
        return f"the loss by {self.loss:.1e}, the gradient by {self.gradient:.1e}"


def obstacle_found(trainer: Any, precision: str) -> str | None:
    """What comes out otherwise where beginnings are shared; None if nothing does. A model that does
    not take chunks gets a mask over the whole row."""
    collate = trainer.data_collator
    ways: tuple[TreeAttention, ...] = (collate.attention,)
    if collate.attention == "flex" and precision == "fp32":
        precision = "tf32"
    if collate.attention == "chunks":
        ways = ("chunks", "mask")
    told = None
    for collate.attention in ways:
        try:
            found = first_difference(trainer)
        except CannotShareError as error:
            told = f"this model does not compute shared beginnings ({error})"
            continue
        if found is None or found.within(precision):
            return None
        told = f"where beginnings are shared, this model's first batch differs: {found}"
    return told


def first_difference(trainer: Any) -> Difference | None:
    """How the first of the epoch's batches that is laid out as a tree differs from its examples;
    None if there is none."""
    sampler, dataset = trainer._get_train_sampler(), trainer.train_dataset
    order = list(sampler)
    size = trainer.args.per_device_train_batch_size
    for start in range(0, min(len(order), _LOOKED_AT * size), size):
        features = [dataset[place] for place in order[start : start + size]]
        if (found := difference(trainer, features)) is not None:
            return found
    return None


def difference(trainer: Any, features: Sequence[Any]) -> Difference | None:
    """How the tree of these examples differs from each of them computed alone. None where they are
    not laid out as a tree, or their loss is no number. The gradients are gone afterwards.

    Raises CannotShareError if the model can't compute a tree.
    """
    collate = trainer.data_collator
    batch = collate(features)
    if SHARED not in batch:
        return None
    items = int(batch[SHARED]["weights"].sum())
    model = trainer.model
    was_training = model.training
    model.train()
    # All of one length: oneDNN compiles kernels for each that it meets, and the layers need none.
    length = collate.costs.padded(max(len(feature["input_ids"]) for feature in features))
    with torch.compiler.set_stance("force_eager"):
        alone = _summed(trainer, [_alone(feature, length) for feature in features], items)
    if not math.isfinite(alone[0]):
        return None  # the first step tells of it
    try:
        shared = _summed(trainer, [batch], items)
    except (torch.OutOfMemoryError, CannotShareError):
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        raise CannotShareError(str(error).splitlines()[0] if str(error) else repr(error)) from error
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
    return Difference(
        abs(shared[0] - alone[0]) / abs(alone[0]),
        float((shared[1] - alone[1]).norm() / alone[1].norm()),
    )


def _alone(feature: Any, length: int) -> dict[str, Any]:
    """An example as a batch, filled up to `length`."""
    rest = length - len(feature["input_ids"])
    return {
        "input_ids": torch.tensor([feature["input_ids"] + [0] * rest]),
        "labels": torch.tensor([feature["labels"] + [IGNORED] * rest]),
        "attention_mask": torch.tensor([[1] * len(feature["input_ids"]) + [0] * rest]),
    }


def _summed(trainer: Any, batches: Sequence[dict[str, Any]], items: int) -> tuple[float, Any]:
    """The loss and the gradient, [trained parameters], of batches with `items` trained tokens."""
    model = trainer.model
    total = 0.0
    for batch in batches:
        if not _trains(batch):
            continue
        inputs = trainer._prepare_inputs(batch)
        with trainer.accelerator.autocast(), trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, inputs, num_items_in_batch=torch.tensor(items))
        loss.backward()
        total += float(loss.detach())
    gradients = [
        (torch.zeros_like(p) if p.grad is None else p.grad).float().flatten()
        for p in model.parameters()
        if p.requires_grad
    ]
    model.zero_grad(set_to_none=True)
    return total, torch.cat(gradients)


def _trains(batch: dict[str, Any]) -> bool:
    return bool((batch["labels"][:, 1:] != IGNORED).any())
