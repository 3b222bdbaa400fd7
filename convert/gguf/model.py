"""A checkpoint (merged or not) as what a GGUF of it holds: metadata and tensor sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.gguf.quantization import (
    AUTO,
    MIXTURES,
    UNQUANTIZED,
    Choice,
    choose_types,
    file_type,
)
from tuneserve.convert.gguf.stacks import StackedTensor
from tuneserve.convert.gguf.vocabulary import Value, Vocabulary
from tuneserve.convert.merge.checkpoint import MergedCheckpoint
from tuneserve.errors import UsageError
from tuneserve.gguf.architectures import by_hf_name
from tuneserve.gguf.architectures.common import with_suffix
from tuneserve.gguf.architectures.computed import check_computed
from tuneserve.gguf.architectures.table import Architecture, RowOrder
from tuneserve.gguf.architectures.values import Values
from tuneserve.gguf.system_prompt import SYSTEM_PROMPT
from tuneserve.model_shape import expert_count

# Rows that are read though they are not wanted, rather than reading twice.
LARGEST_GAP = 64
QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION: the generation of ggml's block formats


@dataclass(frozen=True)
class CheckpointTensor:
    """One tensor of the checkpoint as a GGUF has it: rows (`order`) and `columns` in its order, its
    numbers changed (`values`)."""

    checkpoint: MergedCheckpoint
    name: str
    shape: tuple[int, ...]
    order: RowOrder | None = None
    columns: RowOrder | None = None
    values: Values | None = None

    @property
    def names(self) -> list[str]:
        """The stored tensors that it is made of."""
        return [self.name]

    @property
    def place(self) -> str:
        """Where it comes from, for errors."""
        return self.checkpoint.place(self.name)

    @property
    def is_vector(self) -> bool:
        """Does the checkpoint store a vector, in however many rows a GGUF has it?"""
        return len(self.checkpoint.shape(self.name)) == 1

    def rows(self, start: int, stop: int) -> Floats:
        if self.is_vector and len(self.shape) > 1:
            width = self.shape[1]
            found = self._in_order(start * width, stop * width).reshape(-1, width)
        else:
            found = self._in_order(start, stop)
        if self.columns is not None:
            found = np.take(found, self.columns, axis=-1)
        return found if self.values is None else self.values.forward(found)

    def back(self, values: Floats) -> Floats:
        """Rows of a GGUF as the checkpoint has them, but for the order of the rows."""
        if self.columns is not None:
            values = np.take(values, np.argsort(self.columns), axis=-1)
        return values if self.values is None else self.values.back(values)

    def _in_order(self, start: int, stop: int) -> Floats:
        if self.order is None:
            return self.checkpoint.rows(self.name, start, stop)
        wanted = self.order[start:stop]
        ordered = np.sort(wanted)
        runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > LARGEST_GAP) + 1)
        pieces = [
            self.checkpoint.rows(self.name, int(run[0]), int(run[-1]) + 1)[run - run[0]]
            for run in runs
        ]
        return np.concatenate(pieces)[np.searchsorted(ordered, wanted)]


@dataclass(frozen=True)
class ComputedTensor:
    """A small tensor that is in no checkpoint (RoPE factors)."""

    values: Floats
    names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def rows(self, start: int, stop: int) -> Floats:
        return self.values[start:stop]


Source = CheckpointTensor | ComputedTensor | StackedTensor


class GGUFModel:
    """What goes into a GGUF of this checkpoint, whatever its quantization."""

    def __init__(
        self, checkpoint: MergedCheckpoint, tokenizer: Path, *, name: str, system: str = ""
    ) -> None:
        """`tokenizer`: directory of the tokenizer to write; `name`: general.name; `system`: the
        system prompt that it was trained with. The types that `auto` stands for are set later, as
        `mix`.

        Raises UsageError for an architecture, tensor or tokenizer that is not supported.
        """
        self.checkpoint = checkpoint
        self.name = name
        self.system = system
        self.architecture: Architecture = by_hf_name(checkpoint.architecture, checkpoint.config)
        self.config = checkpoint.config
        check_computed(self.architecture, self.config)
        self.sources: dict[str, Source] = self._find_sources()
        self.mix: Mapping[str, str] = {}
        self.vocabulary_size: int = self.sources["token_embd.weight"].shape[0]
        self.vocabulary = Vocabulary(
            tokenizer,
            rows=self.vocabulary_size,
            architecture=self.architecture.gguf_name,
            config=self.config,
        )

    @property
    def parameters(self) -> int:
        return sum(prod(source.shape) for source in self.sources.values())

    @property
    def changed(self) -> set[str]:
        """GGUF names of the tensors that the adapter changes."""
        return {
            name
            for name, source in self.sources.items()
            if any(self.checkpoint.is_changed(stored) for stored in source.names)
        }

    def row_order(self, gguf_name: str) -> RowOrder | None:
        """GGUF row i of this tensor is the checkpoint's row `order[i]`; None: the same rows."""
        source = self.sources[gguf_name]
        return source.order if isinstance(source, CheckpointTensor) else None

    def column_order(self, gguf_name: str) -> RowOrder | None:
        """The same of its columns."""
        source = self.sources[gguf_name]
        return source.columns if isinstance(source, CheckpointTensor) else None

    def choices(
        self,
        quantization: str,
        *,
        has_imatrix: bool = False,
        overrides: Mapping[str, str] | None = None,
    ) -> list[Choice]:
        """The type of each tensor in a GGUF of this quantization; `overrides` names, by tensor, a
        type other than the mixture's."""
        heads = int(self.config["num_attention_heads"])
        if quantization == AUTO:
            overrides = {**self.mix, **(overrides or {})}
        return choose_types(
            {name: source.shape for name, source in self.sources.items()},
            quantization,
            layers=int(self.config["num_hidden_layers"]),
            grouping=heads // int(self.config.get("num_key_value_heads") or heads),
            experts=expert_count(self.config),
            has_imatrix=has_imatrix,
            overrides=overrides,
            kept=dict.fromkeys(self._packed, "MXFP4"),
        )

    @property
    def _packed(self) -> list[str]:
        """The tensors that are stored as MXFP4 blocks and stay so."""
        return [
            name
            for name, source in self.sources.items()
            if isinstance(source, StackedTensor) and source.packed is not None
        ]

    @property
    def own_metadata(self) -> dict[str, Value]:
        """The key that no other converter writes, if there is anything to say in it."""
        return {SYSTEM_PROMPT: ("string", self.system)} if self.system else {}

    def metadata(
        self, quantization: str, *, overrides: Mapping[str, str] | None = None
    ) -> dict[str, Value]:
        """Every metadata key, as key → (GGUF value type, value), in llama.cpp's order.
        `overrides`: types of tensors other than the quantization's."""
        from gguf import size_label

        prefix = self.architecture.gguf_name
        config = self.config.changed(vocab_size=self.vocabulary_size)
        entries: dict[str, Value] = {
            "general.architecture": ("string", prefix),
            "general.type": ("string", "model"),
            "general.name": ("string", self.vocabulary.model_name(self.name)),
            "general.size_label": ("string", size_label(self.parameters, 0, 0, 0)),
        }
        for key, kind, value in self.architecture.to_metadata(config):
            entries[f"{prefix}.{key}"] = (kind, value)
        entries |= self.vocabulary.metadata() | self.own_metadata
        entries["general.quantization_version"] = ("uint32", QUANTIZATION_VERSION)
        entries["general.file_type"] = ("uint32", self._file_type(quantization, overrides or {}))
        return entries

    def _file_type(self, quantization: str, overrides: Mapping[str, str]) -> int:
        """The quantization's number, or where other types make most of the file theirs."""
        shapes = {name: source.shape for name, source in self.sources.items()}
        mixed = file_type(self.choices(quantization, overrides=overrides), shapes)
        if quantization == AUTO or mixed != file_type(self.choices(quantization), shapes):
            return mixed
        if quantization in UNQUANTIZED and self._packed:
            return MIXTURES["MXFP4_MOE"].file_type
        return MIXTURES[quantization].file_type

    def _find_sources(self) -> dict[str, Source]:
        sources: dict[str, Source] = {**self._stacks()}
        stacked = {stored for source in sources.values() for stored in source.names}
        unknown = []
        for name in self.checkpoint.names:
            if name in stacked:
                continue
            gguf_name = self.architecture.gguf_tensor_name(name)
            if gguf_name is None:
                if not self.architecture.is_ignored(name):
                    unknown.append(name)
                continue
            shape = self.checkpoint.shape(name)
            sources[gguf_name] = CheckpointTensor(
                self.checkpoint,
                name,
                self.architecture.gguf_shape(gguf_name, self.config, shape),
                self.architecture.gguf_row_order(gguf_name, self.config, shape[0]),
                self.architecture.gguf_column_order(gguf_name, self.config, shape[-1]),
                self.architecture.gguf_values(gguf_name),
            )
        if unknown:
            raise UsageError(
                f"{len(unknown)} tensors don't belong to {self.checkpoint.architecture}",
                where=str(self.checkpoint.directory),
                problems=unknown,
            )
        self._check_biases()
        self._check_complete(sources)
        for name, values in self.architecture.extra_tensors(self.config):
            sources[name] = ComputedTensor(values)
        return sources

    def _stacks(self) -> dict[str, StackedTensor]:
        found: dict[str, StackedTensor] = {}
        for layer in range(int(self.config["num_hidden_layers"])):
            for name, stack in self.architecture.stacks.items():
                source = f"model.layers.{layer}.{stack.source}"
                matrices = stack.matrices(self.config) if stack.matrices else None
                parameter = self.checkpoint.expert_parameter(source, matrices)
                if parameter is not None:
                    cut = stack.cut(self.config, *parameter.shape[1:])
                    found[f"blk.{layer}.{name}"] = StackedTensor(
                        self.checkpoint, parameter, cut, stack.transposed
                    )
        return found

    def _check_biases(self) -> None:
        """Raise UsageError for biases of the adapter's that llama.cpp does not compute with."""
        names = self.checkpoint.added_biases
        unread = [name for name in names if not self.architecture.reads_bias(name)]
        if unread:
            raise UsageError(
                f"llama.cpp computes {self.checkpoint.architecture} without these biases of the "
                "adapter (lora_bias)",
                where=str(self.checkpoint.adapter and self.checkpoint.adapter.directory),
                problems=unread,
                hint="Train without lora_bias, or with it on "
                f"{', '.join(self.architecture.biased_modules())} alone.",
            )

    def _check_complete(self, sources: Mapping[str, Source]) -> None:
        """Raise UsageError naming the tensors that every layer should have and some lack."""
        tensors = set(self.architecture.tensors) - self.architecture.optional
        expected = {with_suffix(name) for name in tensors}
        names = [with_suffix(name) for name in self.architecture.layer_tensors]
        names += [*self.architecture.stacks, *self.architecture.exact]
        for layer in range(int(self.config["num_hidden_layers"])):
            absent = self.architecture.absent(self.config, layer)
            expected |= {f"blk.{layer}.{name}" for name in names if name not in absent}
        missing = sorted(expected - set(sources))
        if missing:
            raise UsageError(
                f"{len(missing)} tensors are missing from the checkpoint",
                where=str(self.checkpoint.directory),
                problems=[str(self.architecture.hf_name(name) or name) for name in missing],
            )
