"""How large a GGUF whose types are chosen may be."""

from __future__ import annotations

from tuneserve.settings import ConvertSettings

BASELINE = "Q4_K_M"
"""The quantization that a mix is measured against: its size is 100 %."""
UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def size_limit(settings: ConvertSettings, baseline_bytes: int, header_bytes: int = 0) -> int:
    """Bytes that the tensors may take; `baseline_bytes`: those of BASELINE's, `header_bytes`: what
    a file of so many bytes needs besides."""
    text = settings.size_limit.replace(" ", "")
    number = text.rstrip("%BMGkib")
    unit = text[len(number) :]
    if unit == "%":
        return int(baseline_bytes * float(number) / 100)
    return int(float(number) * UNITS[unit]) - header_bytes
