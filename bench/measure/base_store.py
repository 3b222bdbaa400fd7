"""The base's measurements, kept beside the runs: a second tune of the same base finds them.

A file for every base GGUF, named by its SHA-256; in it the measurements by their keys, so that
what is found is what would be measured. The files used last are kept, up to a limit.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

from tuneserve.bench.measure.journal import Journal, Row, rows_with
from tuneserve.bench.measure.values import ANSWER, CHOICE, LIKELIHOOD, TEXT
from tuneserve.bench.measure.work import NOISE_FLOOR
from tuneserve.durable import Appended
from tuneserve.locks import locked

FOLDER = ".base-measurements"
MOST_BYTES = 1 << 30
MOST_FILES = 16
# Speed is of a machine at a time, so base and tuned are timed in one sitting.
KINDS = (LIKELIHOOD, CHOICE, ANSWER, TEXT)
MODELS = ("base", NOISE_FLOOR)


class BaseStore:
    """The measurements of one base; `sha256` is that of its GGUF."""

    def __init__(self, runs: Path, sha256: str) -> None:
        self._folder = runs / FOLDER
        self.path = self._folder / f"{sha256}.jsonl"

    def give(self, journal: Journal, wanted: Iterable[tuple[str, str, str]]) -> tuple[int, str]:
        """Put what is here of the `wanted` measurements into the journal, which lacks them; returns
        how many answers were found, and the day of the newest (ISO 8601)."""
        missing = {
            journal.key_of(*name): name
            for name in wanted
            if name[0] in KINDS and name[1] in MODELS and not journal.has(*name)
        }
        if not missing or not self.path.is_file():
            return 0, ""
        found = rows_with(self.path, missing)
        # In the order asked for, as if they had been measured now.
        for key, name in missing.items():
            if key in found:
                journal.add(*name, found[key].value, made=found[key].made)
        answers = [row for key, row in found.items() if missing[key][0] in (ANSWER, CHOICE)]
        if found:
            os.utime(self.path)
        return len(answers), max((row.made for row in found.values()), default="")[:10]

    def take(self, journal: Journal) -> None:
        """Keep what the journal has of the base."""
        found = {
            row.key: (name, row)
            for model in MODELS
            for name, row in journal.rows(model)
            if name[0] in KINDS
        }
        rows = {key: row for key, (_, row) in found.items()}
        if not rows:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder / ".lock"):
            names = {key: name for key, (name, _) in found.items()}
            known = rows_with(self.path, names) if self.path.is_file() else {}
            lines = [_line(row) for key, row in rows.items() if key not in known]
            if self.path.is_file() and self.path.stat().st_size > MOST_BYTES // 2:
                self.path.unlink()
                lines = [_line(row) for row in rows.values()]
            # A line that a kill cut in two must not swallow the next one.
            begun = self.path.is_file() and self.path.stat().st_size
            with contextlib.closing(Appended(self.path, seconds=math.inf)) as file:
                file.write(b"\n" * bool(begun) + b"".join(lines))
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        files = sorted(self._folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
        size = sum(path.stat().st_size for path in files)
        while len(files) > 1 and (len(files) > MOST_FILES or size > MOST_BYTES):
            oldest = files.pop(0)
            if oldest != self.path:
                size -= oldest.stat().st_size
                oldest.unlink()


def _line(row: Row) -> bytes:
    return json.dumps(vars(row), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
