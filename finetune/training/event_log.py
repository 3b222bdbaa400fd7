"""The log that TensorBoard reads. Import it late: tensorboardX takes a moment."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from tuneserve.files import errors_named

_FLUSH_SECONDS = 10.0


class EventLog:
    """Scalars of a training in runs/NAME/tensorboard; a context manager.

    Written by the thread that trains, unlike tensorboardX's own writer: a full disk is then an
    error of the training, not a traceback of another thread.
    """

    def __init__(self, directory: Path, resumed_at: int | None) -> None:
        """A training that goes on drops what was logged past the step that it goes on from."""
        self._directory = directory
        with errors_named(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(directory / "events"))
            if resumed_at is not None:
                start = SessionLog(status=SessionLog.START)
                self._write(Event(step=resumed_at + 1, session_log=start))
        self._flushed = time.monotonic()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Log a value of a step. Raises OSError if it can't be written."""
        with errors_named(self._directory):
            self._write(Event(step=step, summary=scalar(name, value)))
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # An error that is on its way is the one to tell: what can't be flushed is part of it.
        hidden = contextlib.suppress(OSError) if error is not None else contextlib.nullcontext()
        with hidden, errors_named(self._directory):
            try:
                self._writer.flush()
            finally:
                self._writer.close()
