"""Base and adapter as one checkpoint that is computed as it is read.

Nothing is held but the adapter: `rows` reads the base's rows, adds the low-rank change in float32
and hands them on. Without an adapter it is the base itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.merge.adapter import Adapter, LowRank
from tuneserve.convert.merge.applied import EMBEDDING, HEAD, Applied, apply_adapter
from tuneserve.convert.merge.config import read_config
from tuneserve.convert.merge.experts import (
    ExpertParameter,
    Part,
    StackedLowRank,
    expert_parameter,
    read_parameter,
    stored_name,
)
from tuneserve.convert.merge.four_bit import FourBitTensor, ReadableTensor, readable_tensors
from tuneserve.convert.merge.mxfp4 import MXFP4Tensor
from tuneserve.convert.merge.resized import ResizedTable, Zeros
from tuneserve.convert.slabs import row_count, row_spans
from tuneserve.errors import UsageError
from tuneserve.files import read_json
from tuneserve.safetensors import StoredTensor, checkpoint_tensors
from tuneserve.text_model import is_shell, part_name, text_name

# Models whose stacked experts PEFT takes for transposed.
_TRANSPOSED = ("gpt_oss",)


class MergedCheckpoint:
    """`config` (config.json), `names` of its tensors, their `shape`s and `rows`.

    Of a model with eyes and ears they are the text model's; `outside` names its other tensors, and
    `file_config` is config.json as it is. `resized`: it has another number of tokens than the
    base's files. `added_biases` are those of its names that the base hasn't.
    """

    def __init__(
        self, base: Path, adapter: Adapter | None = None, *, vocabulary: int | None = None
    ) -> None:
        """`vocabulary`: rows of embedding and output, if not those that the base has: as many as
        the tuned model's, which are new.

        Raises UsageError if the adapter does not fit the base.
        """
        self.directory = base
        self.file_config = read_json(base / "config.json")
        self.config = read_config(base)
        self._file_names: dict[str, str] = {}
        self._base = self._read_base()
        self.adapter = adapter
        self.tied = bool(self.config.get("tie_word_embeddings")) or HEAD not in self._base
        self._shapes = {name: tensor.shape for name, tensor in self._base.items()}
        self._transposed = self.config.get("model_type") in _TRANSPOSED
        self._applied = Applied()
        if adapter:
            self._applied = apply_adapter(
                adapter, self._base, tied=self.tied, text_name=self._text_name,
                stored_name=self._stored_name, expert_parameter=self.expert_parameter,
            )  # fmt: skip
        stored_rows = self._base[EMBEDDING].shape[0] if EMBEDDING in self._base else 0
        if vocabulary is not None and vocabulary != stored_rows:
            for table in self._base.keys() & {EMBEDDING, HEAD}:
                self._base[table] = ResizedTable(self._base[table], vocabulary)
        self._head_follows = self.tied and self._applied.head_follows
        self.added_biases = [name for name in self._applied.biases if name not in self._base]
        self.names = self._tensor_names()
        self.resized = EMBEDDING in self.names and self.shape(EMBEDDING)[0] != stored_rows

    @property
    def architecture(self) -> str:
        """config.json's `architectures[0]`."""
        names = self.file_config.get("architectures") or []
        if isinstance(names, str):
            raise UsageError(
                f"architectures is {names!r}, no list", where=str(self.directory / "config.json")
            )
        if not names:
            raise UsageError(
                "config.json names no architecture", where=str(self.directory / "config.json")
            )
        return str(names[0])

    @property
    def stored(self) -> Mapping[str, ReadableTensor]:
        """The base's own tensors, by the text model's names."""
        return self._base

    @property
    def vocabulary(self) -> int:
        """The rows of the embedding."""
        return self.shape(EMBEDDING)[0]

    def base(self) -> MergedCheckpoint:
        """The base alone, with as many rows of tokens as this."""
        return MergedCheckpoint(self.directory, vocabulary=self.vocabulary)

    @property
    def left_out(self) -> dict[str, int]:
        """How many tensors are none of the text model's, by what they belong to."""
        return dict(Counter(map(part_name, self.outside)))

    def file_name(self, name: str) -> str:
        """What the base's files call a tensor."""
        embedding = self._file_names.get(EMBEDDING, EMBEDDING)
        if name == HEAD and embedding.startswith("language_model.model."):
            return f"language_model.{HEAD}"
        return self._file_names.get(name, name)

    def _read_base(self) -> dict[str, ReadableTensor]:
        """The tensors, those of a text model in a larger one by the names that it has alone."""
        found = readable_tensors(checkpoint_tensors(self.directory))
        self.outside: list[str] = []
        if not is_shell(self.file_config):
            return found
        for name in found:
            short = text_name(name)
            if short is None:
                self.outside.append(name)
            self._file_names[short or name] = name
        return {short: found[name] for short, name in self._file_names.items()}

    def _text_name(self, name: str) -> str | None:
        """The text model's name of a tensor that an adapter names; None if it is another part's."""
        return text_name(name) if is_shell(self.file_config) else name

    @property
    def changes(self) -> Mapping[str, LowRank | StackedLowRank]:
        """What the adapter adds to tensors, by name."""
        return self._applied.changes

    def expert_parameter(self, name: str, matrices: int | None = None) -> ExpertParameter | None:
        """The parameter of stacked experts that transformers calls `name`; None if it is none.

        `matrices`: a tensor of this name that has two dimensions is taken for that many.
        """
        if matrices and name in self._base:
            rows, columns = self._base[name].shape
            shape = matrices, rows // matrices, columns
            return ExpertParameter(shape, (Part(name, None, 0, shape[1]),))
        return expert_parameter(name, self._shapes, transposed=self._transposed)

    def expert(self, name: str, number: int) -> Floats | None:
        """The matrix of one expert in the parameter that transformers calls `name`, merged; None if
        that is no parameter of stacked experts."""
        parameter = self.expert_parameter(name)
        if parameter is None:
            return None
        return read_parameter(parameter, self.rows, *parameter.span(number))

    @property
    def kind(self) -> str:
        """What the base's weights are: 'bitsandbytes 4-bit, dequantized' or their type."""
        tensors = self._base.values()
        if any(isinstance(tensor, FourBitTensor) for tensor in tensors):
            return "bitsandbytes 4-bit, dequantized"
        if any(isinstance(tensor, MXFP4Tensor) for tensor in tensors):
            return "BF16, experts MXFP4"
        return ", ".join(sorted({tensor.dtype for tensor in tensors if len(tensor.shape) > 1}))

    def dtype(self, name: str) -> str:
        """safetensors' name of the type that the merged tensor is stored in ('BF16')."""
        if name in self.added_biases:
            return self._base[f"{name.removesuffix('.bias')}.weight"].dtype
        return self._base[self._stored_name(name)].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source(name)[1].shape

    def is_changed(self, name: str) -> bool:
        """Does the adapter change this tensor?"""
        return self._applied.is_changed(name)

    def adds_bias(self, name: str) -> bool:
        """Is this a bias that the base hasn't?"""
        return name in self.added_biases

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """Rows [start, stop) of the merged tensor, float32; of stacked experts those of all of them
        one after the other. Safe to call from several threads."""
        name, stored = self._source(name)
        stop = row_count(stored.shape) if stop is None else stop
        values = flat(stored).rows(start, stop)
        for changes in (self._applied.changes, self._applied.tokens):
            if (change := changes.get(name)) is not None:
                values = change.apply(values, start, stop)
        bias = self._applied.biases.get(name)
        return values if bias is None else values + bias[start:stop]

    def _source(self, name: str) -> tuple[str, ReadableTensor]:
        """By what name the adapter changes a tensor, and what it changes."""
        if name == HEAD and self._head_follows:
            name = EMBEDDING
        if name in self.added_biases:
            return name, Zeros(self._applied.biases[name].shape, self.dtype(name))
        replaced = self._applied.replaced
        if name in replaced:
            return name, replaced[name]
        stored = self._stored_name(name)
        # A tied output stays as the embedding was.
        table = replaced[stored] if stored in self._applied.untrained else self._base[stored]
        return (name if name == HEAD else stored), table

    def place(self, name: str) -> str:
        """The file and tensor that the merged tensor comes from, for errors about its numbers: the
        adapter is named where the base alone could be written."""
        name = EMBEDDING if name == HEAD and self._head_follows else name
        if name in self._applied.replaced:
            return f"{self._applied.replaced[name].path}: {name}"
        stored = self._stored_name(name)
        changed = ""
        if self.is_changed(name):
            alone = _fits_float16(flat(self._base[stored]))
            changed = ", with the adapter's change" if alone else ", in the base already"
        return f"{self.directory}: {stored}{changed}"

    def packed(self, name: str) -> MXFP4Tensor | None:
        """The stored tensor, if it is MXFP4 and the adapter leaves it as it is."""
        stored = self._base[self._stored_name(name)]
        kept = isinstance(stored, MXFP4Tensor) and not self.is_changed(name)
        return stored if kept and isinstance(stored, MXFP4Tensor) else None

    def replaced_names(self) -> list[str]:
        """Tensors that the adapter changes by no product of low rank: those that it brings whole
        and that are not the base's own, bit for bit (PEFT saves an adapted embedding's base too),
        biases and rows of tokens."""
        whole = [name for name in self._applied.replaced if not self._is_the_bases(name)]
        return [*whole, *self._applied.biases, *self._applied.tokens]

    def _is_the_bases(self, name: str) -> bool:
        ours, theirs = self._applied.replaced[name], self._base[self._stored_name(name)]
        return ours.shape == theirs.shape and all(
            np.array_equal(flat(ours).rows(*span), flat(theirs).rows(*span))
            for span in row_spans(ours.shape)
        )

    def _tensor_names(self) -> list[str]:
        outside = set(self.outside)
        names = [n for n in self._base if n not in outside and not (self.tied and n == HEAD)]
        names += self.added_biases
        # Embedding and output share one matrix until an adapter changes only one of them.
        if (
            self.tied
            and not self._head_follows
            and (self.is_changed(EMBEDDING) or self.is_changed(HEAD))
        ):
            names.append(HEAD)
        return names

    def _stored_name(self, name: str) -> str:
        return EMBEDDING if name == HEAD and self.tied else stored_name(name, self._base)


