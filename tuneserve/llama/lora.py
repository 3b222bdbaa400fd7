"""LoRA adapters (GGUF) on top of a loaded model's weights."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from tuneserve.errors import TuneserveError, UsageError
from tuneserve.gguf.lora import AdapterBase, check_adapter
from tuneserve.gguf.reader import GGUFFile
from tuneserve.llama.context import LlamaContext
from tuneserve.llama.library import backend, forget_errors, last_error
from tuneserve.llama.model import LlamaModel


def load_adapter(
    model: LlamaModel, path: Path, *, activated: bool = False, copy: Path | None = None
) -> Any:
    """llama.cpp's handle of an adapter; it lives as long as the model, or until `free_adapter`.
    `activated`: it may be an activated one (aLoRA), which the caller switches on and off.
    `copy`: what is read in the file's stead; the caller has asked whether it fits the model
    (`check_adapter`).

    Raises UsageError or TuneserveError naming the file that can't be loaded.
    """
    if copy is None:
        check_adapter(GGUFFile(path), AdapterBase.read(model.path), where=str(path))
    read = copy or path
    forget_errors()
    handle = backend().llama_adapter_lora_init(model.handle, os.fsencode(read))
    if not handle:
        raise TuneserveError(
            f"llama.cpp can't load this adapter: {last_error().replace(str(read), str(path))}",
            where=str(path),
            hint="It must be a LoRA GGUF made for this base model.",
        )
    if not activated and backend().llama_adapter_get_alora_n_invocation_tokens(handle):
        free_adapter(handle)
        raise UsageError(
            "an activated LoRA (aLoRA) acts from certain tokens on, and can't be always on",
            where=str(path),
            hint="Serve it beside its base: tuneserve serve BASE --lora NAME=ADAPTER.",
        )
    return handle


def free_adapter(adapter: Any) -> None:
    """Free an adapter (of `load_adapter`) that no context computes with."""
    backend().llama_adapter_lora_free(adapter)


def use_adapter(context: LlamaContext, adapter: Any | None) -> None:
    """Compute with this adapter (of `load_adapter`) from now on, or with the base alone."""
    api = backend()
    count = 0 if adapter is None else 1
    handles = (api.llama_adapter_lora_p_ctypes * 1)(adapter)
    scales = (ctypes.c_float * 1)(1.0)
    status = api.llama_set_adapters_lora(context.handle, handles, count, scales)
    if status != 0:
        raise TuneserveError(f"llama_set_adapters_lora failed with status {status}")
