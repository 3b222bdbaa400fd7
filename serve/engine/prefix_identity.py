"""What keys and values depend on beside the tokens: only where all of it is equal may a prefix of
another run be used.

A file of weights is known by its size, the time it was changed, and the hash of SAMPLES blocks
spread over it: training changes nearly every weight, and reading all of them would add a second for
each GiB to every start. A file that is touched or copied anew counts as another one, which costs
computing its prefixes again and nothing else. A LoRA is small: it is hashed as a whole.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tuneserve.llama import LlamaModel, backend
from tuneserve.serve.engine.prefix_files import FORMAT
from tuneserve.settings import ServeSettings

SAMPLES = 64
_SAMPLE_BYTES = 65536

_PART = re.compile(r"-00001-of-(\d{5})\.gguf$")


def context_identity(model: LlamaModel, settings: ServeSettings, *, cells: int) -> str:
    """What the model's file, the release, and the settings of a context with that many cells have
    to do with keys and values. The file is the one that was loaded: call it right after that."""
    api = backend()
    architecture = model.metadata("general.architecture")
    # Where a model has two sets of rotations, the size of the context chooses between them.
    rotations = model.metadata(f"{architecture}.rope.scaling.original_context_length")
    facts = (
        FORMAT,
        api.__version__,
        api.LLAMA_STATE_SEQ_VERSION,
        settings.cache_type_k,
        settings.cache_type_v,
        settings.flash_attention,
        cells if rotations is not None else None,
        [_weights_identity(path) for path in _parts(model.path)],
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def folder_name(context: str, adapter: str | None) -> str:
    """The name of the folder for prefixes of this context under an adapter, which is known by the
    SHA-256 of its file."""
    return hashlib.sha256(repr((context, adapter)).encode()).hexdigest()[:32]


def _parts(path: Path) -> list[Path]:
    """The files of a model that was split into several."""
    found = _PART.search(path.name)
    if found is None:
        return [path]
    return sorted(path.parent.glob(f"{path.name[: found.start()]}-*-of-{found[1]}.gguf"))


def _weights_identity(path: Path) -> tuple[int, int, str]:
    status = path.stat()
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        for sample in range(SAMPLES):
            file.seek(max(0, status.st_size - _SAMPLE_BYTES) * sample // (SAMPLES - 1))
            checksum.update(file.read(_SAMPLE_BYTES))
    return status.st_size, status.st_mtime_ns, checksum.hexdigest()
