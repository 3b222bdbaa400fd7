"""Mixtures of experts: the parameters that transformers stacks, and what a checkpoint stores.

transformers computes with one parameter for all experts of a layer, `experts.gate_up_proj`
[experts, 2 * intermediate, hidden] and `experts.down_proj` [experts, hidden, intermediate]. Most
checkpoints store a matrix for each expert and projection instead, some the parameters themselves.
An adapter names the parameters (PEFT's `target_parameters`), a merge needs the stored tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tuneserve.arrays import Floats

# The matrices of one expert that make up a parameter, in the order of its rows. Mixtral and LFM2
# number them.
_MATRICES = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
# Granite's names for the parameters.
_WHOLE = {"gate_up_proj": "input_linear.weight", "down_proj": "output_linear.weight"}


@dataclass(frozen=True)
class Part:
    """Rows [first, last) of each expert's matrix in a parameter: what the tensor `name` stores;
    `expert` is None where it stores them for all experts."""

    name: str
    expert: int | None
    first: int
    last: int


@dataclass(frozen=True)
class ExpertParameter:
    """A stacked parameter: `shape` (experts, rows, columns) and the stored tensors it is made of.

    `transposed`: its rows are the inputs (gpt-oss), not the outputs, of the layer.
    """

    shape: tuple[int, int, int]
    parts: tuple[Part, ...]
    transposed: bool = False

    def span(self, number: int) -> tuple[int, int]:
        """The rows of one matrix, of all matrices' rows together."""
        rows = self.shape[1]
        return number * rows, (number + 1) * rows

    def spans(self, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
        """The stored rows that rows [start, stop) of all experts' rows together are, in order, as
        (tensor, first, last): rows of an expert's own tensor, or of all experts' rows of it."""
        _, rows, _ = self.shape
        for expert in range(start // rows, -(-stop // rows)):
            offset = expert * rows
            for part in self.parts:
                if part.expert is not None and part.expert != expert:
                    continue
                first = max(start, offset + part.first) - offset
                last = min(stop, offset + part.last) - offset
                if first < last:
                    move = offset if part.expert is None else -part.first
                    yield part.name, first + move, last + move


def stored_name(name: str, known: Container[str]) -> str:
    """What a checkpoint with tensors of these names calls the tensor that is `name` in
    transformers."""
    others = (
        name.replace(".mlp.", ".block_sparse_moe."),  # Mixtral
        name.replace(".router.weight", ".router.layer.weight"),  # Granite
    )
    return next((other for other in (name, *others) if other in known), name)


def expert_parameter(
    name: str, shapes: Mapping[str, tuple[int, ...]], *, transposed: bool = False
) -> ExpertParameter | None:
    """The parameter that transformers calls `name`, of a checkpoint whose tensors have these
    `shapes`; None if it is no stacked parameter of it."""
    module, _, leaf = name.rpartition(".")
    if leaf not in _MATRICES:
        return None
    parent = module.rpartition(".")[0]
    for whole in (name, f"{name}.weight", f"{parent}.{_WHOLE[leaf]}"):
        shape = shapes.get(whole, ())
        if len(shape) == 3:
            return ExpertParameter(
                (shape[0], shape[1], shape[2]), (Part(whole, None, 0, shape[1]),), transposed
            )
    for folder in (module, f"{parent.rpartition('.')[0]}.block_sparse_moe.experts"):
        for leaves in _MATRICES[leaf]:
            if f"{folder}.0.{leaves[0]}.weight" in shapes:
                return _of_matrices(folder, leaves, shapes)
    return None


def _of_matrices(
    folder: str, leaves: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]]
) -> ExpertParameter:
    parts: list[Part] = []
    experts = rows = columns = 0
    while f"{folder}.{experts}.{leaves[0]}.weight" in shapes:
        rows = 0
        for leaf in leaves:
            name = f"{folder}.{experts}.{leaf}.weight"
            height, columns = shapes[name]
            parts.append(Part(name, experts, rows, rows + height))
            rows += height
        experts += 1
    return ExpertParameter((experts, rows, columns), tuple(parts))


@dataclass(frozen=True)
class StackedLowRank:
    """The change of all experts' matrices: expert e's is `b[e]` [rows, r] times `a[e]`
    [r, columns], times `scale`."""

    a: Floats
    b: Floats
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.b.shape[:2], self.a.shape[2])

    @property
    def rank(self) -> int:
        return int(self.a.shape[1])

    def apply(self, values: Floats, start: int, stop: int) -> Floats:
        """Rows [start, stop) of all experts' rows together with the change in them."""
        rows = self.b.shape[1]
        result = np.empty_like(values)
        for expert in range(start // rows, -(-stop // rows)):
            offset = expert * rows
            first, last = max(start, offset), min(stop, offset + rows)
            here = slice(first - start, last - start)
            low = self.b[expert, first - offset : last - offset]
            result[here] = values[here] + np.float32(self.scale) * (low @ self.a[expert])
        return result


def stacked_change(
    parameter: ExpertParameter, a: Floats, b: Floats, scale: float
) -> StackedLowRank | None:
    """PEFT's factors `a` [experts * r, inputs] and `b` [outputs, r * experts] of a parameter as
    the change of its rows; None if they don't fit it.

    (`lora.ParamWrapper`: a's rows are grouped by expert, b's columns by rank.)
    """
    experts, rows, columns = parameter.shape
    sides = (columns, rows) if not parameter.transposed else (rows, columns)
    if (a.shape[1], b.shape[0]) != sides or len(a) % experts or len(a) != b.shape[1]:
        return None
    inputs = a.reshape(experts, -1, a.shape[1])
    outputs = b.reshape(len(b), -1, experts).transpose(2, 0, 1)
    if parameter.transposed:
        inputs, outputs = outputs.transpose(0, 2, 1), inputs.transpose(0, 2, 1)
    return StackedLowRank(np.ascontiguousarray(inputs), np.ascontiguousarray(outputs), scale)


def read_parameter(
    parameter: ExpertParameter, rows: Callable[[str, int, int], Floats], start: int, stop: int
) -> Floats:
    """Rows [start, stop) of all matrices' rows of a parameter; `rows(name, start, stop)` reads a
    stored tensor's."""
    pieces = [rows(name, first, last) for name, first, last in parameter.spans(start, stop)]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
