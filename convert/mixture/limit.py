"""How large a GGUF whose types are chosen may be."""

from __future__ import annotations

from tuneserve.convert.result import Mix
from tuneserve.settings import ConvertSettings
from tuneserve.sizes import parse_size

BASELINE = "Q4_K_M"
"""The quantization that a mix is measured against: its size is 100 %."""


def size_limit(settings: ConvertSettings, baseline_bytes: int, header_bytes: int = 0) -> int:
    """Bytes that the tensors may take; `baseline_bytes`: those of BASELINE's, `header_bytes`: what
    a file of so many bytes needs besides."""
    share, size = parse_size(settings.size_limit)
    return size - header_bytes if share is None else int(baseline_bytes * share)


def bytes_left(settings: ConvertSettings, mix: Mix | None, file_bytes: int) -> int | None:
    """How much a file of this mix may still grow; None where no size is set."""
    if mix is None or settings.max_divergence:
        return None
    header_bytes = file_bytes - mix.bytes
    return max(0, size_limit(settings, mix.baseline_bytes, header_bytes) - mix.bytes)
