"""Weights by rows, of a merge, a base or a GGUF: what the reference computations multiply with."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tuneserve.arrays import Floats, Ids
from tuneserve.convert.gguf.model import CheckpointTensor, GGUFModel
from tuneserve.convert.gguf.quantization import is_quantizable
from tuneserve.convert.gguf.stacks import StackedTensor
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.merge.applied import EMBEDDING, HEAD
from tuneserve.convert.merge.experts import (
    ExpertParameter,
    expert_parameter,
    read_parameter,
    stored_name,
)
from tuneserve.convert.merge.four_bit import STATE
from tuneserve.convert.merge.mxfp4 import BLOCKS, SCALES, mxfp4_tensors
from tuneserve.convert.merge.resized import ResizedTable
from tuneserve.errors import TuneserveError
from tuneserve.files import read_json
from tuneserve.safetensors import checkpoint_tensors
from tuneserve.text_model import is_shell, text_name


class Weights(Protocol):
    """Tensors by the names of transformers, such as a MergedCheckpoint's. Safe to call from several
    threads."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """Rows [start, stop) of a tensor, float32."""

    def adds_bias(self, name: str) -> bool:
        """Is this a bias that the model has not, but the adapter?"""

    def expert_parameter(self, name: str) -> ExpertParameter | None:
        """The parameter of stacked experts of this name; None if it is none."""

    def expert(self, name: str, number: int) -> Floats | None:
        """The matrix of one expert in it, float32."""


class TrainerWeights:
    """The base as the trainer's libraries read it: safetensors, and bitsandbytes for 4 bits.

    A file is opened anew for every slab: mapped pages count as this process's memory.
    """

    def __init__(self, directory: Path, *, tied: bool, vocabulary: int | None = None) -> None:
        """`vocabulary`: rows of embedding and output, if they were resized (MergedCheckpoint)."""
        files = checkpoint_tensors(directory)
        inside = is_shell(read_json(directory / "config.json"))
        # Of a model with eyes and ears the text model's names, and what the files call them.
        self._stored = {(inside and text_name(name)) or name: name for name in files}
        places = {name: files[stored] for name, stored in self._stored.items()}
        self._paths = {name: stored.path for name, stored in places.items()}
        self._shapes = {name: stored.shape for name, stored in places.items()}
        self._shapes |= {name: stored.shape for name, stored in mxfp4_tensors(places).items()}
        self._four_bit = {name.partition(STATE)[0] for name in places if STATE in name}
        self._tied = tied
        self._tables = {
            name: ResizedTable(places[name], vocabulary)
            for name in (EMBEDDING, HEAD)
            if vocabulary is not None and name in places and places[name].shape[0] != vocabulary
        }
        self._lock = threading.Lock()
        self._last: tuple[str, Floats] | None = None

    def shape(self, name: str) -> tuple[int, ...]:
        name = self._name(name)
        if name in self._tables:
            return self._tables[name].shape
        if name in self._four_bit:
            return self._dequantized(name).shape
        with self._open(name) as file:
            return tuple(file.get_slice(self._stored[name]).get_shape())

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        name = self._name(name)
        if name in self._tables:
            return self._tables[name].rows(start, stop)
        if name in self._four_bit:
            return self._dequantized(name)[start:stop]
        with self._open(name) as file:
            # A copy: what the slice gives may be the mapping itself.
            values = file.get_slice(self._stored[name])[start:stop].float().clone()
        found: Floats = values.numpy()
        return found

    def adds_bias(self, name: str) -> bool:
        return False

    def expert_parameter(self, name: str) -> ExpertParameter | None:
        return expert_parameter(name, self._shapes)

    def expert(self, name: str, number: int) -> Floats | None:
        if name + BLOCKS in self._paths:
            return self._by_transformers(name, number)
        parameter = self.expert_parameter(name)
        if parameter is None:
            return None
        return read_parameter(parameter, self._flat_rows, *parameter.span(number))

    def _by_transformers(self, name: str, number: int) -> Floats:
        """One expert of an MXFP4 parameter."""
        from transformers.integrations.mxfp4 import convert_moe_packed_tensors

        parts = []
        for key in (name + BLOCKS, name + SCALES):
            with self._open(key) as file:
                parts.append(file.get_slice(key)[number : number + 1].clone())
        found: Floats = convert_moe_packed_tensors(*parts)[0].float().numpy()
        return found

    def _flat_rows(self, name: str, start: int, stop: int) -> Floats:
        """Rows of all matrices of a stored tensor together."""
        shape = self._shapes[name]
        if len(shape) < 3:
            return self.rows(name, start, stop)
        first, last = start // shape[1], -(-stop // shape[1])
        values = self.rows(name, first, last).reshape(-1, shape[-1])
        return values[start - first * shape[1] : stop - first * shape[1]]

    def _dequantized(self, name: str) -> Floats:
        """The whole matrix; the last one is kept, since its slabs are asked for together."""
        with self._lock:
            if self._last is None or self._last[0] != name:
                self._last = None
                self._last = name, self._by_bitsandbytes(name)
            return self._last[1]

    def _by_bitsandbytes(self, name: str) -> Floats:
        from bitsandbytes.functional import QuantState, dequantize_4bit

        parts: dict[str, Any] = {}
        for key in self._paths:
            if key.startswith(f"{name}."):
                with self._open(key) as file:
                    parts[key] = file.get_tensor(self._stored[key])
        with self._open(name) as file:
            packed = file.get_tensor(self._stored[name])
        values = dequantize_4bit(packed, QuantState.from_dict(parts, device="cpu"))
        found: Floats = values.float().numpy()
        return found

    def _open(self, name: str) -> Any:
        from safetensors import safe_open

        return safe_open(self._paths[name], framework="pt")

    def _name(self, name: str) -> str:
        if name == HEAD and (self._tied or HEAD not in self._paths):
            return EMBEDDING
        name = stored_name(name, self._paths)
        if name not in self._paths:
            raise TuneserveError(f"the base has no tensor '{name}'")
        return name


class FileWeights:
    """A GGUF's own weights, dequantized, under their Hugging Face names.

    Embedding and output hold the rows of the tokens `used` alone, what has a part for each layer
    the parts of the first `layers`. With `noise` every other column of a matrix is larger by this
    share of itself, the others smaller.
    """

    def __init__(
        self, file: TensorFile, model: GGUFModel, used: Ids, *, layers: int, noise: float = 0.0
    ) -> None:
        self._file = file
        self._model = model
        self._used = used
        self._layers = layers
        self._noise = np.float32(noise)
        # The stacks that a parameter is spread over, by the stored tensors of the parameter.
        self._stacks: dict[str, list[tuple[str, StackedTensor]]] = {}
        for gguf_name, source in model.sources.items():
            if isinstance(source, StackedTensor):
                for part in source.parameter.parts:
                    self._stacks.setdefault(part.name, []).append((gguf_name, source))

    def shape(self, name: str) -> tuple[int, ...]:
        name = self._stored_name(name)
        if name in self._stacks:
            return self._model.checkpoint.shape(name)
        gguf_name = self._gguf_name(name)
        shape = cut_shape(gguf_name, self._file.shape(gguf_name), self._model, self._layers)
        return (len(self._used), *shape[1:]) if is_by_token(gguf_name) else shape

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        name = self._stored_name(name)
        if name in self._stacks:
            _, stack = self._stacks[name][0]
            count = stack.parameter.shape[0]
            whole = np.concatenate([self._matrix(name, number) for number in range(count)])
            return whole[start:stop]
        gguf_name = self._gguf_name(name)
        stop = self.shape(name)[0] if stop is None else stop
        if is_by_token(gguf_name):
            wanted: Any = self._used[start:stop]
        else:
            order = self._model.row_order(gguf_name)
            wanted = np.arange(start, stop) if order is None else np.argsort(order)[start:stop]
        values = self._as_used(gguf_name, self._file.rows_at(gguf_name, wanted))
        values = values[..., : self.shape(name)[-1]]
        source = self._model.sources[gguf_name]
        return source.back(values) if isinstance(source, CheckpointTensor) else values

    def adds_bias(self, name: str) -> bool:
        return self._model.checkpoint.adds_bias(name)

    def expert_parameter(self, name: str) -> ExpertParameter | None:
        return self._model.checkpoint.expert_parameter(name)

    def expert(self, name: str, number: int) -> Floats | None:
        parameter = self.expert_parameter(name)
        return None if parameter is None else self._matrix(parameter.parts[0].name, number)

    def _matrix(self, name: str, number: int) -> Floats:
        """A matrix of the parameter that the stored tensor `name` belongs to."""
        sources = self._stacks[name]
        _, rows, columns = sources[0][1].parameter.shape
        whole = np.empty((rows, columns), dtype=np.float32)
        for gguf_name, source in sources:
            height, _ = source.matrix
            wanted = np.arange(number * height, (number + 1) * height)
            values = self._file.rows_at(gguf_name, wanted)
            source.put_back(self._as_used(gguf_name, values), whole)
        return whole

    def _as_used(self, gguf_name: str, values: Floats) -> Floats:
        """The values with the noise that is asked for."""
        if self._noise and is_quantizable(gguf_name, self._file.shape(gguf_name)):
            values[..., ::2] *= 1 + self._noise
            values[..., 1::2] *= 1 - self._noise
        return values

    def _stored_name(self, name: str) -> str:
        return stored_name(name, self._model.checkpoint.names)

    def _gguf_name(self, name: str) -> str:
        found = gguf_tensor(self._file, self._model, name)
        if found is None:
            raise TuneserveError(f"the file has no tensor for '{name}'")
        return found


def is_by_token(gguf_name: str) -> bool:
    return gguf_name in ("token_embd.weight", "output.weight", "per_layer_token_embd.weight")


def cut_shape(
    gguf_name: str, shape: tuple[int, ...], model: GGUFModel, layers: int
) -> tuple[int, ...]:
    """The shape of a tensor in a model of the first `layers` layers: of Gemma 4's embeddings by
    layer, which lie side by side, theirs."""
    total = int(model.config["num_hidden_layers"])
    rows, *rest = shape
    if gguf_name == "per_layer_token_embd.weight":
        return (rows, rest[0] // total * layers)
    if gguf_name == "per_layer_model_proj.weight":
        return (rows // total * layers, *rest)
    return shape


def gguf_tensor(file: TensorFile, model: GGUFModel, name: str) -> str | None:
    """The file's tensor for a Hugging Face name; for a tied head it is the embedding. None if
    there is none."""
    found = model.architecture.gguf_tensor_name(name)
    if name == HEAD and found not in file.tensors:
        found = "token_embd.weight"
    return found if found in file.tensors else None
