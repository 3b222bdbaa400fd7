"""How large a GGUF whose types are chosen may be."""

from __future__ import annotations

from tuneserve.settings import ConvertSettings
from tuneserve.sizes import parse_size

BASELINE = "Q4_K_M"
"""The quantization that a mix is measured against: its size is 100 %."""


def size_limit(settings: ConvertSettings, baseline_bytes: int, header_bytes: int = 0) -> int:
    """Bytes that the tensors may take; `baseline_bytes`: those of BASELINE's, `header_bytes`: what
    a file of so many bytes needs besides."""
    share, size = parse_size(settings.size_limit)
    return size - header_bytes if share is None else int(baseline_bytes * share)
