"""GPU layers: a number as given; auto as many as fit, the same for base and tuned."""

from __future__ import annotations

from pathlib import Path

from tuneserve.settings import BenchSettings, ServeSettings


def fitted(path: Path, serve: ServeSettings) -> ServeSettings:
    """Settings with 'auto' GPU layers replaced by as many as fit beside what is loaded now."""
    if serve.gpu_layers >= 0:
        return serve
    from serve.fit import fit_now

    return serve.model_copy(update={"gpu_layers": fit_now(path, serve).layers})


def engine_settings(serve: ServeSettings, bench: BenchSettings) -> ServeSettings:
    """The engine's settings for a benchmark: a context for every prompt answered at a time, no
    limit of time, and no beginnings kept of prompts that are done (a later one would be computed
    from another place, in other last digits, after a kill)."""
    return serve.model_copy(
        update={
            "ctx": bench.ctx * bench.parallel,
            "slots": bench.parallel,
            "queue_seconds": 86_400,
            "answer_seconds": 0,
            "prefix_share": 0.0,
            "prefix_ram": 0.0,
        }
    )
