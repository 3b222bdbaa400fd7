"""A batch as a tree of shared beginnings, each computed once: as tensors, its loss, and the check
that loss and gradients are those of the examples alone. Import it late: it takes torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tuneserve.finetune.runtime.trained_rows import TrainedRows
from tuneserve.finetune.tokens.prefix_tree import PrefixTree, prefix_tree
from tuneserve.finetune.tokens.sharing import RowCosts

SHARED = "shared_prefixes"
"""The key of a batch under which its tree is."""
Collate = Callable[[Sequence[Any]], dict[str, Any]]
"""Examples (input_ids and labels) to a batch."""
# What rounding may change, as a share of the loss and of the gradient's norm.
_LOOKED_AT = 64  # batches, in search of one that is a tree
_TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}


class SharingCollator:
    """Lays the examples of a batch out as a tree where that is cheaper than padding them.

    The batch stays what `plain` makes of it: tokens are counted and examples named by that.
    """

    def __init__(self, plain: Collate, costs: RowCosts, *, additive_mask: bool) -> None:
        self.plain, self.costs = plain, costs
        self.additive_mask = additive_mask
        self.active = True

    def __call__(self, features: Sequence[Any]) -> dict[str, Any]:
        batch = self.plain(features)
        if self.active:
            tree = prefix_tree((f["input_ids"], f["labels"]) for f in features)
            longest = max(len(f["input_ids"]) for f in features)
            if tree.rows and self.costs.is_less(len(tree), len(features), longest):
                batch[SHARED] = self.tensors(tree)
        return batch

    def tensors(self, tree: PrefixTree) -> dict[str, Any]:
        """What the loss takes: the row [1, length] with its positions and mask [1, 1, length,
        length], and the trained pairs [n]."""
        length = self.costs.padded(len(tree))
        rest = length - len(tree)
        places = torch.arange(length)
        # What fills the row sees itself alone, and nothing sees it.
        ends = torch.cat([torch.tensor(tree.ends), places[len(tree) :] + 1])
        seen = (places[:, None] >= places) & (places[:, None] < ends)
        mask: Any = seen
        if self.additive_mask:
            lowest = torch.finfo(torch.float32).min
            mask = torch.zeros(length, length).masked_fill(~seen, lowest)
        return {
            "input_ids": torch.tensor([tree.ids + [0] * rest]),
            "position_ids": torch.tensor([tree.positions + [0] * rest]),
            "attention_mask": mask[None, None],
            "places": torch.tensor(tree.rows),
            "targets": torch.tensor(tree.targets),
            "weights": torch.tensor(tree.weights, dtype=torch.float32),
        }


def shared_loss(trained: TrainedRows, model: Any, shared: dict[str, Any], items: Any) -> Any:
    """The loss of a tree, divided by `items`, or where that is None by its trained tokens."""
    inputs = {name: shared[name] for name in ("input_ids", "position_ids", "attention_mask")}
    found = trained.log_probs(model, shared["places"], shared["targets"], **inputs)
    weights = shared["weights"]
    return -(found * weights).sum() / (weights.sum() if items is None else items)


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
        return all(value <= _TOLERANCE[precision] for value in (self.loss, self.gradient))

    def __str__(self) -> str:
        return f"the loss by {self.loss:.1e}, the gradient by {self.gradient:.1e}"


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
    """How the tree of these examples differs from each of them computed alone, without padding or
    a mask of ours. None where they are not laid out as a tree. The gradients are gone afterwards.

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
    # The examples alone are of many lengths: no kernels are compiled for them.
    with torch.compiler.set_stance("force_eager"):
        alone = _summed(trainer, [_alone(feature) for feature in features], items)
    try:
        shared = _summed(trainer, [batch], items)
    except torch.OutOfMemoryError:
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


def _alone(feature: Any) -> dict[str, Any]:
    ids, labels = (torch.tensor([feature[name]]) for name in ("input_ids", "labels"))
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


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
    return bool((batch["labels"][:, 1:] >= 0).any())
