"""Tensors that are tried together, and the types each may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from tuneserve.convert.gguf.quantization import (
    BLOCK,
    Shape,
    fitting_type,
    is_quantizable,
    loader_order,
)

TYPES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
KEPT_TYPES = ("F32", "MXFP4")
"""What no other type is looked for: norms and vectors, and experts that are stored in it."""
# For rows that are no multiple of 256.
SMALL_BLOCK_TYPES = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def types_of(shape: Shape) -> tuple[str, ...]:
    """The types that a tensor may have, by its row length."""
    columns = shape[-1]
    if columns % BLOCK["Q4_K"] == 0:
        return TYPES
    if columns % BLOCK["Q8_0"] == 0:
        return SMALL_BLOCK_TYPES
    return (fitting_type("Q8_0", columns),)


def group_tensors(shapes: Mapping[str, Shape], most: int) -> list[list[str]]:
    """Quantizable tensors in at most about `most` groups: those outside the blocks each alone, the
    others by role, in bands of neighbouring blocks of equal breadth."""
    names = [
        name for name in sorted(shapes, key=loader_order) if is_quantizable(name, shapes[name])
    ]
    alone = [name for name in names if loader_order(name)[0] < 0]
    by_role: dict[str, list[str]] = {}
    for name in names:
        if name not in alone:
            by_role.setdefault(name.split(".", 2)[2], []).append(name)
    bands = max(1, (most - len(alone)) // max(1, len(by_role)))
    groups = [[name] for name in alone]
    for members in by_role.values():
        groups += _bands(members, min(bands, len(members)))
    return groups


def _bands(members: Sequence[str], count: int) -> list[list[str]]:
    ends = [round(len(members) * n / count) for n in range(count + 1)]
    return [list(members[start:end]) for start, end in pairwise(ends)]
