"""Finer types for the tensors that lose the tune in rounding.

Which type would keep how much of a tensor's update is measured on sampled rows (see
convert/verify/update.py). Tensors get finer types one after the other, most of the update for a
byte first, until enough of all updates is kept or the file may not grow any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import BLOCK
from tuneserve.convert.gguf.writer import as_float16, stored_size
from tuneserve.convert.result import TensorUpdate
from tuneserve.convert.verify.update import sample_update, sampled_rows
from tuneserve.llama import ggml

FINER = ("Q4_K", "Q5_0", "Q5_K", "Q5_1", "Q6_K", "Q8_0", "F16")
WHOLE = 0.98  # a tensor that keeps this share of its update needs no finer type


@dataclass(frozen=True)
class Option:
    """A type that a tensor may have: how many `size` bytes it is larger than now, and the `kept`
    share of its update."""

    type: str
    size: int
    kept: float


@dataclass(frozen=True)
class Repair:
    """Types by tensor; the share of all updates that they should keep, and the bytes they cost."""

    overrides: dict[str, str]
    kept: float
    size: int


def finer_options(
    tuned: GGUFModel,
    base: GGUFModel,
    updates: Sequence[TensorUpdate],
    importance: Mapping[str, Floats] | None,
    *,
    threads: int,
) -> dict[str, list[Option]]:
    """Of each tensor that loses of its update, the types that would keep more."""

    def measure(update: TensorUpdate) -> list[Option]:
        name, shape = update.name, tuned.sources[update.name].shape
        now = stored_size(shape, update.type)
        weights = (importance or {}).get(name)
        sample = sample_update(tuned, base, name, sampled_rows(shape))

        def rounded(values: Floats, kind: str) -> Floats:
            halves = as_float16(values).astype(np.float32)
            if kind == "F16":
                return halves
            return ggml.dequantize(ggml.quantize(halves, kind, weights), kind, shape[-1])

        options = []
        for kind in FINER:
            if shape[-1] % BLOCK[kind] or stored_size(shape, kind) <= now:
                continue
            found = rounded(sample.base + sample.change, kind) - rounded(sample.base, kind)
            kept = min(sample.kept(found), 1.0)
            options.append(Option(kind, stored_size(shape, kind) - now, kept))
        return options

    losing = [update for update in updates
              if update.kept < WHOLE and len(tuned.sources[update.name].shape) > 1]  # fmt: skip
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip((one.name for one in losing), pool.map(measure, losing), strict=True))


def choose_repair(
    updates: Sequence[TensorUpdate], options: Mapping[str, Sequence[Option]], *, room: int,
    target: float,
) -> Repair:  # fmt: skip
    """The cheapest finer types with which `target` of all updates is kept, or as much as `room`
    bytes allow."""
    total = sum(update.size for update in updates)
    kept = {update.name: min(update.kept, 1.0) for update in updates}
    weight = {update.name: update.size for update in updates}
    in_all = sum(kept[name] * weight[name] for name in kept)
    chosen: dict[str, Option] = {}
    spent = 0

    def cost(name: str, option: Option) -> int:
        return option.size - (chosen[name].size if name in chosen else 0)

    while in_all < target * total:
        steps = [
            ((option.kept - kept[name]) * weight[name] / cost(name, option), name, option)
            for name, those in options.items()
            for option in those
            if cost(name, option) > 0 and spent + cost(name, option) <= room
        ]
        best = max(steps, key=lambda step: step[0], default=None)
        if best is None or best[0] <= 0:
            break
        _, name, option = best
        spent += cost(name, option)
        in_all += (option.kept - kept[name]) * weight[name]
        kept[name], chosen[name] = option.kept, option
    types = {name: option.type for name, option in chosen.items()}
    return Repair(types, in_all / total if total else 1.0, spent)
