"""The measurements so far, on disk: a killed benchmark goes on where it stopped.

An append-only JSONL file. Its first line names what is measured (a fingerprint of models, prompts
and settings); with another fingerprint the file is started anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

Key = tuple[str, str, str]
"""(kind of measurement, model, example id)"""


class Journal:
    """Measurements by kind, model and example; each `add` is on disk when it returns."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._values: dict[Key, dict[str, Any]] = {}
        whole_bytes = self._load(fingerprint)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if whole_bytes else "w+b")
        # A line that the kill cut in two is dropped, so that the next one starts clean.
        self._file.truncate(whole_bytes)
        self._file.seek(whole_bytes)
        if not whole_bytes:
            self._append({"fingerprint": fingerprint})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._values)

    def has(self, kind: str, model: str, example: str = "") -> bool:
        return (kind, model, example) in self._values

    def get(self, kind: str, model: str, example: str = "") -> dict[str, Any]:
        """The measurement; KeyError if it has not been made."""
        return self._values[kind, model, example]

    def add(self, kind: str, model: str, example: str, value: Mapping[str, Any]) -> None:
        self._append({"kind": kind, "model": model, "id": example, "value": dict(value)})
        self._values[kind, model, example] = dict(value)

    def _append(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def _load(self, fingerprint: str) -> int:
        """Read what is there; returns how many bytes of it are whole lines worth keeping."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        lines = content.split(b"\n")[:-1]  # what follows the last newline was cut off
        rows = [json.loads(line) for line in lines]
        if not rows or rows[0].get("fingerprint") != fingerprint:
            return 0
        for row in rows[1:]:
            self._values[row["kind"], row["model"], row["id"]] = row["value"]
        return sum(len(line) + 1 for line in lines)
