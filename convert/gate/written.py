"""Contract: the file holds the merged tensors, quantized, and nothing else.

Rows of every tensor are computed, quantized and compared byte by byte with what is in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from convert.gate.checks import Check
from convert.gguf_output import Slab
from convert.model import GGUFModel
from convert.quantization import Choice
from convert.tensor_file import TensorFile

CONTRACT = "written as merged"
ROWS = 8
Floats = npt.NDArray[np.float32]


def check_written(
    file: TensorFile,
    model: GGUFModel,
    choices: Sequence[Choice],
    importance: Mapping[str, Floats] | None,
    *,
    threads: int,
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
    return Check(CONTRACT, not problems, detail, {"tensors": len(choices), "wrong": len(problems)})


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
        numbers = np.unique(np.linspace(0, count - 1, ROWS, dtype=int))
        spans = [(int(row), int(row) + 1) for row in numbers]
    for start, stop in spans:
        expected = Slab(source, choice.type, start, stop, importance).encoded()
        if not np.array_equal(file.encoded(choice.name, start, stop), expected):
            return f"{choice.name} differs in row {start}"
    return None
