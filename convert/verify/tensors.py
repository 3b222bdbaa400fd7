"""Contract: the file holds the merged tensors, quantized, and nothing else.

Rows of every tensor are computed, quantized and compared byte by byte with what is in the file;
of all its bytes the hashes are those of what was given to the disk (rows.py compares all rows by
their values).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.base.weights import encode_values
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import Choice
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import Digests, digest, encoded_rows
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
    digests: Digests | None = None,
    *,
    threads: int,
) -> Check:
    """Names, shapes, types, ROWS rows of each tensor spread from the first to the last, and all
    bytes by their `digests`."""

    def difference(choice: Choice) -> str | None:
        name, source = choice.name, model.sources[choice.name]
        if file.shape(name) != source.shape or file.type_name(name) != choice.type:
            return f"{name} is {file.type_name(name)} {list(file.shape(name))}"
        count = row_count(source.shape)
        vector = len(source.shape) == 1
        for start, stop in [(0, count)] if vector else single_rows(count):
            weights = (importance or {}).get(name)
            expected = encoded_rows(source, choice.type, start, stop, weights)
            if not np.array_equal(file.encoded(name, start, stop), expected):
                return f"{name} differs in row {start}"
        spans = list(row_spans(source.shape)) if digests is not None else []
        for (start, stop), written in zip(spans, (digests or {}).get(name, ()), strict=True):
            if digest(file.encoded(name, start, stop)) != written:
                return f"{name} is not what was written, in rows {start} to {stop - 1}"
        return None

    problems = [f"{name} is missing" for name in model.sources if name not in file.tensors]
    problems += [f"{name} is too much" for name in file.tensors if name not in model.sources]
    with ThreadPoolExecutor(threads) as pool:
        there = [choice for choice in choices if choice.name in file.tensors]
        problems += filter(None, pool.map(difference, there))
    all_bytes = "; all bytes as they were written" if digests is not None else ""
    how = f"{ROWS} rows of each of {len(choices)} tensors, byte for byte{all_bytes}"
    return _as_check(contract, problems, len(choices), how)


def check_metadata(
    contract: str, file: TensorFile, model: GGUFModel, quantization: str,
    overrides: Mapping[str, str] | None = None,
) -> Check:  # fmt: skip
    """Every key of the file has the value that the model gives it, and none is missing."""
    expected = model.metadata(quantization, overrides=overrides)
    problems = [
        f"{key} is {str(file.get(key))[:60]}"
        for key, (_, value) in expected.items()
        if key not in file.metadata or not _same_value(file.metadata[key], value)
    ]
    return Check(contract, not problems, "; ".join(problems[:5]) or f"{len(expected)} keys equal")


def _same_value(found: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return bool(np.float32(found) == np.float32(expected))
    if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
        return len(found) == len(expected) and bool(np.array_equal(found, expected))
    return bool(found == expected)


def check_merged_checkpoint(directory: Path, merged: MergedCheckpoint, *, threads: int) -> Check:
    """The same of the merged Hugging Face checkpoint: every tensor is there, with all its bytes."""
    files = checkpoint_tensors(directory)
    names = [*merged.names, *merged.outside]

    def difference(name: str) -> str | None:
        stored = files.get(merged.file_name(name))
        if stored is None:
            return f"{name} is missing"
        for start, stop in row_spans(stored.shape):
            expected = encode_values(merged.rows(name, start, stop), stored.dtype, where=name)
            if flat_stored(stored).raw(start, stop).tobytes() != expected:
                return f"{name} differs in rows {start} to {stop - 1}"
        return None

    with ThreadPoolExecutor(threads) as pool:
        problems = list(filter(None, pool.map(difference, names)))
    how = f"all bytes of {len(names)} tensors"
    return _as_check("checkpoint as merged", problems, len(names), how)


def _as_check(contract: str, problems: Sequence[str], tensors: int, how: str) -> Check:
    detail = how
    if problems:
        detail = "; ".join(problems[:5]) + (f" … ({len(problems)})" if len(problems) > 5 else "")
    return Check(contract, not problems, detail, {"tensors": tensors, "wrong": len(problems)})


def single_rows(count: int) -> list[tuple[int, int]]:
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
