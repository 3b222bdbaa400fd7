"""A quantity over training steps, made readable."""

from __future__ import annotations

from collections.abc import Sequence


def smoothed(curve: Sequence[tuple[int, float]], window: int) -> list[tuple[int, float]]:
    """Mean of each value with up to `window` - 1 before it: a step's loss alone is noisy."""
    values = [value for _, value in curve]
    parts = [values[max(0, end - window) : end] for end in range(1, len(values) + 1)]
    return [(step, sum(part) / len(part)) for (step, _), part in zip(curve, parts, strict=True)]
