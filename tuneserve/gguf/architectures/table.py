"""The shape of an architecture's table, and what all of them share."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from tuneserve.arrays import Floats, Ids
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures.stacks import Stack
from tuneserve.gguf.architectures.values import Values
from tuneserve.gguf.reader import ArchitectureMetadata

RowOrder = Ids
Config = Mapping[str, Any]
Entries = list[tuple[str, Literal["uint32", "float32", "string", "bool", "array"], Any]]

# llama.cpp adds these to the projections of any model.
BIASES = ("attn_q", "attn_k", "attn_v", "attn_qkv")

Order = Callable[[Config, int], RowOrder]


def no_import(metadata: ArchitectureMetadata) -> dict[str, Any]:
    """`to_config` of an architecture that has no way back from a GGUF."""
    raise UsageError(
        "a GGUF of this architecture can be made, but not imported",
        hint="Name the model's Hugging Face checkpoint as the base.",
    )


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    `tensors` and `layer_tensors` map GGUF names to Hugging Face names, both without '.weight';
    the latter belong to a block: 'blk.7.' + name on one side, 'model.layers.7.' + name on the
    other.
    config.json comes from GGUF metadata by `to_config(metadata)` and has the `model_type` (where it
    is not the GGUF's name) and the `constants`; `to_metadata(config)` is the reverse, as (key
    without the architecture's prefix, value type, value).
    `row_order[name](config, rows)` says which Hugging Face row each GGUF row of a tensor is, and
    `column_order` which column, where the two sides differ; `values`, what is done to its numbers.
    `stacks` are a block's tensors that are cut out of stacked parameters (experts), by GGUF name
    with its suffix; `exact` maps GGUF names to Hugging Face names where one of the two has no
    suffix or another one. `absent(config, layer)`: which of a block's tensors this one lacks.
    `extra_tensors(config)` yields GGUF tensors that are computed, not stored in a checkpoint.
    `ignored`: Hugging Face names, as regular expressions, that a checkpoint may hold and the model
    does not compute with. `optional`: those of `tensors` that a checkpoint may lack.
    `no_adapter`: GGUF names of matrices that llama.cpp computes with without asking for an adapter;
    `biases`: those of a block that it computes a bias to, if the file has one.
    `when(config)`: is a model of one of the `hf_names` of this architecture? Some names stand for
    several. `row_counts[name](config, size)`: in how many rows a GGUF has a vector of a checkpoint.
    `activation`: transformers' name of the function in the feed-forward that llama.cpp computes.
    """

    gguf_name: str
    hf_names: tuple[str, ...]
    tensors: Mapping[str, str]
    layer_tensors: Mapping[str, str]
    to_metadata: Callable[[Config], Entries]
    to_config: Callable[[ArchitectureMetadata], dict[str, Any]] = no_import
    model_type: str = ""
    constants: Config = field(default_factory=dict)
    row_order: Mapping[str, Order] = field(default_factory=dict)
    column_order: Mapping[str, Order] = field(default_factory=dict)
    values: Mapping[str, Values] = field(default_factory=dict)
    extra_tensors: Callable[[Config], Iterator[tuple[str, Floats]]] = lambda _: iter(())
    stacks: Mapping[str, Stack] = field(default_factory=dict)
    exact: Mapping[str, str] = field(default_factory=dict)
    absent: Callable[[Config, int], Container[str]] = lambda _config, _layer: ()
    ignored: tuple[str, ...] = ()
    no_adapter: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset({"output"})
    when: Callable[[Config], bool] = lambda _: True
    row_counts: Mapping[str, Callable[[Config, int], int]] = field(default_factory=dict)
    biases: tuple[str, ...] = BIASES
    activation: str = "silu"

    def config(self, metadata: ArchitectureMetadata) -> dict[str, Any]:
        """The part of config.json that stands in the metadata."""
        return {
            "architectures": [self.hf_names[0]],
            "model_type": self.model_type or self.gguf_name,
            **self.constants,
            **self.to_config(metadata),
        }

    def hf_name(self, gguf_name: str) -> str | None:
        """Hugging Face name of a GGUF tensor; None if this architecture has no such tensor."""
        if (match := re.fullmatch(r"blk\.(\d+)\.(.+)", gguf_name)) and match.group(2) in self.exact:
            return f"model.layers.{match.group(1)}.{self.exact[match.group(2)]}"
        stem, suffix = _split_suffix(gguf_name)
        if match := re.fullmatch(r"blk\.(\d+)\.(.+)", stem):
            inner = self.layer_tensors.get(match.group(2))
            return inner and f"model.layers.{match.group(1)}.{inner}{suffix}"
        outer = self.tensors.get(stem)
        return outer and f"{outer}{suffix}"

    def gguf_tensor_name(self, hf_name: str) -> str | None:
        """GGUF name of a Hugging Face tensor; None if this architecture has no such tensor."""
        if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", hf_name):
            inner = _key_of(self.exact, match.group(2))
            if inner is not None:
                return f"blk.{match.group(1)}.{inner}"
        stem, suffix = _split_suffix(hf_name)
        if match := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem):
            inner = _key_of(self.layer_tensors, match.group(2))
            return inner and f"blk.{match.group(1)}.{inner}{suffix}"
        outer = _key_of(self.tensors, stem)
        return outer and f"{outer}{suffix}"

    def gguf_row_order(self, gguf_name: str, config: Config, rows: int) -> RowOrder | None:
        """GGUF row i of this tensor is Hugging Face row `order[i]`; None: the same rows."""
        order = _of_tensor(self.row_order, gguf_name)
        return None if order is None else order(config, rows)

    def gguf_column_order(self, gguf_name: str, config: Config, columns: int) -> RowOrder | None:
        """The same of its columns."""
        order = _of_tensor(self.column_order, gguf_name)
        return None if order is None else order(config, columns)

    def gguf_shape(self, gguf_name: str, config: Config, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in a GGUF of a tensor that has this one in a checkpoint."""
        if len(shape) > 2:  # the kernels of a convolution, one for each channel
            return tuple(size for size in shape if size != 1)
        count = _of_tensor(self.row_counts, gguf_name)
        if count is None or len(shape) > 1:
            return shape
        rows = count(config, shape[0])
        return rows, shape[0] // rows

    def gguf_values(self, gguf_name: str) -> Values | None:
        """What is done to the numbers of this tensor; None: nothing."""
        return _of_tensor(self.values, gguf_name)

    def reads_bias(self, hf_name: str) -> bool:
        """Does llama.cpp compute with this bias, where the file has it?"""
        name = self.gguf_tensor_name(hf_name) or ""
        return re.sub(r"^blk\.\d+\.", "", name).removesuffix(".bias") in self.biases

    def biased_modules(self) -> list[str]:
        """The last names of the modules to which llama.cpp computes a bias."""
        names = (self.layer_tensors[each] for each in self.biases if each in self.layer_tensors)
        return [name.rpartition(".")[2] for name in names]

    def is_ignored(self, hf_name: str) -> bool:
        """Does the model compute without this tensor of a checkpoint?"""
        return any(re.fullmatch(pattern, hf_name) for pattern in (_ROTARY, *self.ignored))


_ROTARY = r".*\.rotary_emb\.inv_freq"  # older transformers wrote them
Found = TypeVar("Found")


def _of_tensor(by_name: Mapping[str, Found], gguf_name: str) -> Found | None:
    """What a table says of a tensor, by its name without block, and with or without suffix."""
    inner = re.sub(r"^blk\.\d+\.", "", gguf_name)
    return by_name.get(inner) or by_name.get(_split_suffix(inner)[0])


def _key_of(names: Mapping[str, str], value: str) -> str | None:
    return next((key for key, found in names.items() if found == value), None)


def _split_suffix(name: str) -> tuple[str, str]:
    for suffix in (".weight", ".bias"):
        if name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return name, ""
