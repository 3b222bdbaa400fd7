"""bitsandbytes' 4-bit weights, dequantized as they are read, by rows and without a GPU.

Two values share a byte, the first in the high half; each is an index into a table of 16 numbers
(nf4 or fp4, stored along) and is multiplied by its block's largest absolute value. Those are
quantized themselves in a nested ("double-quantized") checkpoint: 8 bits, by blocks, minus an
offset (Dettmers et al. 2023, QLoRA). The result is rounded to the type that the trainer computed
in, so that the weights are those it saw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.merge.mxfp4 import BLOCKS, SCALES, mxfp4_tensors
from tuneserve.errors import UsageError
from tuneserve.safetensors import STORAGE, StoredTensor

STATE = ".quant_state.bitsandbytes__"
# Of a block's largest value. 16-bit copies leave none of a quantized model's values further beyond
# than this (NF4, normal weights); 2.6 % are if they moved by 2 % of their size.
_SLACK = np.float32(0.01)
# A nested checkpoint stores a block's largest value in 8 bits: of itself, and of the largest ones.
_SCALE_SLACK, _SCALE_FLOOR = np.float32(0.25), np.float32(0.03)


class ReadableTensor(Protocol):
    """A tensor of a checkpoint, read by rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str:
        """safetensors' name of the element type ('BF16'); of a 4-bit tensor the one it gives."""

    def rows(self, start: int = 0, stop: int | None = None) -> Floats:
        """Rows [start, stop) as float32. Safe to call from several threads."""


