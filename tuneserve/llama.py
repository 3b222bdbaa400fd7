"""A thin typed layer over llama-cpp-python's low-level calls: model, context, logits.

Used where the product needs llama.cpp itself: to verify a conversion, to measure perplexity, and
by the server's engine. `ctypes` objects that llama.cpp keeps a pointer to are kept alive here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tuneserve.closing import Closing
from tuneserve.errors import TuneserveError, UsageError

GGUF_MAGIC = b"GGUF"
SplitMode = Literal["layer", "row", "none"]
_LOG_ERROR = 4  # ggml_log_level: 1 debug, 2 info, 3 warn, 4 error, 5 continuation

_recent_errors: deque[str] = deque(maxlen=8)


@cache
def llama_module() -> Any:
    """The llama_cpp module, imported so that one C++ runtime serves the whole process.

    A build linked with -static-libstdc++ carries copies of it that mix with the one that NumPy or
    torch have loaded: the process dies in `std::regex` or in `free()`. Symbols of the shared one,
    once it is in the global scope, go before all copies.
    """
    # Threads that wait for one another spin, by default so long that the process they wait for a
    # core from gets none: with one busy process beside a server of two threads it generated 33
    # tokens/s, 81 with this; alone 232 and 235.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # Without the shared runtime (other systems, musl) there is nothing to mix with.
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
    # llama.cpp calls back for the life of the process: a collected callback is a crash.
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


def _load_mode(*, mmap: bool, mlock: bool) -> int:
    """llama_load_mode: how the file's bytes come into memory, and whether they may leave it."""
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
    allowed = os.sched_getaffinity(0)
    siblings = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            siblings.add(topology.read_text().strip())
        except OSError:
            return len(allowed)
    return len(siblings)


