"""The engine's settings for a benchmark, the same for base and tuned."""

from __future__ import annotations

from tuneserve.serve.in_process import for_a_list
from tuneserve.settings import BenchSettings, ServeSettings


def engine_settings(serve: ServeSettings, bench: BenchSettings) -> ServeSettings:
    """Serve settings with a context for every prompt that is answered at a time."""
    return for_a_list(serve, ctx=bench.ctx * bench.parallel, slots=bench.parallel)
