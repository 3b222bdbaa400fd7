"""The GGUFs of a sweep: what they are called, and how they go."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from tuneserve.files import clear_leftovers


@dataclass(frozen=True)
class SweepStep:
    """A way to quantize: the type, and whether an importance matrix steers it."""

    quantization: str
    imatrix: bool = False

    @property
    def name(self) -> str:
        return f"{self.quantization}{' + imatrix' if self.imatrix else ''}"

    @property
    def file_name(self) -> str:
        return f"{self.name.replace(' ', '')}.gguf"


FULL = SweepStep("F16")
STEPS = (FULL, SweepStep("Q8_0"), SweepStep("Q4_K_M"), SweepStep("Q4_K_M", imatrix=True))


def remove_sweep_files(folder: Path) -> None:
    """Remove them, and the folder unless something else lies in it. Of a link to a folder the link
    is removed."""
    if folder.is_symlink():
        folder.unlink()
        return
    for step in STEPS:
        (folder / step.file_name).unlink(missing_ok=True)
    if folder.is_dir():
        clear_leftovers(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()
