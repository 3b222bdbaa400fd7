"""What is done to each number of a tensor on its way into a GGUF, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tuneserve.arrays import Floats


@dataclass(frozen=True)
class Values:
    """A change of each number, in float32, and its reverse."""

    forward: Callable[[Floats], Floats]
    back: Callable[[Floats], Floats]


# Some norms multiply by (1 + weight); GGUF stores the sum.
ONE_MORE = Values(lambda v: v + np.float32(1.0), lambda v: v - np.float32(1.0))


def exponential(values: Floats) -> Floats:
    """By torch, as llama.cpp's converter has it: NumPy's float32 is often off by a bit."""
    import torch

    found: Floats = torch.exp(torch.from_numpy(np.ascontiguousarray(values))).numpy()
    return found


# State space models store the logarithm of a decay; GGUF stores the decay's exponent.
MINUS_EXPONENTIAL = Values(lambda v: -exponential(v), lambda v: np.log(-v))
