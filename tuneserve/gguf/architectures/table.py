"""The shape of an architecture's table, and what all of them share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tuneserve.arrays import Floats, Ids

RowOrder = Ids
Config = Mapping[str, Any]
ValueType = Literal["uint32", "float32", "string", "bool"]


class Metadata(Protocol):
    """GGUF metadata of one architecture, keys without its prefix ('block_count')."""

    def __getitem__(self, key: str) -> Any:
        """The value; UsageError where the key is absent."""

    def get(self, key: str, default: Any) -> Any: ...


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    `tensors` and `layer_tensors` map GGUF names to Hugging Face names, both without '.weight';
    the latter belong to a block: 'blk.7.' + name on one side, 'model.layers.7.' + name on the
    other. Those in `optional` may be absent; checkpoint tensors whose name ends in one of `ignored`
    are left out.
    `to_config(metadata)` builds config.json from GGUF metadata, `to_metadata(config)` the
    reverse, as (key without the architecture's prefix, value type, value).
    `row_order[name](config, rows)` says which Hugging Face row each GGUF row of a tensor is,
    where the two sides differ.
    `norm_shift` is added to every norm's weights on the way into a GGUF.
    `extra_tensors(config)` yields GGUF tensors that are computed, not stored in a checkpoint.
    """

    gguf_name: str
    hf_names: tuple[str, ...]
    tensors: Mapping[str, str]
    layer_tensors: Mapping[str, str]
    to_config: Callable[[Metadata], dict[str, Any]]
    to_metadata: Callable[[Config], list[tuple[str, ValueType, Any]]]
    row_order: Mapping[str, Callable[[Config, int], RowOrder]] = field(default_factory=dict)
    extra_tensors: Callable[[Config], Iterator[tuple[str, Floats]]] = lambda _: iter(())
    norm_shift: float = 0.0
    optional: frozenset[str] = frozenset({"output"})
    ignored: tuple[str, ...] = (".rotary_emb.inv_freq",)

    @property
    def required_tensors(self) -> list[str]:
        return [name for name in self.tensors if name not in self.optional]

    @property
    def required_layer_tensors(self) -> list[str]:
        return [name for name in self.layer_tensors if name not in self.optional]

    def hf_name(self, gguf_name: str) -> str | None:
        """Hugging Face name of a GGUF tensor; None if this architecture has no such tensor."""
        stem, suffix = _split_suffix(gguf_name)
        if match := re.fullmatch(r"blk\.(\d+)\.(.+)", stem):
            inner = self.layer_tensors.get(match.group(2))
            return inner and f"model.layers.{match.group(1)}.{inner}{suffix}"
        outer = self.tensors.get(stem)
        return outer and f"{outer}{suffix}"

    def gguf_tensor_name(self, hf_name: str) -> str | None:
        """GGUF name of a Hugging Face tensor; None if this architecture has no such tensor."""
        stem, suffix = _split_suffix(hf_name)
        if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem):
            for gguf_name, inner in self.layer_tensors.items():
                if inner == match.group(2):
                    return f"blk.{match.group(1)}.{gguf_name}{suffix}"
            return None
        for gguf_name, outer in self.tensors.items():
            if outer == stem:
                return f"{gguf_name}{suffix}"
        return None

    def gguf_row_order(self, gguf_name: str, config: Config, rows: int) -> RowOrder | None:
        """GGUF row i of this tensor is Hugging Face row `order[i]`; None: the same rows."""
        inner = _split_suffix(gguf_name)[0].rpartition(".")[2]
        order = self.row_order.get(inner)
        return None if order is None else order(config, rows)


def _split_suffix(name: str) -> tuple[str, str]:
    for suffix in (".weight", ".bias"):
        if name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return name, ""
