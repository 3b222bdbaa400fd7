"""A directory of LoRA adapters that is watched: each NAME.gguf in it is served as NAME."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tuneserve.console import say
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.serve.engine.adapters import NoPlaceError, check_name
from tuneserve.serve.engine.engine import Engine
from tuneserve.serve.engine.types import UnavailableError, UnknownAdapterError

logger = logging.getLogger("tuneserve.engine")

POLL_SECONDS = 1.0
SETTLED_SECONDS = 2.0
"""A file that was written less than this long ago is looked at twice before it is loaded: it must
not have changed meanwhile."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file does: time of the last change (ns), size (bytes), inode."""

    changed: int
    size: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        status = path.stat()
        return cls(status.st_mtime_ns, status.st_size, status.st_ino)


class AdapterDirectory:
    """Keeps an engine's adapters like the files of a directory, in a thread of its own.

    A file that can't be served is told once in the log, and again only after it has changed; one
    for which there was no place is tried again when others have gone. An adapter that was unloaded
    otherwise comes back when its file changes.
    """

    def __init__(self, engine: Engine, directory: Path, *, reserved: str) -> None:
        """`reserved` is the base's name. Raises UsageError if there is no such directory."""
        if not directory.is_dir():
            raise UsageError("no such directory", where=str(directory))
        self.directory = directory.resolve()
        self._engine = engine
        self._reserved = reserved
        self._seen: dict[str, Stamp] = {}
        self._taken: dict[str, Stamp] = {}
        self._served: dict[str, str] = {}
        self._without_place: set[str] = set()
        self._others: tuple[tuple[str, ...], int] = ((), 0)
        self._told: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="adapters", daemon=True)

    def start(self) -> None:
        """Load what is there, then watch until `close`."""
        self.poll()
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def inside(self, path: Path) -> Path:
        """The file that a path (relative to the directory, or absolute) names, links resolved.
        Raises UsageError if it is not inside the directory, or no file."""
        try:
            resolved = (self.directory / path).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            raise UsageError("there is no such file in the adapter directory") from None
        if not resolved.is_relative_to(self.directory) or not resolved.is_file():
            raise UsageError("there is no such file in the adapter directory")
        return resolved

    def poll(self) -> None:
        """Compare the directory with what was seen last, and load and unload what differs."""
        try:
            found = self._stamps()
        except OSError as error:
            self._tell_once("", f"warning: {self.directory} can't be read: {error.strerror}")
            return
        for name in self._taken.keys() - found.keys():
            del self._taken[name]
            self._told.pop(name, None)
            self._unload(name)
        others = (self._engine.adapters.names, self._engine.adapters.loaded)
        if others != self._others:
            for name in self._without_place:
                self._taken.pop(name, None)
            self._without_place.clear()
        for name, stamp in sorted(found.items()):
            age = time.time() - stamp.changed / 1e9
            settled = age > SETTLED_SECONDS or self._seen.get(name) == stamp
            if settled and self._taken.get(name) != stamp:
                self._taken[name] = stamp
                self._load(name)
        self._seen = found
        self._others = (self._engine.adapters.names, self._engine.adapters.loaded)

    def _stamps(self) -> dict[str, Stamp]:
        """Of the directory's GGUFs, by name."""
        stamps = {}
        for path in self.directory.glob("*.gguf"):
            if path.name.startswith("."):
                continue
            try:
                stamps[path.stem] = Stamp.of(path)
            except FileNotFoundError:  # removed meanwhile, or a link to nothing
                continue
            except OSError as error:  # a link to itself, say
                self._tell_once(path.stem, f"warning: {path} is not served: {error.strerror}")
        return stamps

    def _load(self, name: str) -> None:
        path = self.directory / f"{name}.gguf"
        try:
            check_name(name)
            if name == self._reserved:
                raise UsageError(f"'{name}' is the base's name")
            former = self._engine.adapters.key_of(name)
            if former is not None and self._served.get(name) != former:
                raise NoPlaceError(f"another adapter is served as '{name}'")
            file = self._engine.load_adapter(name, self.inside(path), replace=True)
        except UnavailableError:
            return
        except TuneserveError as error:
            if isinstance(error, NoPlaceError):
                self._without_place.add(name)
            reason = "; ".join([error.message, *error.problems[:3]])
            self._tell_once(name, f"warning: {path} is not served: {reason}")
            return
        except OSError as error:
            self._tell_once(name, f"warning: {path} is not served: {error.strerror}")
            return
        self._told.pop(name, None)
        self._served[name] = file.key
        say(f"adapter '{name}' is served ({path.name})")
        if file.left_out:
            say(f"warning: llama.cpp ignores {len(file.left_out)} norms in {path}")

    def _unload(self, name: str) -> None:
        """Unless another file is served under this name by now."""
        key = self._served.pop(name, None)
        if key is None or self._engine.adapters.key_of(name) != key:
            return
        try:
            self._engine.unload_adapter(name)
        except (UnavailableError, UnknownAdapterError):
            return
        say(f"adapter '{name}' is served no more: its file is gone")

    def _tell_once(self, name: str, message: str) -> None:
        if message != self._told.get(name):
            say(message)
        self._told[name] = message

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self.poll()
            except Exception:
                logger.exception("a look at the adapters failed")
