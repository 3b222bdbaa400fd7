"""Contract: the file holds the merged tensors, quantized, and nothing else.

Rows of every tensor are computed, quantized and compared byte by byte with what is in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.base.weights import encode_values
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import Choice
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import encoded_rows
from tuneserve.convert.merge.checkpoint import MergedCheckpoint, flat_stored
from tuneserve.convert.result import Check
from tuneserve.convert.slabs import row_count, row_spans
from tuneserve.safetensors import checkpoint_tensors

ROWS = 8


def check_written(
    contract: str,
    file: TensorFile,
    model: GGUFModel,
    choices: Sequence[Choice],
    importance: Mapping[str, Floats] | None,
    *,
    threads: int,
) -> Check:
    """Names, shapes, types, and ROWS rows of each tensor spread from the first to the last."""

    def difference(choice: Choice) -> str | None:
        name, source = choice.name, model.sources[choice.name]
        if file.shape(name) != source.shape or file.type_name(name) != choice.type:
            return f"{name} is {file.type_name(name)} {list(file.shape(name))}"
        count = row_count(source.shape)
        vector = len(source.shape) == 1
        for start, stop in [(0, count)] if vector else sampled_rows(count):
            weights = (importance or {}).get(name)
            expected = encoded_rows(source, choice.type, start, stop, weights)
            if not np.array_equal(file.encoded(name, start, stop), expected):
                return f"{name} differs in row {start}"
        return None

    problems = [f"{name} is missing" for name in model.sources if name not in file.tensors]
    problems += [f"{name} is too much" for name in file.tensors if name not in model.sources]
    with ThreadPoolExecutor(threads) as pool:
        there = [choice for choice in choices if choice.name in file.tensors]
        problems += filter(None, pool.map(difference, there))
    return _as_check(contract, problems, len(choices), ", byte for byte")


def check_merged_checkpoint(directory: Path, merged: MergedCheckpoint) -> Check:
    """The same of the merged Hugging Face checkpoint: every tensor is there, ROWS rows of each."""
    files = checkpoint_tensors(directory)

    def differs(name: str, start: int, stop: int) -> bool:
        stored = files[name]
        expected = encode_values(merged.rows(name, start, stop), stored.dtype, where=name)
        return flat_stored(stored).raw(start, stop).tobytes() != expected

    problems = []
    for name in merged.names:
        spans = sampled_rows(row_count(files[name].shape)) if name in files else []
        wrong = next((start for start, stop in spans if differs(name, start, stop)), None)
        if name not in files:
            problems.append(f"{name} is missing")
        elif wrong is not None:
            problems.append(f"{name} differs in row {wrong}")
    return _as_check("checkpoint as merged", problems, len(merged.names))


def _as_check(contract: str, problems: Sequence[str], tensors: int, how: str = "") -> Check:
    detail = f"{ROWS} rows of each of {tensors} tensors{how}"
    if problems:
        detail = "; ".join(problems[:5]) + (f" … ({len(problems)})" if len(problems) > 5 else "")
    return Check(contract, not problems, detail, {"tensors": tensors, "wrong": len(problems)})


def sampled_rows(count: int) -> list[tuple[int, int]]:
    """[start, stop) of ROWS rows spread from the first to the last."""
    rows = np.unique(np.linspace(0, count - 1, ROWS, dtype=int)).tolist()
    return [(row, row + 1) for row in rows]


def check_changed_tensors(tuned: Path, base: Path, names: set[str]) -> Check:
    """Compare the two files' tensors byte by byte; `names`: those the adapter changes."""
    ours, theirs = TensorFile(tuned), TensorFile(base)

    def same(name: str) -> bool:
        if ours.type_name(name) != theirs.type_name(name) or ours.shape(name) != theirs.shape(name):
            return False
        return all(
            np.array_equal(ours.encoded(name, *span), theirs.encoded(name, *span))
            for span in row_spans(ours.shape(name))
        )

    differing = {name for name in ours.tensors if name not in theirs.tensors or not same(name)}
    wrong = [name for name in ours.tensors if name in differing - names and name in theirs.tensors]
    changed = len(differing & names)
    figures = {"adapted": len(names), "differing": changed, "wrongly_differing": len(wrong)}
    detail = (
        f"{changed} of {len(names)} adapted tensors differ from the base's, the others are equal"
    )
    if wrong:
        detail = f"not adapted, yet unlike the base: {wrong[:5]}"
    return Check("changed tensors", changed > 0 and not wrong, detail, figures)
