"""The processor cores that this process may use."""

from __future__ import annotations

import os


def allowed_cores() -> set[int]:
    """Their numbers; those of all where the system does not tell."""
    told = getattr(os, "sched_getaffinity", None)
    return set(told(0)) if told else set(range(os.cpu_count() or 1))
