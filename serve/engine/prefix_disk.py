"""Prefixes of finished requests on disk, found again after a restart.

A folder holds those that can be exchanged: of one model, adapter, KV cache type and release (see
`prefix_identity`). The folders' common root is bounded in bytes; whatever was used longest ago goes
first. Several servers may use one root: files are whole or absent, and one that another server has
removed is one not found.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tuneserve.errors import UsageError
from tuneserve.serve.engine.activation import Adapter, shared_key
from tuneserve.serve.engine.prefix_files import (
    DamagedPrefixError,
    file_bytes,
    read_prefix,
    read_tokens,
    write_prefix,
)
from tuneserve.serve.engine.prefixes import SHORTEST_OFFLOADED, CachedPrefix, Tokens

logger = logging.getLogger("tuneserve.engine")

SUFFIX = ".prefix"

_LOOK_AGAIN = 1.0
"""Seconds after which a folder may be read again for other servers' files."""

_PAUSE = 60.0
"""Seconds without writing after the disk refused it."""

_MUCH_LONGER = 8
"""So many times as long as what is wanted of it, a file is not read."""

_UNWRITTEN = 4
"""Prefixes that may wait to be written; more are let go, for they take memory."""


class Folder:
    """The prefixes of one folder, by path; read again when it has changed. Safe from any thread.

    All of them begin with what `adapter` (None: the base) computed; in the base's folder are those
    of activated adapters too."""

    def __init__(self, path: Path, adapter: str | None) -> None:
        self.path = path
        self.adapter = adapter
        self._known: dict[str, CachedPrefix] = {}
        self._changed = -1
        self._looked = -_LOOK_AGAIN
        self._lock = threading.Lock()

    def longest(self, adapter: Adapter, wanted: Tokens) -> tuple[Path | None, int]:
        """The file with the longest beginning in common, and its length; of a file that is much
        longer than that, too much would be read."""
        self._refresh()
        with self._lock:
            lengths = {
                name: length
                for name, one in self._known.items()
                if (length := one.length_for(adapter, wanted)) * _MUCH_LONGER >= len(one.tokens)
            }
        best = max(lengths, key=lengths.__getitem__, default=None)
        if best is None or not lengths[best]:
            return None, 0
        return self.path / best, lengths[best]

    def holds(self, prefix: CachedPrefix) -> bool:
        """Is there a file that is read where this prefix is wanted?"""
        return self.longest(prefix.adapter, prefix.tokens)[1] == len(prefix.tokens)

    def superfluous(self, prefix: CachedPrefix) -> list[Path]:
        """Files that are a beginning of this one. A much shorter one is not: where it is wanted,
        this one is not read."""
        with self._lock:
            return [
                self.path / name
                for name, one in self._known.items()
                if len(one.tokens) < len(prefix.tokens) <= len(one.tokens) * _MUCH_LONGER
                and prefix.length_for(one.adapter, one.tokens) == len(one.tokens)
            ]

    def remove(self, path: Path) -> None:
        with self._lock:
            self._known.pop(path.name, None)
        path.unlink(missing_ok=True)

    def add(self, path: Path, prefix: CachedPrefix) -> None:
        """Note a file of this prefix, whose data are not kept."""
        with self._lock:
            self._known[path.name] = CachedPrefix(prefix.adapter, prefix.tokens)

    def _refresh(self) -> None:
        if time.monotonic() - self._looked < _LOOK_AGAIN:
            return
        self._looked = time.monotonic()
        try:
            changed = self.path.stat().st_mtime_ns
            if changed == self._changed:
                return
            names = {path.name for path in self.path.iterdir() if path.suffix == SUFFIX}
        except FileNotFoundError:
            return
        self._changed = changed
        with self._lock:
            for gone in self._known.keys() - names:
                del self._known[gone]
            new = names - self._known.keys()
        for name in new:
            with contextlib.suppress(FileNotFoundError):
                try:
                    self.add(self.path / name, read_tokens(self.path / name, self.adapter))
                except (DamagedPrefixError, OSError) as error:
                    discard(self, self.path / name, error)