class LlamaModel(Closing):
    """A loaded GGUF. Close it, or use it as a context manager."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = 0,
        tensor_split: Sequence[float] = (),
        split_mode: SplitMode = "layer",
        main_gpu: int = 0,
        mmap: bool = True,
        mlock: bool = False,
        vocab_only: bool = False,
        repack: bool = True,
    ) -> None:
        """Load `path`; `gpu_layers` = -1 offloads all; `repack`: copy weights into the layout that
        is fastest on this CPU; the rest is as ServeSettings says.

        Raises UsageError for a split that this machine's GPUs can't have, TuneserveError if the
        file can't be loaded.
        """
        check_is_gguf(path)
        self.path = path
        self._api = backend()
        params = self._api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers if gpu_layers >= 0 else 1 << 20
        params.split_mode = getattr(self._api, f"LLAMA_SPLIT_MODE_{split_mode.upper()}")
        params.main_gpu = main_gpu
        shares = self._tensor_split(tensor_split)
        params.tensor_split = shares
        params.load_mode = _load_mode(mmap=mmap, mlock=mlock)
        params.vocab_only = vocab_only
        params.use_extra_bufts = repack and not built_with_amx()
        forget_errors()
        self.handle = self._api.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise TuneserveError(
                f"llama.cpp can't load it: {last_error()}",
                where=str(path),
                hint="The file may be truncated or made for another llama.cpp; make it again.",
            )
        self.vocab = self._api.llama_model_get_vocab(self.handle)
        self.n_vocab = int(self._api.llama_vocab_n_tokens(self.vocab))
        self.n_ctx_train = int(self._api.llama_model_n_ctx_train(self.handle))
        self.n_layer = int(self._api.llama_model_n_layer(self.handle))

    def _tensor_split(self, shares: Sequence[float]) -> Any:
        """A float for every device llama.cpp could have; None leaves the split to it."""
        if not shares:
            return None
        most = int(self._api.llama_max_devices())
        if len(shares) > most:
            raise UsageError(
                f"{len(shares)} shares for at most {most} devices", where="tensor_split"
            )
        return (ctypes.c_float * most)(*shares)

    def close(self) -> None:
        if self.handle:
            self._api.llama_model_free(self.handle)
            self.handle = None

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids; `add_special` adds BOS/EOS as the model says, `parse_special` reads
        special tokens written out in the text."""
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 2
        while True:
            ids = (self._api.llama_token * room)()
            count = self._api.llama_tokenize(
                self.vocab, data, len(data), ids, room, add_special, parse_special
            )
            if count >= 0:
                return list(ids[:count])
            room = -count

    def token_bytes(self, token: int, *, special: bool = True) -> bytes:
        """The bytes a token stands for (half a character, perhaps); b'' for a special token
        unless `special`."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = self._api.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def token_text(self, token: int) -> str:
        """A token's text as stored in the vocabulary; '' for -1 (no such token)."""
        if token < 0:
            return ""
        text: bytes = self._api.llama_vocab_get_text(self.vocab, token)
        return text.decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        """Does this token end a generation (EOS, end of turn, …)?"""
        return bool(self._api.llama_vocab_is_eog(self.vocab, token))

    @property
    def bos(self) -> int:
        return int(self._api.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> int:
        return int(self._api.llama_vocab_eos(self.vocab))

    @property
    def adds_bos(self) -> bool:
        return bool(self._api.llama_vocab_get_add_bos(self.vocab))

    def metadata(self, key: str) -> str | None:
        """A metadata value as text, e.g. 'general.name'; None where the key is absent."""
        room = 256
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = int(self._api.llama_model_meta_val_str(self.handle, key.encode(), buffer, room))
            if count < 0:
                return None
            if count < room:
                return buffer.value.decode("utf-8", "replace")
            room = count + 1


class LlamaContext(Closing):
    """A KV cache and compute buffers over a model, for whole sequences of logits."""

    def __init__(
        self,
        model: LlamaModel,
        *,
        n_ctx: int,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_seq_max: int = 1,
        cache_type_k: str = "f16",
        cache_type_v: str = "f16",
        flash_attention: bool = True,
        threads: int = 0,
        kv_unified: bool = True,
    ) -> None:
        """`kv_unified`: the sequences share the cells of `n_ctx`; else each has its equal part."""
        self.model = model
        self._api = backend()
        params = self._api.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = min(n_batch, n_ctx)
        params.n_ubatch = min(n_ubatch, params.n_batch)
        params.n_seq_max = n_seq_max
        params.kv_unified = kv_unified
        params.type_k = cache_type(cache_type_k)
        params.type_v = cache_type(cache_type_v)
        params.flash_attn_type = 1 if flash_attention else 0
        params.n_threads = params.n_threads_batch = threads or physical_cores()
        params.no_perf = True
        forget_errors()
        self.handle = self._api.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise TuneserveError(
                f"llama.cpp can't make a context of {n_ctx} tokens: {last_error()}",
                where=str(model.path),
                hint="Try a smaller context, another KV cache type or fewer GPU layers.",
            )
        self.n_ctx = n_ctx
        self.n_batch = int(params.n_batch)
        self.memory = self._api.llama_get_memory(self.handle)

    def close(self) -> None:
        if self.handle:
            self._api.llama_free(self.handle)
            self.handle = None

    def logits(self, tokens: Sequence[int], *, start: int = 0) -> npt.NDArray[np.float32]:
        """Next-token logits of one sequence from an empty cache.

        Returns float32 of shape [len(tokens) - start, n_vocab]; row i is what follows
        tokens[: start + i + 1].
        """
        if len(tokens) > self.n_ctx:
            raise UsageError(f"{len(tokens)} tokens don't fit a context of {self.n_ctx}")
        self._api.llama_memory_clear(self.memory, True)
        rows = np.empty((len(tokens) - start, self.model.n_vocab), dtype=np.float32)
        batch = self._api.llama_batch_init(self.n_batch, 0, 1)
        try:
            for first in range(0, len(tokens), self.n_batch):
                self._decode(batch, tokens[first : first + self.n_batch], first, start, rows)
        finally:
            self._api.llama_batch_free(batch)
        return rows

    def _decode(
        self,
        batch: Any,
        tokens: Sequence[int],
        first: int,
        start: int,
        rows: npt.NDArray[np.float32],
    ) -> None:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = first + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = first + i >= start
        status = self._api.llama_decode(self.handle, batch)
        if status != 0:
            raise TuneserveError(f"llama_decode failed with status {status}")
        for i in range(len(tokens)):
            if first + i >= start:
                pointer = self._api.llama_get_logits_ith(self.handle, i)
                rows[first + i - start] = np.ctypeslib.as_array(pointer, (self.model.n_vocab,))


def check_is_gguf(path: Path) -> None:
    """Raise UsageError if `path` is missing or no GGUF, before llama.cpp is asked."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise UsageError("no such file", where=str(path)) from None
    except OSError as error:
        raise UsageError(f"can't be read: {error.strerror}", where=str(path)) from error
    if magic != GGUF_MAGIC:
        raise UsageError("not a GGUF file", where=str(path))
