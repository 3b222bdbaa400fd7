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
# State space models store the logarithm of a decay; GGUF stores the decay's exponent. In double
# precision, then rounded: its last bit is that of torch, which trains them, 99 times in 100,
# NumPy's float32 exponential 6 times in 10.
MINUS_EXPONENTIAL = Values(
    lambda v: -np.exp(v.astype(np.float64)).astype(np.float32),
    lambda v: np.log(-v.astype(np.float64)).astype(np.float32),
)
