"""The measurements of a run, on disk: nothing that was measured once is measured again.

An append-only JSONL file. Each measurement has a key, the hash of everything that changes it
(`measure.keys`): what was measured under another key is kept, and not used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tuneserve.bench.measure.values import is_measurement
from tuneserve.durable import Appended
from tuneserve.files import atomic_path

Key = tuple[str, str, str]
"""(kind of measurement, model, example id)"""
FILE = "bench-journal.jsonl"  # in a run's folder
JOURNAL_FORM = 2
MOST_BYTES = 256 << 20  # of a file; beyond it only what is used now is kept
SYNC_SECONDS = 1.0
FINISHED = {"finished": True}


@dataclass(frozen=True)
class Row:
    """A measurement as it stands in a file; `made` is when it was taken (ISO 8601)."""

    key: str
    value: dict[str, Any]
    made: str


class Journal:
    """Measurements by kind, model and example. Each `add` survives a kill when it returns, and a
    loss of power `SYNC_SECONDS` later.

    `keys` are those under which measurements are made now; `fingerprint` is the key of those that
    it does not name. `conditions` says in words what the keys are made of, for each model: it is
    what a difference is explained with.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: str = "",
        keys: Mapping[Key, str] | None = None,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.path = path
        self._fingerprint, self._keys = fingerprint, keys or {}
        self._conditions = {model: dict(each) for model, each in (conditions or {}).items()}
        self._rows: dict[Key, Row] = {}
        self._others: Counter[str] = Counter()
        self._before: dict[str, dict[str, Any]] = {}
        self.damaged = 0
        self.is_finished = False
        kept = self._load()
        path.parent.mkdir(parents=True, exist_ok=True)
        too_large = sum(map(len, kept)) > MOST_BYTES
        if too_large:
            kept = [_line({"journal": JOURNAL_FORM}), *self._lines_in_use()]
        # What a link names is not written into: the run may be another's.
        if self.damaged or too_large or not kept or path.is_symlink():
            with atomic_path(path) as whole:
                whole.write_bytes(b"".join(kept or [_line({"journal": JOURNAL_FORM})]))
        self._file = Appended(path, seconds=SYNC_SECONDS)
        if self._conditions and self._conditions != self._before:
            self._append({"conditions": self._conditions})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._rows)

    def has(self, kind: str, model: str, example: str = "") -> bool:
        return (kind, model, example) in self._rows

    def get(self, kind: str, model: str, example: str = "") -> dict[str, Any]:
        """The measurement; KeyError if it has not been made."""
        return self._rows[kind, model, example].value

    def made(self, kind: str, model: str, example: str = "") -> str:
        """When it was made (ISO 8601)."""
        return self._rows[kind, model, example].made

    def key_of(self, kind: str, model: str, example: str = "") -> str:
        """The key under which a measurement is made now."""
        return self._keys.get((kind, model, example), self._fingerprint)

    def rows(self, model: str) -> Iterator[tuple[Key, Row]]:
        """What there is of one model."""
        return ((key, row) for key, row in self._rows.items() if key[1] == model)

    @property
    def newest(self) -> str:
        """When the newest measurement that is used was made; '' if there is none."""
        return max((row.made for row in self._rows.values()), default="")

    def add(
        self, kind: str, model: str, example: str, value: Mapping[str, Any], *, made: str = ""
    ) -> None:
        row = Row(self.key_of(kind, model, example), dict(value), made or _now())
        self._append({"kind": kind, "model": model, "id": example, **vars(row)})
        self._rows[kind, model, example] = row
        self.is_finished = False

    def finish(self) -> None:
        """Everything is measured and the report is written."""
        if not self.is_finished:
            self._append(FINISHED)
            self._file.sync()
        self.is_finished = True

    def notes(self) -> list[str]:
        """What a user has to know of what the file holds and what of it is not used, and why."""
        said = []
        if self.damaged:
            lines = "1 damaged line was" if self.damaged == 1 else f"{self.damaged} lines were"
            said.append(f"{self.path.name}: {lines} dropped; what stood there is measured again")
        for model, count in sorted(self._others.items()):
            said.append(
                f"{self.path.name}: {count:,} {'measurement' if count == 1 else 'measurements'} of "
                f"{model} {'is' if count == 1 else 'are'} kept but not used: "
                f"{self._why(model)}"
            )
        return said

    def _why(self, model: str) -> str:
        return what_changed(self._before.get(model), self._conditions.get(model))

    def _append(self, row: Mapping[str, Any]) -> None:
        self._file.write(_line(row))

    def _lines_in_use(self) -> list[bytes]:
        return [
            _line({"kind": kind, "model": model, "id": example, **vars(row)})
            for (kind, model, example), row in self._rows.items()
        ]

    def _load(self) -> list[bytes]:
        """Read what is there; returns the lines worth keeping. A line that is damaged, or that a
        kill cut in two, is dropped alone."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        lines = content.split(b"\n")
        # What follows the last newline was cut off: it may look whole, as 12 of 123 does.
        self.damaged = int(bool(lines.pop()))
        kept, wanted = [], Counter[Key]()
        for line in lines:
            row = _parsed(line)
            if row is None:
                self.damaged += 1
                continue
            if "kind" in row and not self._take(row, wanted):
                self.damaged += 1
                continue
            kept.append(line + b"\n")
            if "conditions" in row:
                self._before = row["conditions"]
            self.is_finished = row == FINISHED or (self.is_finished and "kind" not in row)
        for key in wanted:
            if key not in self._rows:
                self._others[key[1]] += 1
        return kept

    def _take(self, row: dict[str, Any], wanted: Counter[Key]) -> bool:
        """Use the measurement if it is one of now; False if what stands there is none."""
        name = row["kind"], row["model"], row["id"]
        if row.get("key") == self.key_of(*name):
            if not is_measurement(row["kind"], row["value"]):
                return False
            self._rows[name] = Row(row["key"], row["value"], str(row.get("made", "")))
        elif name in self._keys:
            wanted[name] += 1
        return True


def what_changed(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """Why what was measured under conditions `before` is not what would be measured `now`."""
    if before is None or now is None:
        return "made under other conditions, or by an older release"
    changed = [
        f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    return "; ".join(changed) or "the prompts, or those that shared a block, are others"


def rows_with(path: Path, names: Mapping[str, Key]) -> dict[str, Row]:
    """The measurements that a file holds of those wanted, by their keys; `names` says what each key
    stands for. A line that is damaged is left out."""
    found: dict[str, Row] = {}
    with path.open("rb") as file:
        for line in file:
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                row = json.loads(line)
                kind = names[row["key"]][0]
                if is_measurement(kind, row["value"]):
                    found[row["key"]] = Row(row["key"], row["value"], str(row["made"]))
    return found


def conditions_in(path: Path, model: str) -> dict[str, Any] | None:
    """The conditions that a journal names last for a model; None if it names none."""
    found = None
    with path.open("rb") as file:
        for line in file:
            row = _parsed(line) if b'"conditions"' in line else None
            if row is not None and isinstance(each := row.get("conditions", {}).get(model), dict):
                found = each
    return found


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The line's object, None if it is damaged."""
    with suppress(ValueError, RecursionError):
        row = json.loads(line)
        if isinstance(row, dict) and _is_whole(row):
            return row
    return None


def _is_whole(row: dict[str, Any]) -> bool:
    if "kind" not in row:
        said = row.get("conditions", {})
        named = isinstance(said, dict) and all(isinstance(each, dict) for each in said.values())
        return named and bool(row)
    names = all(isinstance(row.get(name), str) for name in ("kind", "model", "id"))
    return names and isinstance(row.get("value"), dict)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
