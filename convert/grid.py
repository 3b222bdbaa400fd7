"""Does a base lie on the grid of the quantization that its tune is to have?

A base imported from a 4-bit GGUF does, more or less: it is rounded already, so quantizing it again
changes little. Merged into such weights, an update of less than half a step is rounded away (see
convert/verify/update.py). Known before training, from a few rows of each matrix.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path

import numpy as np

from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import UNQUANTIZED
from tuneserve.convert.gguf.rounding_error import rounding_error, usual_rounding_error
from tuneserve.convert.gguf.writer import as_float16
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.slabs import row_count
from tuneserve.llama import physical_cores

ROWS = 8
# A matrix is on the grid if rounding changes it by less than this share of what it changes one of
# independent normal values by.
ON_GRID = 0.5


def on_grid(checkpoint: Path, quantization: str) -> float:
    """The share (0 to 1) of a checkpoint's weights that lie on the quantization's grid, of the
    matrices in its layers: those that adapters change.

    Raises UsageError for an architecture or a tokenizer that can't be converted.
    """
    return share_on_grid(
        GGUFModel(MergedCheckpoint(checkpoint), checkpoint, name="base"), quantization
    )


def share_on_grid(model: GGUFModel, quantization: str) -> float:
    """The same of a model that is open already."""
    choices = [
        choice
        for choice in model.choices(quantization)
        if choice.type not in UNQUANTIZED and choice.name.startswith("blk.")
    ]

    def is_on_grid(name: str, kind: str) -> bool:
        source = model.sources[name]
        count = row_count(source.shape)
        first = (count - min(ROWS, count)) // 2
        values = as_float16(source.rows(first, min(first + ROWS, count))).astype(np.float32)
        return rounding_error(values, kind) < ON_GRID * usual_rounding_error(kind, values.shape[-1])

    with ThreadPoolExecutor(physical_cores()) as pool:
        found = list(pool.map(lambda one: is_on_grid(one.name, one.type), choices))
    sizes = [prod(model.sources[choice.name].shape) for choice in choices]
    on = sum(size for size, is_on in zip(sizes, found, strict=True) if is_on)
    return on / sum(sizes) if sizes else 0.0
