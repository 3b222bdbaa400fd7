"""Serve settings for an engine that works through a list of prompts, without a server."""

from __future__ import annotations

from pathlib import Path

from tuneserve.serve.offload import fit_now
from tuneserve.settings import ServeSettings


def fitted(path: Path, serve: ServeSettings) -> ServeSettings:
    """Settings with 'auto' GPU layers replaced by as many as fit beside what is loaded now."""
    if serve.gpu_layers >= 0:
        return serve
    return serve.model_copy(update={"gpu_layers": fit_now(path, serve).layers})


def for_a_list(serve: ServeSettings, *, ctx: int, slots: int) -> ServeSettings:
    """Settings with a context for every prompt answered at a time, no limit of time, and no
    beginnings kept of prompts that are done (a later one would be computed from another place, in
    other last digits, after a kill)."""
    return serve.model_copy(
        update={
            "ctx": ctx,
            "slots": slots,
            "queue_seconds": 86_400,
            "answer_seconds": 0,
            "prefix_share": 0.0,
            "prefix_ram": 0.0,
        }
    )
