"""How much a ggml type changes values."""

from __future__ import annotations

from functools import cache

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.llama import ggml

_ROWS = 8
_COLUMNS = 256


def rounding_error(values: Floats, kind: str) -> float:
    """How much a type changes rows [rows, columns], relative to them (in the root mean square)."""
    found = ggml.dequantize(ggml.quantize(values, kind), kind, values.shape[-1])
    return float(np.linalg.norm(found - values) / max(float(np.linalg.norm(values)), 1e-30))


@cache
def usual_rounding_error(kind: str, columns: int = _COLUMNS) -> float:
    """The same of independent normal values, quantized without an importance matrix."""
    values = np.random.default_rng(0).standard_normal((_ROWS, columns), dtype=np.float32)
    return rounding_error(values, kind)
