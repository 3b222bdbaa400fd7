"""LoRA adapters (GGUF) over one set of base weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneserve.errors import TuneserveError
from tuneserve.llama import LlamaModel, backend, check_is_gguf, forget_errors, last_error


def load_adapters(model: LlamaModel, paths: Mapping[str, Path]) -> dict[str, Any]:
    """llama.cpp's handles of the adapters, by name; they live as long as the model.

    Raises UsageError or TuneserveError naming the file that can't be loaded.
    """
    handles = {}
    for name, path in paths.items():
        check_is_gguf(path)
        forget_errors()
        handle = backend().llama_adapter_lora_init(model.handle, os.fsencode(path))
        if not handle:
            raise TuneserveError(
                f"llama.cpp can't load this adapter: {last_error()}",
                where=str(path),
                hint="It must be a LoRA GGUF made for this base model.",
            )
        handles[name] = handle
    return handles