@dataclass(frozen=True)
class FourBitTensor:
    """A packed weight with its scales. `nested`: those of the scales, if they are quantized."""

    packed: StoredTensor
    table: Floats
    scales: StoredTensor
    block: int
    shape: tuple[int, ...]
    dtype: str
    nested: NestedScales | None = None

    def rows(self, start: int = 0, stop: int | None = None) -> Floats:
        columns = self.shape[1]
        stop = self.shape[0] if stop is None else min(stop, self.shape[0])
        first, last = start * columns, stop * columns
        values = self.table[self._indices(first, last)]
        values *= self._scales(first, last)
        return rounded(values, self.dtype).reshape(stop - start, columns)

    def compared(self, values: Floats, start: int) -> tuple[Floats, Floats]:
        """Against `values` (rows from `start` on, of what may have been quantized). First the share
        of each row that would be stored otherwise: nearer to another of the table's numbers than to
        the one that is stored, by more than what 16 bits explain, or in a block of another size.
        Then the stored rows by the scales that these values have: what a nested checkpoint rounds
        of its scales is not in them."""
        first, last = start * self.shape[1], start * self.shape[1] + values.size
        scales, off = self._own_scales(values.reshape(-1), first, last)
        parts = values.reshape(-1) / np.where(scales == 0, np.float32(1), scales)
        table = np.sort(self.table)
        nearest = table[np.searchsorted((table[1:] + table[:-1]) / 2, parts)]
        stored = self.table[self._indices(first, last)]
        further = np.abs(parts - stored) - np.abs(parts - nearest)
        wrong = (further > _SLACK) | off
        misplaced: Floats = wrong.reshape(values.shape).mean(axis=1, dtype=np.float32)
        rescaled: Floats = (stored * scales).reshape(values.shape)
        return misplaced, rescaled

    def own_and_stored(self, values: Floats, start: int) -> tuple[Floats, Floats]:
        """Of each row of `values` (rows from `start` on, of what may have been quantized), summed:
        its blocks' largest values, and the scales that are stored for them. Rows of whole blocks
        alone; both empty where there are none."""
        columns = self.shape[1]
        if columns % self.block:
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        first = start * columns
        own = np.abs(values).reshape(len(values), -1, self.block).max(-1).sum(-1)
        stored = self._scales(first, first + values.size)[:: self.block].reshape(len(values), -1)
        return own, stored.sum(-1)

    def _own_scales(self, values: Floats, first: int, last: int) -> tuple[Floats, Any]:
        """The scale of every value, and whether it is another than the stored one. A value was
        rounded by its block's largest, which is what a nested checkpoint stores rounded; blocks
        that the values have a part of have the stored scale."""
        scales = self._scales(first, last)
        begin, end = -(-first // self.block), last // self.block
        whole = slice(begin * self.block - first, end * self.block - first)
        if begin >= end:
            return scales, np.zeros(len(values), bool)
        largest = np.abs(values[whole]).reshape(-1, self.block).max(axis=1)
        own = scales.copy()
        own[whole] = np.repeat(largest, self.block)
        slack = _SCALE_SLACK * np.maximum(own, scales) + _SCALE_FLOOR * scales.max()
        return own, np.abs(own - scales) > slack

    def _indices(self, first: int, last: int) -> Any:
        """The index into the table of every value in [first, last)."""
        # A row of an odd length begins in the middle of a byte.
        bytes_ = self.packed.raw(first // 2, -(-last // 2)).reshape(-1).view(np.uint8)
        indices = np.empty(2 * len(bytes_), dtype=np.uint8)
        indices[0::2], indices[1::2] = bytes_ >> 4, bytes_ & 15
        return indices[first % 2 : first % 2 + last - first]

    def _scales(self, first: int, last: int) -> Floats:
        """The scale of every value in [first, last)."""
        begin, end = first // self.block, -(-last // self.block)
        stored = self.scales.raw(begin, end)
        scales = stored.astype(np.float32) if self.nested is None else self.nested.of(stored, begin)
        repeated = np.repeat(scales, self.block)
        offset = first - begin * self.block
        return repeated[offset : offset + last - first]


@dataclass(frozen=True)
class NestedScales:
    """How 8-bit scales become float32: table[index] * scale of its block + offset."""

    table: Floats
    scales: Floats
    block: int
    offset: np.float32

    def of(self, stored: Any, begin: int) -> Floats:
        """`stored`: indices of the scales from number `begin` on."""
        blocks = (begin + np.arange(len(stored))) // self.block
        scales: Floats = self.table[stored] * self.scales[blocks] + self.offset
        return scales


def rounded(values: Floats, dtype: str) -> Floats:
    """float32 values rounded to nearest even in `dtype`."""
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        bits = values.view(np.uint32)
        half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return ((bits + half) & np.uint32(0xFFFF0000)).view(np.float32)
    return values


def readable_tensors(files: Mapping[str, StoredTensor]) -> dict[str, ReadableTensor]:
    """The checkpoint's tensors by name, 4-bit ones with their parts put together.

    Raises UsageError for tensors quantized in another way.
    """
    weights = {name.partition(STATE)[0] for name in files if STATE in name}
    # A layer's own bias ends in '.bias', its weight's parts begin with '.weight.'.
    parts = tuple(f"{name}." for name in weights)
    found: dict[str, ReadableTensor] = {**mxfp4_tensors(files)}
    packed = {name + end for name in found for end in (BLOCKS, SCALES)}
    unreadable = []
    for name, tensor in files.items():
        if name in packed:
            continue
        if name in weights:
            found[name] = _four_bit(files, name)
        elif not name.startswith(parts):
            found[name] = tensor
            if tensor.dtype not in STORAGE or tensor.dtype == "U8":
                unreadable.append(f"{name}: {tensor.dtype}")
    if unreadable:
        raise UsageError(
            f"{len(unreadable)} tensors are quantized in a way that can't be read",
            where=str(next(iter(files.values())).path.parent),
            problems=unreadable,
            hint="Supported: F32, F16, BF16, bitsandbytes 4-bit (nf4, fp4), gpt-oss's MXFP4. "
            "Name a 16-bit copy of the base: --merge-base.",
        )
    return found


def _four_bit(files: Mapping[str, StoredTensor], name: str) -> FourBitTensor:
    key = next(key for key in files if key.startswith(name + STATE))
    state = json.loads(bytes(files[key].raw().tolist()))
    nested = None
    if f"{name}.nested_absmax" in files:
        nested = NestedScales(
            files[f"{name}.nested_quant_map"].rows(),
            files[f"{name}.nested_absmax"].rows(),
            int(state["nested_blocksize"]),
            np.float32(state["nested_offset"]),
        )
    types = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
    return FourBitTensor(
        files[name], files[f"{name}.quant_map"].rows(), files[f"{name}.absmax"],
        int(state["blocksize"]), tuple(state["shape"]), types[state["dtype"]], nested,
    )  # fmt: skip
