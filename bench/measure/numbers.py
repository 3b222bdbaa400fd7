"""Are a model's figures numbers? Damaged weights (NaN, infinity) make all that is computed none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tuneserve.arrays import Doubles
from tuneserve.errors import TuneserveError

DAMAGED = "Its weights may be damaged; download or make the file again."


def check_numbers(losses: Doubles, model: Path) -> None:
    """Raise TuneserveError for negative log-likelihoods of which one is no number."""
    bad = int(np.count_nonzero(~np.isfinite(losses)))
    if bad:
        raise TuneserveError(
            f"{bad} of {losses.size} log-likelihoods that the model gives are no numbers",
            where=str(model),
            hint=DAMAGED,
        )
