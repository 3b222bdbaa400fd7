"""Sizes as a user writes them: bytes with a unit (80M, 1.5GiB), or a share (80%)."""

from __future__ import annotations

import re
from math import ceil

_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
LEAST_BARE = 10**6
"""A number without a unit below this has lost its unit."""


def parse_size(text: str) -> tuple[float | None, int]:
    """The share (0.8 of 80%) or None, and the bytes of a size.

    Raises ValueError, saying what to write instead, for what is no size or can't be meant.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(%|[kmgt]?i?b?)", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError("write bytes with a unit (80M, 1.5G, 900MiB) or a share (80%)")
    number, unit = float(found[1]), found[2].lower()
    if number == 0:
        raise ValueError("a size is above 0")
    if unit == "%":
        return number / 100, 0
    if not unit and number < LEAST_BARE:
        raise ValueError(
            f"{found[1]} bytes hold no model: write {found[1]}M (megabytes) or {found[1]}% (of "
            "Q4_K_M's size)"
        )
    factor = {**_FACTORS, **_BINARY}.get(unit.removesuffix("b"))
    if factor is None:
        raise ValueError("write bytes with a unit (80M, 1.5G, 900MiB) or a share (80%)")
    return None, int(number * factor)


def size_like(text: str, count: int, whole: int = 0) -> str:
    """The least size in the unit of `text` (two decimals) that holds `count` bytes; for a share:
    of `whole` bytes."""
    unit = text.strip().lstrip("0123456789.")
    unit_bytes = (
        whole / 100 if unit.strip() == "%" else parse_size(f"{LEAST_BARE}{unit}")[1] / LEAST_BARE
    )
    hundredths = ceil(count / unit_bytes * 100)
    while True:
        size = f"{hundredths / 100:.2f}".rstrip("0").rstrip(".")
        share, held = parse_size(f"{size}{unit}")
        if (held if share is None else int(whole * share)) >= count:
            return f"{size}{unit}"
        hundredths += 1