def _fits_float16(stored: ReadableTensor) -> bool:
    """Is every number finite, and none too large for float16?"""
    largest = np.finfo(np.float16).max
    return all(
        bool((np.abs(stored.rows(*span)) <= largest).all()) for span in row_spans(stored.shape)
    )


def flat(stored: ReadableTensor) -> ReadableTensor:
    """The tensor with all its rows one after the other, of however many matrices they are."""
    return flat_stored(stored) if isinstance(stored, StoredTensor) else stored


def flat_stored(stored: StoredTensor) -> StoredTensor:
    """The same of a tensor that is stored as it is."""
    if len(stored.shape) < 3:
        return stored
    return replace(stored, shape=(row_count(stored.shape), stored.shape[-1]))


def merged_config(merged: MergedCheckpoint) -> dict[str, Any]:
    """config.json of the merged text model: not quantized, and untied where the adapter made
    embedding and output differ."""
    config = {key: value for key, value in merged.config.items() if key != "quantization_config"}
    return {**config, **_own_values(merged)}


def _own_values(merged: MergedCheckpoint) -> dict[str, Any]:
    size = {"vocab_size": merged.vocabulary} if merged.resized else {}
    return {**size, "tie_word_embeddings": merged.tied and HEAD not in merged.names}


def merged_file_config(merged: MergedCheckpoint) -> dict[str, Any]:
    """The same of the whole model, as its config.json says it."""
    if not is_shell(merged.file_config):
        return merged_config(merged)
    whole = {k: v for k, v in merged.file_config.items() if k != "quantization_config"}
    own = _own_values(merged)
    if "text_config" not in whole:
        return {**whole, **own}
    tied = {"tie_word_embeddings": own["tie_word_embeddings"]}
    return {**whole, **tied, "text_config": {**whole["text_config"], **own}}
