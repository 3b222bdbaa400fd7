"""LongRoPE (Ding et al. 2024): one factor for each frequency, other ones beyond the original
context, and one on the attention."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import common
from tuneserve.gguf.architectures.table import Config

NAMES = ("longrope", "su")


def original_context(config: Config) -> int:
    scaling = common.rope_scaling(config)
    return int(
        scaling.get("original_max_position_embeddings")
        or config.get("original_max_position_embeddings")
        or config["max_position_embeddings"]
    )


def attention_factor(config: Config) -> float:
    """The factor on the attention: as config.json says, or from how far the context was
    stretched."""
    scaling = common.rope_scaling(config)
    if (given := scaling.get("attention_factor")) is not None:
        return float(given)
    original = original_context(config)
    stretch = scaling.get("factor") or config["max_position_embeddings"] / original
    return 1.0 if stretch <= 1.0 else math.sqrt(1 + math.log(stretch) / math.log(original))


def factor_tensors(config: Config, dimensions: int) -> Iterator[tuple[str, Floats]]:
    """`rope_factors_long.weight` and `…_short…`, float32 [dimensions / 2] each.

    Raises UsageError if config.json has not as many.
    """
    scaling = common.rope_scaling(config)
    for name in ("long", "short"):
        values = scaling.get(f"{name}_factor")
        if not isinstance(values, list) or len(values) != dimensions // 2:
            count = f"{len(values)} numbers" if isinstance(values, list) else repr(values)
            raise UsageError(
                f"{name}_factor has {count}, not half the RoPE size ({dimensions // 2})",
                where="config.json: rope_scaling",
            )
        yield f"rope_factors_{name}.weight", np.asarray(values, dtype=np.float32)
