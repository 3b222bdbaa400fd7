"""Contract: the file holds the merged tensors, quantized, and nothing else.

Rows of every tensor are computed, quantized and compared byte by byte with what is in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.base.weights import encode_values
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import Choice
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.writer import Slab
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.verify.checks import Check
from tuneserve.gguf.reader import GGUFFile, GGUFTensor
from tuneserve.safetensors import SafetensorsFiles, StoredTensor

WRITTEN_AS_MERGED = "written as merged"
ROWS = 8


def check_written(
    file: TensorFile,
    model: GGUFModel,
    choices: Sequence[Choice],
    importance: Mapping[str, Floats] | None,
    *,
    threads: int,
    contract: str = WRITTEN_AS_MERGED,
) -> Check:
    """Names, shapes, types, and ROWS rows of each tensor spread from the first to the last."""
    problems = [f"{name} is missing" for name in model.sources if name not in file]
    problems += [f"{name} is too much" for name in file.names if name not in model.sources]

    def compare(choice: Choice) -> str | None:
        return _difference(file, model, choice, (importance or {}).get(choice.name))

    with ThreadPoolExecutor(threads) as pool:
        differences = pool.map(compare, [choice for choice in choices if choice.name in file])
        problems += [problem for problem in differences if problem]
    detail = f"{ROWS} rows of each of {len(choices)} tensors, byte for byte"
    if problems:
        detail = "; ".join(problems[:5]) + (f" … ({len(problems)})" if len(problems) > 5 else "")
    return Check(contract, not problems, detail, {"tensors": len(choices), "wrong": len(problems)})


def check_merged_checkpoint(directory: Path, merged: MergedCheckpoint) -> Check:
    """The same of the merged Hugging Face checkpoint: every tensor is there, ROWS rows of each."""
    files = SafetensorsFiles.of_directory(directory)
    problems = [f"{name} is missing" for name in merged.names if name not in files]
    rows = {
        name: _differing_row(files[name], merged, name) for name in merged.names if name in files
    }
    problems += [f"{name} differs in row {row}" for name, row in rows.items() if row is not None]
    detail = "; ".join(problems[:5]) or f"{ROWS} rows of each of {len(merged.names)} tensors"
    figures = {"tensors": len(merged.names), "wrong": len(problems)}
    return Check("checkpoint as merged", not problems, detail, figures)


def _differing_row(stored: StoredTensor, merged: MergedCheckpoint, name: str) -> int | None:
    for row in sampled_rows(stored.shape[0]):
        expected = encode_values(merged.rows(name, row, row + 1), stored.dtype, where=name)
        if stored.raw(row, row + 1).tobytes() != expected:
            return row
    return None


def sampled_rows(count: int) -> list[int]:
    """ROWS row numbers spread from the first to the last."""
    return [int(row) for row in np.unique(np.linspace(0, count - 1, ROWS, dtype=int))]


def _difference(
    file: TensorFile, model: GGUFModel, choice: Choice, importance: Floats | None
) -> str | None:
    source = model.sources[choice.name]
    if file.shape(choice.name) != source.shape or file.type(choice.name) != choice.type:
        return f"{choice.name} is {file.type(choice.name)} {list(file.shape(choice.name))}"
    count = source.shape[0]
    if len(source.shape) == 1:
        spans = [(0, count)]
    else:
        spans = [(row, row + 1) for row in sampled_rows(count)]
    for start, stop in spans:
        expected = Slab(source, choice.type, start, stop, importance).encoded()
        if not np.array_equal(file.encoded(choice.name, start, stop), expected):
            return f"{choice.name} differs in row {start}"
    return None


CHANGED_TENSORS = "changed tensors"
PIECE = 16 * 1024 * 1024


def check_changed_tensors(tuned: Path, base: Path, names: set[str]) -> Check:
    """Compare the two files' tensors byte by byte; `names`: those the adapter changes."""
    ours, theirs = GGUFFile(tuned).tensors, GGUFFile(base).tensors
    differing, wrong = 0, []
    with tuned.open("rb") as our_file, base.open("rb") as their_file:
        for name, tensor in ours.items():
            other = theirs.get(name)
            same = other is not None and _same_bytes(our_file, tensor, their_file, other)
            if name in names:
                differing += not same
            elif not same and other is not None:
                wrong.append(name)
    figures = {"adapted": len(names), "differing": differing, "wrongly_differing": len(wrong)}
    if wrong:
        return Check(
            CHANGED_TENSORS, False, f"not adapted, yet unlike the base: {wrong[:5]}", figures
        )
    return Check(
        CHANGED_TENSORS,
        differing > 0,
        f"{differing} of {len(names)} adapted tensors differ from the base's, the others are equal",
        figures,
    )


def _same_bytes(
    our_file: BinaryIO, ours: GGUFTensor, their_file: BinaryIO, theirs: GGUFTensor
) -> bool:
    if (ours.type, ours.size) != (theirs.type, theirs.size):
        return False
    for done in range(0, ours.size, PIECE):
        count = min(PIECE, ours.size - done)
        our_file.seek(ours.offset + done)
        their_file.seek(theirs.offset + done)
        if our_file.read(count) != their_file.read(count):
            return False
    return True
