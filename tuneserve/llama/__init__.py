"""llama.cpp through llama-cpp-python's low-level calls, typed.

library.py loads it, model.py a GGUF, context.py computes over batches of tokens, lora.py puts
adapters on, ggml.py quantizes. `ctypes` objects that llama.cpp keeps a pointer to are kept alive
here. Importing this package does not load llama.cpp; `backend()` does.
"""

from __future__ import annotations

from tuneserve.gguf.reader import check_is_gguf
from tuneserve.llama.context import LlamaContext, TokenBatch, served_context
from tuneserve.llama.library import (
    backend,
    built_with_amx,
    forget_errors,
    free_gpu_memory,
    last_error,
    llama_module,
    physical_cores,
)
from tuneserve.llama.model import LlamaModel
from tuneserve.llama.special_texts import TooManyTokensError

__all__ = [
    "LlamaContext",
    "LlamaModel",
    "TokenBatch",
    "TooManyTokensError",
    "backend",
    "built_with_amx",
    "check_is_gguf",
    "forget_errors",
    "free_gpu_memory",
    "last_error",
    "llama_module",
    "physical_cores",
    "served_context",
]
