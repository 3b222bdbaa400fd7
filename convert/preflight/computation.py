"""What llama.cpp computes from a GGUF of the untrained base is what transformers computes from its
weights: a key of config.json that one of them leaves out shows before a training.

A process of its own computes it: the check beside it does without torch, and llama.cpp may end a
process over a file that it can't take.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Bytes, Floats, Ids
from tuneserve.child import answer_request, own_module, run_child
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.tensors import TensorFile, spans_of
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.convert.preflight.trainer_model import check_trainer_model
from tuneserve.errors import TuneserveError
from tuneserve.extras import leave_out
from tuneserve.findings import Finding
from tuneserve.gguf.architectures.computed import ignored_window
from tuneserve.gguf.reader import GGUFTensor

_TOKENS, _KINDS, _SEQUENCES = 96, 48, 2  # a sequence's length, different ids, sequences
_ADVICE = (
    "A key of its config.json (of RoPE, attention, windows or norms) means something that "
    "llama.cpp does not compute."
)


class UnwrittenFile(TensorFile):
    """The GGUF of a checkpoint as far as it is asked for: metadata from a file that has no tensors,
    rows from the checkpoint."""

    def __init__(self, metadata: Path, model: GGUFModel) -> None:
        super().__init__(metadata)
        self._sources = model.sources
        nothing: Bytes = np.empty(0, np.uint8)
        self.tensors = {
            name: GGUFTensor(0, tuple(source.shape), 0, 0, nothing)
            for name, source in model.sources.items()
        }

    def rows_at(self, name: str, wanted: Ids) -> Floats:
        rows = self._sources[name].rows
        found: Floats = np.concatenate([rows(*span) for span in spans_of(wanted)])
        return found


def check_computation(
    model: GGUFModel, tokenizer: Path, metadata: Path, *, limit: float, threads: int
) -> list[Finding]:
    """The contract of a conversion (`check_probe`) on random tokens, with one layer of every kind.
    `metadata`: a GGUF of the model's metadata; the probe is written beside it.

    What llama.cpp said of a probe that it does not load is found; raises TuneserveError with the
    last line that the process wrote if it died over it.
    """
    request = {
        "base": str(model.checkpoint.directory), "tokenizer": str(tokenizer), "name": model.name,
        "metadata": str(metadata), "limit": limit, "threads": threads,
    }  # fmt: skip
    try:
        answer = run_child(
            own_module("tuneserve.convert.preflight.computation"),
            what="computing with the untrained base", stdin=json.dumps(request), hint=_ADVICE,
            env={"GGML_NO_BACKTRACE": "1"},
        )  # fmt: skip
    except TuneserveError as error:
        # An assertion of ggml's, or the exception; before it come warnings of libraries.
        error.problems = error.problems[-1:]
        raise
    return [Finding(**one) for one in json.loads(answer)]


def _compared(model: GGUFModel, metadata: Path, *, limit: float, threads: int) -> list[Finding]:
    from tuneserve.convert.verify.probe import check_probe, needed_layers

    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    if refused := check_trainer_model(model):
        return refused
    random = np.random.default_rng(0)
    kinds = random.integers(0, model.vocabulary_size, _KINDS)
    length = min(_TOKENS, ignored_window(model.config) or _TOKENS)
    sequences = [
        [int(number) for number in random.choice(kinds, length)] for _ in range(_SEQUENCES)
    ]
    checks = check_probe(
        UnwrittenFile(metadata, model), model, sequences, folder=metadata.parent, limit=limit,
        threads=threads, layers=needed_layers(model),
    )  # fmt: skip
    return [
        Finding(check.contract, "ok" if "limit" in check.figures else "note", check.detail)
        if check.passed
        else Finding(check.contract, "refused", check.detail, _ADVICE)
        for check in checks
    ]


def _answer(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    checkpoint = MergedCheckpoint(Path(request["base"]))
    model = GGUFModel(checkpoint, Path(request["tokenizer"]), name=request["name"])
    metadata = Path(request["metadata"])
    try:
        found = _compared(model, metadata, limit=request["limit"], threads=request["threads"])
    except TuneserveError as error:
        # The probe is no file that the user knows.
        own = not error.where or Path(error.where).is_relative_to(metadata.parent)
        shown = error.message if own else f"{error.where}: {error.message}"
        found = [Finding("computation", "refused", shown, _ADVICE)]
    return [asdict(one) for one in found]


if __name__ == "__main__":
    leave_out("torchvision")  # transformers checks every configuration with it
    answer_request(_answer)
