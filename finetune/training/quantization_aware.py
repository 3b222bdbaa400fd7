"""Quantization-aware tuning: the adapter is trained on the weights as the GGUF will hold them.

With Q the quantizer, W the base and D = scale * B A the update of a matrix, what is served computes
with Q(W + D). So from time to time the frozen base is set to Q(W + D) - D: the model then computes
exactly what is served, and the gradient of the adapter is the straight-through estimate (Bengio et
al. 2013). Between two such moments the adapter moves and the rounding error stays where it was.
Q is the quantizer that writes the file, so that training and serving round to the same grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.errors import UsageError
from tuneserve.settings import Recipe


def rounding_recipe(recipe: Recipe) -> Recipe:
    """The recipe with what quantization-aware tuning leaves no choice of: the base in 16 bits.

    Raises UsageError for settings under which the file would not be what training computes with.
    """
    train = recipe.train
    if not train.quantization_aware:
        return recipe
    tables = [name for name in train.modules_to_save if name in ("embed_tokens", "lm_head")]
    problems = {
        "model.load_in_4bit = true": bool(recipe.model.load_in_4bit),
        "train.use_dora = true": train.use_dora,
        f"train.modules_to_save = {tables}": bool(tables),
        "convert.imatrix = true (the matrix is measured after training)": recipe.convert.imatrix,
    }
    wrong = [text for text, is_wrong in problems.items() if is_wrong]
    if wrong:
        raise UsageError(
            "what is served can't be what is trained with these settings",
            where="train.quantization_aware",
            problems=wrong,
        )
    model = recipe.model.model_copy(update={"load_in_4bit": False})
    return recipe.model_copy(update={"model": model})


class StoredWeights(Protocol):
    """The base's matrices as the file of a quantization holds them (convert.rounding)."""

    quantization: str
    types: dict[str, str]

    def slabs(self, name: str, update: Any) -> Iterator[tuple[int, int, Floats]]:
        """(start, stop, rows [start, stop) of base plus update as stored)."""


@dataclass(frozen=True)
class LowRankUpdate:
    """D = scale * `b` [rows, r] times `a` [r, columns], float32."""

    a: Floats
    b: Floats
    scale: float

    def rows(self, start: int, stop: int) -> Floats:
        product: Floats = np.float32(self.scale) * (self.b[start:stop] @ self.a)
        return product


class RoundedBase:
    """The frozen weights of a model with an adapter, kept at what the file would hold."""

    def __init__(self, model: Any, stored: StoredWeights) -> None:
        """Raises UsageError if a matrix of the file is not among the model's weights, or is not in
        16 or 32 bits."""
        self._stored = stored
        self._layers = _layers(model)
        self._rounded_once: set[str] = set()
        strange = [
            name
            for name in stored.types
            if name not in self._layers or not self._layers[name].weight.is_floating_point()
        ]
        if strange:
            raise UsageError(
                f"{len(strange)} matrices can't be rounded while training",
                where="train.quantization_aware",
                problems=strange,
                hint="It needs a base in 16 bits: load_in_4bit = false.",
            )

    def refresh(self) -> None:
        """Make the model compute with base plus adapter as the file would hold them now."""
        import torch

        for name in self._stored.types:
            layer = self._layers[name]
            update = layer.update()
            if update is None and name in self._rounded_once:
                continue
            with torch.no_grad():
                for start, stop, values in self._stored.slabs(name, update):
                    if update is not None:
                        values -= update.rows(start, stop)
                    layer.weight[start:stop].copy_(torch.from_numpy(values))
            self._rounded_once.add(name)


@dataclass(frozen=True)
class _Layer:
    """A frozen weight and, if it has one, the module that adapts it."""

    weight: Any
    adapted: Any = None

    def update(self) -> LowRankUpdate | None:
        if self.adapted is None:
            return None
        (name,) = self.adapted.lora_A.keys()
        a, b = (
            factor[name].weight.detach().float().cpu().numpy()
            for factor in (self.adapted.lora_A, self.adapted.lora_B)
        )
        return LowRankUpdate(a, b, float(self.adapted.scaling[name]))


def _layers(model: Any) -> dict[str, _Layer]:
    """The weights of a PEFT model by the names that the base's checkpoint has for them."""
    from peft.tuners.lora import LoraLayer

    adapted = {
        f"{name}.base_layer": module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    layers = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        module, _, leaf = name.rpartition(".")
        if leaf == "weight":
            plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            layers[plain] = _Layer(parameter, adapted.get(module))
    return layers
