"""TensorBoard's log of a training: runs/NAME/tensorboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self


class Board:
    """Writes scalars by step. A training that goes on drops what was logged past its step."""

    def __init__(self, directory: Path, resumed_at: int | None) -> None:
        from tensorboardX import SummaryWriter

        purge = None if resumed_at is None else resumed_at + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge, flush_secs=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
