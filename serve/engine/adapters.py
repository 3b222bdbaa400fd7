"""LoRA adapters beside a loaded base: loaded and unloaded while requests run.

An adapter is known to requests by its name, and to the engine by its key, the SHA-256 of its file:
a name that is loaded again with another file finds none of the former one's prefixes, and two names
of one file share theirs.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tuneserve.console import human_bytes
from tuneserve.errors import UsageError
from tuneserve.gguf.lora import AdapterBase, check_adapter, invocation_tokens
from tuneserve.gguf.reader import GGUFFile, check_is_gguf
from tuneserve.gguf.system_prompt import system_prompt_of
from tuneserve.llama import LlamaModel, free_gpu_memory
from tuneserve.llama.lora import free_adapter, load_adapter
from tuneserve.serve.engine.activation import Activated, Adapter, last_place
from tuneserve.serve.engine.types import UnknownAdapterError

GPU_MARGIN_BYTES = 256 << 20
"""GPU memory left free beside an adapter: computing with one takes larger buffers."""

_NAME = re.compile(r"[\w.:/+@-]{1,128}")
_CHUNK = 1 << 20


class NoPlaceError(UsageError):
    """There is no place for an adapter now; there may be when another has gone."""


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A file that has been checked: `copy` is one in memory that nobody changes, `key` its SHA-256,
    `size` in bytes, `left_out` the tensors that llama.cpp ignores. `invocation`: the token ids that
    switch an activated adapter on; none of another. `system`: the prompt it was trained with."""

    path: Path
    copy: Path
    key: str
    size: int
    left_out: tuple[str, ...]
    invocation: tuple[int, ...] = ()
    system: str = ""


@dataclass(slots=True)
class LoadedAdapter:
    """`handle` is llama.cpp's; `uses` counts the requests that have begun and not ended."""

    handle: Any
    size: int
    invocation: tuple[int, ...] = ()
    system: str = ""
    names: set[str] = field(default_factory=set)
    uses: int = 0


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """What is served under a name: `number` is no other adapter's while the process lives, `file`
    the name of the file, `size` its bytes, `requests` those that have asked for it so far."""

    name: str
    number: int
    file: str
    size: int
    requests: int
    invocation: tuple[int, ...]


@dataclass(slots=True)
class _Served:
    """A name's adapter."""

    key: str
    number: int
    file: str
    requests: int = 0


