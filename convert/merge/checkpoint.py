"""Base and adapter as one checkpoint that is computed as it is read.

Nothing is held but the adapter: `rows` reads the base's rows, adds the low-rank change in float32
and hands them on. Without an adapter it is the base itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tuneserve.arrays import Floats
from tuneserve.convert.merge.adapter import Adapter, LowRank, plain_module, scale_of
from tuneserve.convert.merge.config import read_config
from tuneserve.convert.merge.experts import (
    ExpertParameter,
    Part,
    StackedLowRank,
    expert_parameter,
    read_parameter,
    stacked_change,
    stored_name,
)
from tuneserve.convert.merge.four_bit import FourBitTensor, ReadableTensor, readable_tensors
from tuneserve.convert.merge.mxfp4 import MXFP4Tensor
from tuneserve.convert.slabs import row_count, row_spans
from tuneserve.errors import UsageError
from tuneserve.files import read_json
from tuneserve.safetensors import StoredTensor, checkpoint_tensors
from tuneserve.text_model import is_shell, part_name, text_name

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
Found = TypeVar("Found")
# Models whose stacked experts PEFT takes for transposed.
_TRANSPOSED = ("gpt_oss",)


class MergedCheckpoint:
    """`config` (config.json), `names` of its tensors, their `shape`s and `rows`.

    Of a model with eyes and ears they are the text model's; `outside` names its other tensors, and
    `file_config` is config.json as it is.
    """

    def __init__(self, base: Path, adapter: Adapter | None = None) -> None:
        """Raises UsageError if the adapter does not fit the base."""
        self.directory = base
        self.file_config = read_json(base / "config.json")
        self.config = read_config(base)
        self._file_names: dict[str, str] = {}
        self._base = self._read_base()
        self.adapter = adapter
        self.tied = bool(self.config.get("tie_word_embeddings")) or HEAD not in self._base
        self._shapes = {name: tensor.shape for name, tensor in self._base.items()}
        self._transposed = self.config.get("model_type") in _TRANSPOSED
        self._changes: dict[str, LowRank | StackedLowRank] = {}
        self._replaced = self._text_names(adapter, adapter.replaced) if adapter else {}
        self._biases = self._text_names(adapter, adapter.biases) if adapter else {}
        self._tokens = self._text_names(adapter, adapter.tokens) if adapter else {}
        self._head_follows = self.tied and adapter is not None and self._keeps_tied(adapter)
        if adapter:
            self._changes |= self._text_names(adapter, adapter.changes)
            self._changes |= self._stacked_changes(adapter)
            self._check_fits(adapter)
        self.names = self._tensor_names()

    @property
    def architecture(self) -> str:
        """config.json's `architectures[0]`."""
        names = self.file_config.get("architectures") or []
        if not names:
            raise UsageError(
                "config.json names no architecture", where=str(self.directory / "config.json")
            )
        return str(names[0])

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

    def _text_names(self, adapter: Adapter, by_name: Mapping[str, Found]) -> dict[str, Found]:
        """Raises UsageError if the adapter changes what is none of the text model's."""
        outside = {name: by_name[name] for name in by_name if self._text_name(name) is None}
        # What got no gradient is as PEFT begins: it adds nothing.
        strangers = [
            name
            for name, change in outside.items()
            if not isinstance(change, LowRank) or change.b.any()
        ]
        if strangers:
            parts = ", ".join(dict.fromkeys(map(part_name, strangers)))
            raise UsageError(
                f"this adapter changes {len(strangers)} tensors outside the text model",
                where=str(adapter.directory),
                problems=strangers,
                hint=f"A GGUF holds the text model alone: train without the layers of {parts}.",
            )
        names = ((self._text_name(name), value) for name, value in by_name.items())
        return {name: value for name, value in names if name is not None}

    @property
    def changes(self) -> Mapping[str, LowRank | StackedLowRank]:
        """What the adapter adds to tensors, by name."""
        return self._changes

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
        return self._base[self._stored_name(name)].dtype

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base[self._stored_name(name)].shape

    def is_changed(self, name: str) -> bool:
        """Does the adapter change this tensor?"""
        parts = (self._changes, self._replaced, self._biases, self._tokens)
        return any(name in part for part in parts)

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """Rows [start, stop) of the merged tensor, float32; of stacked experts those of all of them
        one after the other. Safe to call from several threads."""
        if name == HEAD and self._head_follows:
            name = EMBEDDING
        name = name if name in self._replaced or name == HEAD else self._stored_name(name)
        stored = self._replaced.get(name) or self._base[self._stored_name(name)]
        stop = row_count(stored.shape) if stop is None else stop
        values = flat(stored).rows(start, stop)
        for changes in (self._changes, self._tokens):
            if (change := changes.get(name)) is not None:
                values = change.apply(values, start, stop)
        bias = self._biases.get(name)
        return values if bias is None else values + bias[start:stop]

    def place(self, name: str) -> str:
        """The file and tensor that the merged tensor comes from, for errors."""
        name = EMBEDDING if name == HEAD and self._head_follows else name
        if name in self._replaced:
            return f"{self._replaced[name].path}: {name}"
        changed = ", with the adapter's change" if self.is_changed(name) else ""
        return f"{self.directory}: {self._stored_name(name)}{changed}"

    def packed(self, name: str) -> MXFP4Tensor | None:
        """The stored tensor, if it is MXFP4 and the adapter leaves it as it is."""
        stored = self._base[self._stored_name(name)]
        kept = isinstance(stored, MXFP4Tensor) and not self.is_changed(name)
        return stored if kept and isinstance(stored, MXFP4Tensor) else None

    def replaced_names(self) -> list[str]:
        """Tensors that the adapter changes by no product of low rank: those that it brings whole
        and that are not the base's own, bit for bit (PEFT saves an adapted embedding's base too),
        biases and rows of tokens."""
        whole = [name for name in self._replaced if not self._is_the_bases(name)]
        return [*whole, *self._biases, *self._tokens]

    def _is_the_bases(self, name: str) -> bool:
        ours, theirs = self._replaced[name], self._base[self._stored_name(name)]
        return all(
            np.array_equal(flat(ours).rows(*span), flat(theirs).rows(*span))
            for span in row_spans(ours.shape)
        )

    def _check_fits(self, adapter: Adapter) -> None:
        """Raise UsageError listing every tensor that does not fit the base."""
        problems = [
            f"{name}: no adapter, other layers have one"
            for name in adapter.one_sided
            if self._text_name(f"{name}.weight") in self._base
        ]
        if problems:
            raise UsageError(
                "this adapter is damaged", where=str(adapter.directory), problems=problems
            )
        expected = [("weight", name, change.shape) for name, change in self._changes.items()]
        expected += [("tensor", name, tensor.shape) for name, tensor in self._replaced.items()]
        expected += [("bias", name, bias.shape) for name, bias in self._biases.items()]
        for kind, name, shape in expected:
            stored = self._base.get(self._stored_name(name))
            if stored is None:
                problems.append(f"{name}: the base has no such {kind}")
            elif name in (EMBEDDING, HEAD) and shape[0] > stored.shape[0]:
                problems.append(
                    f"{name}: {shape[0] - stored.shape[0]} more rows than the base has (new "
                    "tokens). Save a base that is resized so, and name it: --merge-base DIRECTORY"
                )
            elif stored.shape != shape:
                problems.append(
                    f"{name}: the base has {list(stored.shape)}, the adapter {list(shape)}"
                )
        for name, tokens in self._tokens.items():
            rows = self._base[name].shape[0] if name in self._base else 0
            if tokens.numbers.max(initial=-1) >= rows:
                problems.append(f"{name}: the base has {rows} rows, a trained token lies beyond")
        if problems:
            raise UsageError(
                f"this adapter does not belong to the base ({len(problems)} mismatches)",
                where=str(adapter.directory),
                problems=problems,
                hint=f"It was trained on '{adapter.config.get('base_model_name_or_path')}'.",
            )

    def _stacked_changes(self, adapter: Adapter) -> dict[str, LowRank | StackedLowRank]:
        """The changes of stacked experts, by the names of the stored tensors.

        Raises UsageError for factors that fit none of the base's parameters.
        """
        found: dict[str, LowRank | StackedLowRank] = {}
        for module, (a, b) in self._text_names(adapter, adapter.stacked).items():
            for leaf in ("gate_up_proj", "down_proj"):
                name = f"{plain_module(module)}.{leaf}"
                parameter = self.expert_parameter(name)
                if parameter is None or stacked_change(parameter, a, b, 1.0) is None:
                    continue
                scale = scale_of(adapter.config, name, rank=len(a) // parameter.shape[0])
                change = stacked_change(parameter, a, b, scale)
                assert change is not None
                for part in parameter.parts:
                    found[part.name] = change if part.expert is None else LowRank(
                        change.a[part.expert], change.b[part.expert, part.first : part.last], scale
                    )  # fmt: skip
                break
            else:
                raise UsageError(
                    "this adapter does not belong to the base",
                    where=str(adapter.directory),
                    problems=[f"{module}: no stacked experts of the base have such factors"],
                )
        return found

    def _tensor_names(self) -> list[str]:
        outside = set(self.outside)
        names = [n for n in self._base if n not in outside and not (self.tied and n == HEAD)]
        # Embedding and output share one matrix until an adapter changes only one of them.
        if (
            self.tied
            and not self._head_follows
            and (self.is_changed(EMBEDDING) or self.is_changed(HEAD))
        ):
            names.append(HEAD)
        return names

    def _keeps_tied(self, adapter: Adapter) -> bool:
        """Does what the adapter does to a tied embedding happen to the output too? PEFT trains rows
        of tokens so, and all else with `ensure_weight_tying`."""
        changes = self._text_names(adapter, adapter.changes)
        whole = EMBEDDING in changes or EMBEDDING in self._replaced
        if whole:
            return bool(adapter.config.get("ensure_weight_tying"))
        return EMBEDDING in self._tokens and HEAD not in changes

    def _stored_name(self, name: str) -> str:
        return EMBEDDING if name == HEAD and self.tied else stored_name(name, self._base)


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
    return {**config, "tie_word_embeddings": merged.tied and HEAD not in merged.names}


def merged_file_config(merged: MergedCheckpoint) -> dict[str, Any]:
    """The same of the whole model, as its config.json says it."""
    if not is_shell(merged.file_config):
        return merged_config(merged)
    whole = {k: v for k, v in merged.file_config.items() if k != "quantization_config"}
    tied = {"tie_word_embeddings": merged_config(merged)["tie_word_embeddings"]}
    if "text_config" not in whole:
        return {**whole, **tied}
    return {**whole, **tied, "text_config": {**whole["text_config"], **tied}}
