"""Base and adapter as one checkpoint that is computed as it is read.

Nothing is held but the adapter: `rows` reads the base's rows, adds the low-rank change in float32
and hands them on. Without an adapter it is the base itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convert.adapter import Adapter
from convert.safetensors_reader import Floats, SafetensorsFiles
from tuneserve.errors import UsageError

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


class MergedCheckpoint:
    """`config` (config.json), `names` of its tensors, their `shape`s and `rows`."""

    def __init__(self, base: Path, adapter: Adapter | None = None) -> None:
        """Raises UsageError if the adapter does not fit the base."""
        self.directory = base
        self.config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
        self._base = SafetensorsFiles.of_directory(base)
        self.adapter = adapter
        self.tied = bool(self.config.get("tie_word_embeddings")) or HEAD not in self._base
        self._changes = adapter.changes if adapter else {}
        self._replaced = adapter.replaced if adapter else {}
        if adapter:
            adapter.check_belongs_to(self._base, tied=self.tied)
        self.names = self._tensor_names()

    @property
    def architecture(self) -> str:
        """config.json's `architectures[0]`."""
        names = self.config.get("architectures") or []
        if not names:
            raise UsageError(
                "config.json names no architecture", where=str(self.directory / "config.json")
            )
        return str(names[0])

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base[self._stored_name(name)].shape

    def is_changed(self, name: str) -> bool:
        """Does the adapter change this tensor?"""
        return name in self._changes or name in self._replaced

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """Rows [start, stop) of the merged tensor, float32. Safe to call from several threads."""
        stored = self._replaced.get(name) or self._base[self._stored_name(name)]
        values = stored.rows(start, stop)
        change = self._changes.get(name)
        if change is None:
            return values
        return change.apply(values, start, stored.shape[0] if stop is None else stop)

    def _tensor_names(self) -> list[str]:
        names = [name for name in self._base if not (self.tied and name == HEAD)]
        # Embedding and output share one matrix until an adapter changes only one of them.
        if self.tied and (self.is_changed(EMBEDDING) or self.is_changed(HEAD)):
            names.append(HEAD)
        return names

    def _stored_name(self, name: str) -> str:
        return EMBEDDING if name == HEAD and name not in self._base else name


def checkpoint_config(merged: MergedCheckpoint) -> dict[str, Any]:
    """config.json of the merged checkpoint: untied where the adapter made them differ."""
    return {**merged.config, "tie_word_embeddings": merged.tied and HEAD not in merged.names}