class AdapterRegistry:
    """The adapters of one model. Safe from any thread, but for `load` and `collect`, which belong
    to the engine's."""

    def __init__(self, model: LlamaModel, *, most: int, most_bytes: int) -> None:
        self._model = model
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._loaded: dict[str, LoadedAdapter] = {}
        self._served: dict[str, _Served] = {}
        self._numbers = itertools.count()

    @cached_property
    def _base(self) -> AdapterBase:
        return AdapterBase.read(self._model.path)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the adapters that requests may ask for, in the order of loading."""
        return tuple(self._served)

    @property
    def served(self) -> list[ServedAdapter]:
        """All that requests may ask for, in the order of loading."""
        with self._lock:
            return [
                ServedAdapter(name, one.number, one.file, loaded.size, one.requests,
                              loaded.invocation)
                for name, one in self._served.items()
                for loaded in [self._loaded[one.key]]
            ]  # fmt: skip

    @property
    def loaded(self) -> int:
        """Adapters in memory, those included that only running requests still use."""
        return len(self._loaded)

    @property
    def loaded_bytes(self) -> int:
        """Of the adapters in memory."""
        with self._lock:
            return sum(one.size for one in self._loaded.values())

    def key_of(self, name: str) -> str | None:
        """The key of the adapter with this name; None if there is none."""
        served = self._served.get(name)
        return None if served is None else served.key

    def system_prompt(self, name: str) -> str:
        """What the adapter with this name was trained with; '' also if there is none."""
        with self._lock:
            served = self._served.get(name)
            return "" if served is None else self._loaded[served.key].system

    @contextmanager
    def opened(self, path: Path) -> Iterator[AdapterFile]:
        """A copy of the file in memory, checked: what is loaded then is what was checked, whatever
        becomes of the file. Raises UsageError if it is no adapter of this model, or too large."""
        check_is_gguf(path)
        copy = os.memfd_create("adapter", os.MFD_CLOEXEC)
        try:
            key, size = self._copy(path, copy)
            inside = Path(f"/proc/self/fd/{copy}")
            try:
                header = GGUFFile(inside)
            except UsageError as error:
                raise UsageError(error.message, where=str(path), hint=error.hint) from error
            left_out = check_adapter(header, self._base, where=str(path))
            invocation = invocation_tokens(header)
            yield AdapterFile(
                path, inside, key, size, tuple(left_out), invocation, system_prompt_of(header)
            )
        finally:
            os.close(copy)

    def _copy(self, path: Path, target: int) -> tuple[str, int]:
        """(SHA-256, size) of a file that is copied."""
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as source, os.fdopen(target, "wb", closefd=False) as copy:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > self._most_bytes:
                    raise _too_large(path, self._most_bytes)
                digest.update(chunk)
                copy.write(chunk)
        return digest.hexdigest(), size

    def load(self, name: str, file: AdapterFile, *, replace: bool = False) -> None:
        """Serve an opened file under a name. Raises UsageError if the name is taken (unless it is
        to be replaced) or there are too many; TuneserveError if llama.cpp can't load it."""
        check_name(name)
        former = self.key_of(name)
        if former is not None and not replace:
            raise UsageError(f"there is an adapter '{name}' already", hint="Unload it first.")
        if former == file.key:
            return
        adapter = self._loaded.get(file.key)
        if adapter is None:
            adapter = self._new(file, replacing=former)
        with self._lock:
            if former is not None:
                self._loaded[former].names.discard(name)
            adapter.names.add(name)
            self._loaded[file.key] = adapter
            self._served[name] = _Served(file.key, next(self._numbers), file.path.name)

    def _new(self, file: AdapterFile, *, replacing: str | None) -> LoadedAdapter:
        # A replaced one that no request uses is freed right after.
        going = self._loaded.get(replacing) if replacing else None
        staying = [one for one in self._loaded.values() if one is not going or len(one.names) > 1]
        if len(staying) >= self._most:
            raise NoPlaceError(
                f"{self._most} adapters are loaded already",
                hint="Unload one, or raise max_adapters.",
            )
        if sum(one.size for one in staying) + file.size > self._most_bytes:
            raise _too_large(None, self._most_bytes)
        free = free_gpu_memory()
        if free and sum(free) < file.size + GPU_MARGIN_BYTES:
            raise NoPlaceError(f"{human_bytes(sum(free))} of GPU memory are too few for it")
        handle = load_adapter(self._model, file.path, activated=True, copy=file.copy)
        return LoadedAdapter(handle, file.size, file.invocation, file.system)

    def unload(self, name: str) -> None:
        """Take no more requests for this name. Raises UnknownAdapterError."""
        with self._lock:
            served = self._served.pop(name, None)
            if served is None:
                raise UnknownAdapterError(f"there is no adapter '{name}'")
            self._loaded[served.key].names.discard(name)

    def begin(self, name: str, prompt: Sequence[int]) -> Adapter:
        """A request of this name begins, with this prompt (token ids): what computes it. The
        adapter stays until `end`. Raises UnknownAdapterError."""
        with self._lock:
            served = self._served.get(name)
            if served is None:
                raise UnknownAdapterError(f"there is no adapter '{name}'")
            key = served.key
            adapter = self._loaded[key]
            adapter.uses += 1
            served.requests += 1
        if not adapter.invocation:
            return key
        start = last_place(prompt, adapter.invocation)
        if start is None:
            self.end(key)
            return None
        return Activated(key, start) if start else key

    def end(self, key: str | None) -> None:
        """A request that `begin` was called for has ended, by its adapter's key; None: it was of
        the base."""
        if key is not None:
            with self._lock:
                self._loaded[key].uses -= 1

    def handle(self, key: str) -> Any:
        return self._loaded[key].handle

    def collect(self) -> dict[str, Any]:
        """Handles, by key, of the adapters that have no name and no request left; they are out of
        the registry, and the caller frees them."""
        with self._lock:
            gone = [key for key, one in self._loaded.items() if not one.names and not one.uses]
            return {key: self._loaded.pop(key).handle for key in gone}


def check_name(name: str) -> None:
    """Raise UsageError unless it can be the name of a served adapter."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:200]!r} is no name for an adapter",
            hint="A name has up to 128 letters, digits and . _ - : / + @",
        )


def free_all(handles: dict[str, Any]) -> None:
    """Free what `collect` gave, once no context computes with it."""
    for handle in handles.values():
        free_adapter(handle)


def _too_large(path: Path | None, most: int) -> NoPlaceError:
    return NoPlaceError(
        f"adapters may take {human_bytes(most)} in all",
        where=str(path or ""),
        hint="Unload one, or raise adapter_memory.",
    )
