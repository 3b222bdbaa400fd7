"""Training in several processes at a time, one for each GPU, as launch.py starts them, or torchrun
or `accelerate launch`.

The first process reads and writes the run directory and talks; the others compute.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tuneserve.errors import TuneserveError

_LATE_SECONDS = 5.0


def process_count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def is_launched() -> bool:
    """Was this process started as one of several (or as the one of one)?"""
    return "RANK" in os.environ


def local_rank() -> int:
    """The number of this process on its machine, and of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def only_first_talks() -> Iterator[None]:
    """Keep the other processes off the terminal while the block runs. Their errors still get out,
    but late: most are the first one's too, whose end ends them."""
    if is_first_process():
        yield
        return
    try:
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
    except TuneserveError:
        time.sleep(_LATE_SECONDS)
        raise


def wait_for_all() -> None:
    """Return when every process has come here. Call it after Unsloth is imported."""
    if process_count() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


def any_process(flag: bool) -> bool:
    """Is the flag set in any of the processes? All of them have to ask."""
    return sum_of_all(int(flag)) > 0


def sum_of_all(count: int) -> int:
    """The sum of the processes' counts. All of them have to ask."""
    if process_count() == 1:
        return count
    import torch
    from accelerate.utils import reduce

    device = f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu"
    counted = torch.tensor(count, dtype=torch.int64, device=device)
    return int(reduce(counted, reduction="sum").item())
