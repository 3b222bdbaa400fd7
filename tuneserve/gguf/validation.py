"""Is this GGUF a model that llama.cpp can be given? Looked at before llama.cpp opens it: where it
finds a contradiction in a file it often ends the process, at the load or at the first request.

Refused is what no file of a working model has. What an architecture may want besides is llama.cpp's
own to refuse, in a process of its own (tuneserve.llama.trial).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuneserve.errors import UsageError
from tuneserve.gguf.hyperparameters import hyperparameter_problems
from tuneserve.gguf.reader import STRING, GGUFFile, shown
from tuneserve.gguf.vocabulary import has_vocabulary, vocabulary_problems

_HINT = "Download or make it again, and compare its checksum."
# What a GGUF can be besides a model: `general.type`.
_OTHER_KINDS = {
    "adapter": "It is an adapter: name the base's GGUF, and the adapter with --lora.",
    "mmproj": "It is the part of a model that sees: name the GGUF of the model itself.",
    "imatrix": "It is an importance matrix: name the GGUF of the model itself.",
}


def check_model(file: GGUFFile, *, weights: bool = True) -> None:
    """Raise UsageError, naming each key and tensor that is wrong, unless this file (all parts of
    it: `open_whole`) can be a model.

    `weights`: it is to have them; else it may be a vocabulary alone.
    """
    where = str(file.path)
    if hint := _OTHER_KINDS.get(str(file.get("general.type"))):
        raise UsageError("this GGUF is no model", where=where, hint=hint)
    name = file.require("general.architecture")
    if file.value_types["general.architecture"] != STRING or not name:
        raise UsageError(
            f"its general.architecture is no name: {shown(name)}", where=where, hint=_HINT
        )
    problems = [*hyperparameter_problems(file, weights=bool(file.tensors))]
    if not has_vocabulary(file):
        problems.append("tokenizer.ggml.model says that it has no vocabulary: no text can be read")
    problems += vocabulary_problems(file)
    if weights and not file.tensors:
        problems.append("it holds no tensors")
    if problems:
        raise not_working(file.path, problems)


def not_working(path: Path, problems: Sequence[str]) -> UsageError:
    """The error for a file that no working model has been written to."""
    return UsageError(
        "this GGUF can't be a working model", where=str(path), problems=problems, hint=_HINT
    )
