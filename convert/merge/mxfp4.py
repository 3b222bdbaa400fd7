"""gpt-oss's experts as they are published: MXFP4, 4-bit floats in blocks of 32 with a scale of one
power of two each (OCP Microscaling Formats 1.0).

The checkpoint has them by the outputs of a layer, `NAME_blocks` [experts, outputs, inputs / 32, 16]
and `NAME_scales` [experts, outputs, inputs / 32]; transformers' parameter NAME is [experts, inputs,
outputs].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from tuneserve.arrays import Bytes, Floats
from tuneserve.safetensors import StoredTensor

BLOCKS, SCALES = "_blocks", "_scales"
_BLOCK_VALUES = 32
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
# E2M1: the sign is the highest of four bits.
_VALUES = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], dtype=np.float32)
_BIAS = 127


@dataclass(frozen=True)
class MXFP4Tensor:
    """The parameter, dequantized as its rows are read; `packed_rows` has them as ggml does."""

    blocks: StoredTensor
    scales: StoredTensor
    dtype: str = "BF16"

    @property
    def shape(self) -> tuple[int, ...]:
        experts, outputs, blocks, _ = self.blocks.shape
        return experts, blocks * _BLOCK_VALUES, outputs

    def rows(self, start: int = 0, stop: int | None = None) -> Floats:
        """Rows [start, stop) of all experts' inputs together, float32 [rows, outputs]."""
        experts, inputs, outputs = self.shape
        stop = experts * inputs if stop is None else stop
        result = np.empty((stop - start, outputs), dtype=np.float32)
        for expert in range(start // inputs, -(-stop // inputs)):
            offset = expert * inputs
            first, last = max(start, offset), min(stop, offset + inputs)
            # Whole blocks, of which the rows asked for may be a part.
            block, end = (first - offset) // _BLOCK_VALUES, -(-(last - offset) // _BLOCK_VALUES)
            nibbles, scales = self._read(expert * outputs, (expert + 1) * outputs)
            values = _VALUES[_nibbles(nibbles[:, block:end])]
            values = np.ldexp(values, scales[:, block:end, None].astype(np.int32) - _BIAS)
            skipped = first - offset - block * _BLOCK_VALUES
            rows = values.reshape(outputs, -1).T[skipped : skipped + last - first]
            result[first - start : last - start] = rows
        return result

    def packed_rows(self, rows: range) -> Bytes:
        """These of all experts' outputs together, which are one expert's, as ggml's blocks: the
        scale, then 16 bytes, whose low halves are the first 16 values."""
        nibbles, scales = self._read(rows[0], rows[-1] + 1)
        values = _nibbles(nibbles[:: rows.step])
        packed = values[..., :16] | values[..., 16:] << 4
        return np.concatenate([scales[:: rows.step, :, None], packed], axis=2).reshape(-1)

    def _read(self, start: int, stop: int) -> tuple[Bytes, Bytes]:
        """Blocks [rows, blocks, 16] and scales [rows, blocks] of outputs [start, stop) of all."""
        return tuple(  # type: ignore[return-value]
            replace(stored, shape=(prod(stored.shape[:2]), *stored.shape[2:])).raw(start, stop)
            for stored in (self.blocks, self.scales)
        )


def _nibbles(packed: Bytes) -> Bytes:
    """Bytes [..., 16] as their 32 halves, the low one of each first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def mxfp4_tensors(files: Mapping[str, StoredTensor]) -> dict[str, MXFP4Tensor]:
    """The parameters that are stored so, by the names that transformers gives them."""
    return {
        name.removesuffix(BLOCKS): MXFP4Tensor(
            tensor, files[name.removesuffix(BLOCKS) + SCALES]
        )
        for name, tensor in files.items()
        if name.endswith(BLOCKS) and name.removesuffix(BLOCKS) + SCALES in files
    }  # fmt: skip
