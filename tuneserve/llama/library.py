"""llama.cpp's library: loading it, its log, and what it says about this machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

from tuneserve.cores import allowed_cores

_LOG_ERROR = 4  # ggml_log_level: 1 debug, 2 info, 3 warn, 4 error, 5 continuation
_GPU_TYPES = (1, 2)  # ggml_backend_dev_type: GPU, integrated GPU

_recent_errors: deque[str] = deque(maxlen=8)


@cache
def llama_module() -> Any:
    """The llama_cpp module, imported so that one C++ runtime serves the whole process.

    A build linked with -static-libstdc++ has its own copy, which conflicts with the one that NumPy
    or torch have loaded: the process crashes in `std::regex` or in `free()`. Loaded into the global
    scope first, the shared library's symbols take precedence over all copies.
    """
    # OpenMP threads spin while they wait, by default so long that another thread that needs the
    # core does not get it. Beside one busy process, a server of two threads generated 33 tokens/s,
    # and 81 with this setting (alone 232 and 235).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Systems without the shared library (musl, for instance) have no such conflict.
    with contextlib.suppress(OSError):
        ctypes.CDLL("libstdc++.so.6", mode=ctypes.RTLD_GLOBAL)
    import llama_cpp

    return llama_cpp


@cache
def backend() -> Any:
    """The llama_cpp module, initialised once, its log silenced but its last errors kept."""
    llama_cpp = llama_module()

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def keep_errors(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        if level == _LOG_ERROR:
            _recent_errors.append(text.decode("utf-8", "replace").strip())

    llama_cpp.llama_log_set(keep_errors, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    # llama.cpp keeps a pointer to the callback: it must never be garbage-collected.
    llama_cpp._tuneserve_log_callback = keep_errors
    return llama_cpp


def last_error() -> str:
    """The first thing llama.cpp complained of since the last load: the cause; what follows it
    only passes the failure on."""
    return _recent_errors[0] if _recent_errors else "no reason given"


def forget_errors() -> None:
    """Start afresh, so that `last_error` speaks of what comes next."""
    _recent_errors.clear()


def cache_type(name: str) -> int:
    """ggml_type number of a KV cache type ('f16', 'q8_0', …)."""
    number: int = getattr(backend(), f"GGML_TYPE_{name.upper()}")
    return number


def load_mode(*, mmap: bool, mlock: bool) -> int:
    """llamaload_mode: how the file's bytes come into memory, and whether they may leave it."""
    name = "_".join(word for word, wanted in (("MMAP", mmap), ("MLOCK", mlock)) if wanted) or "NONE"
    mode: int = getattr(backend(), f"LLAMA_LOAD_MODE_{name}")
    return mode


@cache
def built_with_amx() -> bool:
    """Was the installed llama.cpp compiled with Intel AMX kernels?

    Those of this release load a tile configuration that the compiler has optimised away, and the
    process dies at the first prompt (ggml-org/llama.cpp issue 20824). They are used only through
    the extra buffer types, which are therefore left off in such a build.
    """
    return b"AMX_INT8 = 1" in backend().llama_print_system_info()


@cache
def physical_cores() -> int:
    """Physical cores this process may use; hyper-threads share the arithmetic units."""
    allowed = allowed_cores()
    siblings = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.add(topology.read_text().strip())
        except OSError:
            return len(allowed)
    return len(siblings)


def free_gpu_memory() -> list[int]:
    """Free bytes of each GPU that the installed llama.cpp can use."""
    if not backend().llama_supports_gpu_offload():
        return []
    # The device functions are ggml's; llama-cpp-python loads the library but does not bind them.
    from llama_cpp._ggml import libggml

    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    libggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    libggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_pointer, size_pointer]
    libggml.ggml_backend_dev_memory.restype = None
    sizes = []
    for index in range(libggml.ggml_backend_dev_count()):
        device = libggml.ggml_backend_dev_get(index)
        if libggml.ggml_backend_dev_type(device) in _GPU_TYPES:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            libggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            sizes.append(free.value)
    return sizes
