"""How much of the change of each tensor is still there after quantization.

A tensor W of the base becomes W + D by the tune. The files hold Q(W) and Q(W + D). Of D is kept

    <Q(W + D) - Q(W), D> / <D, D>

which is 1 where rounding adds noise that has nothing to do with D, and near 0 where W lies on the
quantizer's grid and D is less than half a step: then Q(W + D) = Q(W). The base as it is in its file
is the baseline, not W: Q(W) - W goes with W (a quantizer shrinks), and so with any D that goes with
W, although both files have that error. On the grid the two are the same.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.result import TensorUpdate
from tuneserve.convert.slabs import row_count

SAMPLED_VALUES = 1 << 17  # of a tensor, at least one row
SAMPLED_BLOCKS = 8


@dataclass(frozen=True)
class SampledUpdate:
    """Rows of a changed tensor: `base` (W), `change` (D), and `scale`, the tensor's rows for each
    sampled one."""

    base: Floats
    change: Floats
    scale: float

    @property
    def size(self) -> float:
        """<D, D> of the whole tensor, estimated."""
        return self.scale * float(np.square(self.change, dtype=np.float64).sum())

    def kept(self, found: Floats) -> float:
        """The share of D in `found`, what the rows changed by."""
        change = self.change.astype(np.float64)
        return float((found * change).sum() / np.square(change).sum())


def measure_updates(
    tuned: TensorFile, base: TensorFile, tuned_model: GGUFModel, base_model: GGUFModel, *,
    threads: int,
) -> list[TensorUpdate]:  # fmt: skip
    """Of each tensor that the adapter changes, what the two files keep of it; most lost first."""

    def measure(name: str) -> TensorUpdate | None:
        rows = sampled_rows(tuned_model.sources[name].shape)
        sample = sample_update(tuned_model, base_model, name, rows)
        if sample.size == 0.0:
            return None
        found = tuned.rows_at(name, rows) - base.rows_at(base_name(base.tensors, name), rows)
        return TensorUpdate(
            name=name, type=tuned.type_name(name), kept=sample.kept(found), size=sample.size
        )

    # A bias that the base hasn't is float32: nothing of it is lost.
    there = {name for name in tuned.tensors if name in base.tensors or name == "output.weight"}
    names = sorted(tuned_model.changed & there)
    with ThreadPoolExecutor(threads) as pool:
        updates = [update for update in pool.map(measure, names) if update is not None]
    return sorted(updates, key=lambda update: (update.kept - 1) * update.size)


def base_name(names: Container[str], name: str) -> str:
    """A tuned output that the base shares with its embedding is compared with that; `names`: the
    base's tensors."""
    return name if name in names else "token_embd.weight"


def sampled_rows(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of rows in a few blocks spread over a tensor; of a vector all elements."""
    count = row_count(shape)
    if len(shape) == 1:
        return np.arange(count)
    wanted = min(count, max(1, SAMPLED_VALUES // shape[-1]))
    each = -(-wanted // SAMPLED_BLOCKS)
    starts = np.linspace(0, count - each, min(SAMPLED_BLOCKS, wanted)).astype(np.int64)
    return np.unique(np.concatenate([np.arange(start, start + each) for start in starts]))


def sample_update(tuned: GGUFModel, base: GGUFModel, name: str, rows: np.ndarray) -> SampledUpdate:
    """W and D of these rows."""
    source = base.sources[base_name(base.sources, name)]

    def read(model_source: object) -> Floats:
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        parts = [model_source.rows(int(run[0]), int(run[-1]) + 1) for run in runs]  # type: ignore[attr-defined]
        return np.concatenate(parts)

    plain = read(source)
    scale = row_count(source.shape) / len(rows)
    return SampledUpdate(plain, read(tuned.sources[name]) - plain, scale)


def kept_in_all(updates: Sequence[TensorUpdate]) -> float:
    """The share kept of all updates together; 1 where there are none. What rounding adds to
    the update of one tensor makes up for no loss of another."""
    size = sum(update.size for update in updates)
    kept = sum(min(update.kept, 1.0) * update.size for update in updates)
    return kept / size if size else 1.0