class DiskPrefixes:
    """The prefixes on disk, within `limit` bytes. `find` and `save` belong to the engine's thread;
    files are written in another. Close it."""

    def __init__(self, root: Path, limit: int, folder_name: Callable[[str | None], str]) -> None:
        """`folder_name` gives the name of an adapter's folder (None: the base's). Raises UsageError
        if others could have put something into `root`, or nothing can be written."""
        prepare(root)
        self._root = root
        self._limit = limit
        self._folder_name = folder_name
        self._folders: dict[str, Folder] = {}
        self._paused_until = 0.0
        self._queue: queue.Queue[tuple[Folder, CachedPrefix] | None] = queue.Queue(_UNWRITTEN)
        self._closing = False
        self._thread = threading.Thread(target=self._write_all, name="prefixes", daemon=True)
        self._thread.start()

    def find(self, adapter: Adapter, wanted: Tokens, least: int) -> CachedPrefix | None:
        """The prefix with the longest beginning in common with `wanted`, of `least` tokens or more;
        None if there is none. A damaged file is removed."""
        folder = self._folder(adapter)
        path, length = folder.longest(adapter, wanted)
        if path is None or length < max(least, SHORTEST_OFFLOADED):
            return None
        try:
            prefix = read_prefix(path, folder.adapter)
            os.utime(path)
        except FileNotFoundError:
            folder.remove(path)
            return None
        except (DamagedPrefixError, OSError) as error:
            discard(folder, path, error)
            return None
        if prefix.length_for(adapter, wanted) < length:
            return None  # Another server has replaced the file since its tokens were read.
        return prefix

    def save(self, prefix: CachedPrefix) -> None:
        """Have a prefix written, unless it is there. While the engine runs, it is let go if others
        wait to be written already."""
        if len(prefix.tokens) < SHORTEST_OFFLOADED or not len(prefix.data):
            return
        folder = self._folder(prefix.adapter)
        if file_bytes(prefix.tokens, prefix.data) > self._limit:
            return
        if folder.holds(prefix):
            return
        with contextlib.suppress(queue.Full):
            self._queue.put((folder, prefix), block=self._closing)

    def last(self) -> None:
        """From now on nothing is let go: `save` waits for its turn."""
        self._closing = True

    def close(self) -> None:
        """Returns when all is written."""
        self._queue.put(None)
        self._thread.join()

    def _folder(self, adapter: Adapter) -> Folder:
        first = shared_key(adapter)
        name = self._folder_name(first)
        if name not in self._folders:
            self._folders[name] = Folder(self._root / name, first)
        return self._folders[name]

    def _write_all(self) -> None:
        while (job := self._queue.get()) is not None:
            if time.monotonic() < self._paused_until:
                continue
            try:
                self._write(*job)
            except (OSError, UsageError) as error:
                self._paused_until = time.monotonic() + _PAUSE
                logger.warning("prefixes are not written to disk for a while: %s", error)

    def _write(self, folder: Folder, prefix: CachedPrefix) -> None:
        name = hashlib.sha256(prefix.tokens.data)
        if folder.adapter != prefix.adapter:
            name.update(repr(prefix.adapter).encode())
        path = folder.path / f"{name.hexdigest()[:32]}{SUFFIX}"
        self._shrink(self._limit - file_bytes(prefix.tokens, prefix.data))
        folder.path.mkdir(mode=0o700, exist_ok=True)
        write_prefix(path, prefix)
        folder.add(path, prefix)
        for shorter in folder.superfluous(prefix):
            folder.remove(shorter)

    def _shrink(self, size: int) -> None:
        """Remove the files used longest ago until all take at most `size` bytes."""
        files = []
        for path in self._root.glob(f"*/*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(one for _, one, _ in files)
        for _, one, path in sorted(files):
            if total <= size:
                return
            path.unlink(missing_ok=True)
            total -= one


def discard(folder: Folder, path: Path, error: Exception) -> None:
    """Remove a file that can't be used, and say so."""
    why = str(error)
    logger.warning("a prefix on disk is dropped: %s", why if str(path) in why else f"{path}: {why}")
    with contextlib.suppress(OSError):
        folder.remove(path)


def prepare(root: Path) -> None:
    """Make the root for this user alone: what is in it is passed to llama.cpp, and is what people
    wrote."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = root.stat()
    except OSError as error:
        raise UsageError(
            f"no prefixes can be kept there: {error.strerror}",
            where=str(root),
            hint="Choose another --prefix-directory.",
        ) from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise UsageError(
            "others can write into this folder, and what is in it would be trusted",
            where=str(root),
            hint="Choose a --prefix-directory that is yours alone (chmod 700).",
        )
