"""Stacks of matrices in a GGUF: which part of what parameter of transformers' each of them is.

A GGUF has the gate, up and down matrices of all experts of a block as three tensors [experts, rows,
columns]; transformers has gate and up in one parameter, and in some models all of them transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Cut = Callable[[Mapping[str, Any], int, int], tuple[slice, slice]]
EVERYTHING = slice(None)


def whole(config: Mapping[str, Any], rows: int, columns: int) -> tuple[slice, slice]:
    return EVERYTHING, EVERYTHING


def first_rows(config: Mapping[str, Any], rows: int, columns: int) -> tuple[slice, slice]:
    return slice(0, rows // 2), EVERYTHING


def last_rows(config: Mapping[str, Any], rows: int, columns: int) -> tuple[slice, slice]:
    return slice(rows // 2, rows), EVERYTHING


def first_columns(config: Mapping[str, Any], rows: int, columns: int) -> tuple[slice, slice]:
    return EVERYTHING, slice(0, columns // 2)


def last_columns(config: Mapping[str, Any], rows: int, columns: int) -> tuple[slice, slice]:
    return EVERYTHING, slice(columns // 2, columns)


def even_columns(config: Mapping[str, Any], rows: int, columns: int) -> tuple[slice, slice]:
    return EVERYTHING, slice(0, columns, 2)


def odd_columns(config: Mapping[str, Any], rows: int, columns: int) -> tuple[slice, slice]:
    return EVERYTHING, slice(1, columns, 2)


@dataclass(frozen=True)
class Stack:
    """A stack cut out of `source`, a parameter of a layer ('mlp.experts.gate_up_proj').

    `cut(config, rows, columns)` says which rows and columns of each of the parameter's matrices
    there are in the stack; `transposed`: rows become columns afterwards. `matrices(config)`: how
    many matrices a tensor of two dimensions is taken for.
    """

    source: str
    cut: Cut = whole
    transposed: bool = False
    matrices: Callable[[Mapping[str, Any]], int] | None = None


def experts(folder: str = "mlp.experts") -> dict[str, Stack]:
    """The usual stacks, of parameters whose rows are a layer's outputs, gate before up."""
    return {
        "ffn_gate_exps.weight": Stack(f"{folder}.gate_up_proj", first_rows),
        "ffn_up_exps.weight": Stack(f"{folder}.gate_up_proj", last_rows),
        "ffn_down_exps.weight": Stack(f"{folder}.down_proj"),
    }
