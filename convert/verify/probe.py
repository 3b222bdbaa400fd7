"""Contract: what llama.cpp computes from the file is what transformers computes from its weights.

A quantized model can't be compared closely: rounding hides a wrong RoPE base. So a probe is made, a
GGUF with the file's own metadata, its first layers dequantized to float16 (of a mixture of experts
float32), and the rows of the embedding that are used. llama.cpp and transformers compute with the
same weights, so their KL divergence is about 1e-6. The probe of a small model has all layers, of a
large one a few.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Floats, Ids
from tuneserve.convert.gguf.model import GGUFModel
from tuneserve.convert.gguf.quantization import Choice, is_quantizable
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.vocabulary import Value
from tuneserve.convert.gguf.writer import encoded_size, write_gguf
from tuneserve.convert.result import Check
from tuneserve.convert.verify.logits import PROBE_BYTES, file_logits
from tuneserve.convert.verify.reference import StreamedModel, Variant, transformers_config
from tuneserve.convert.verify.weights import FileWeights
from tuneserve.divergence import divergence
from tuneserve.model_shape import expert_count


@dataclass(frozen=True)
class ProbeTensor:
    """A tensor of the file, dequantized; of a matrix by token the rows in use."""

    file: TensorFile
    name: str
    used: Ids | None

    @property
    def shape(self) -> tuple[int, ...]:
        rows, *rest = self.file.shape(self.name)
        return (rows if self.used is None else len(self.used), *rest)

    def rows(self, start: int, stop: int) -> Floats:
        wanted = np.arange(start, stop) if self.used is None else self.used[start:stop]
        return self.file.rows_at(self.name, wanted)


def check_probe(
    path: Path,
    model: GGUFModel,
    sequences: Sequence[Sequence[int]],
    *,
    folder: Path,
    limit: float,
    threads: int,
) -> Check:
    """Compare logits of the probe in both; it is written into `folder` and removed again."""
    file = TensorFile(path)
    used = np.unique(np.concatenate([np.asarray(ids, dtype=np.int64) for ids in sequences]))
    numbered = [np.searchsorted(used, ids).tolist() for ids in sequences]
    layers = probe_layers(model)
    probe = folder / f"{path.name}.probe"
    try:
        write_probe(file, model, used, layers, probe, threads=threads)
        ours = file_logits(probe, numbered, threads=threads)
    finally:
        probe.unlink(missing_ok=True)
    config = probe_config(model, layers, len(used))
    variant = Variant(FileWeights(file, model, used))
    (theirs,) = StreamedModel(config, [variant], threads=threads).logits(numbered)
    found = divergence(theirs, ours)
    total = int(model.config["num_hidden_layers"])
    kind = "F32" if expert_count(model.config) else "F16"
    detail = f"{kind}, {layers} of {total} layers: {found}"
    figures = {**found.figures(), "layers": layers}
    return Check("llama.cpp = transformers", found.mean <= limit, detail, figures)


def probe_layers(model: GGUFModel, room: int = PROBE_BYTES) -> int:
    """The first layers that fit `room` bytes, and at least one of every kind there is."""
    size = sum(
        encoded_size(source.shape, "F16")
        for name, source in model.sources.items()
        if name.startswith("blk.0.")
    )
    total = int(model.config["num_hidden_layers"])
    names: list[set[str]] = [set() for _ in range(total)]
    for name in model.sources:
        if block := re.match(r"blk\.(\d+)\.", name):
            names[int(block.group(1))].add(name[block.end() :])
    types = list(model.config.get("layer_types") or [""] * total)
    kinds = [(kind, frozenset(found)) for kind, found in zip(types, names, strict=True)]
    needed = max(kinds.index(kind) + 1 for kind in set(kinds))
    return min(total, max(needed, room // size))


def write_probe(
    file: TensorFile, model: GGUFModel, used: Ids, layers: int, path: Path, *, threads: int
) -> None:
    """A GGUF of the first `layers` layers, whose vocabulary is the ids `used`, without texts."""
    prefix = model.architecture.gguf_name
    # llama.cpp rounds what it multiplies with an F16 matrix to float16. Where a router has to
    # choose between experts of nearly the same score, it may then choose another one.
    exact = bool(expert_count(model.config))
    experts = {name: file.shape(name) for name in file.tensors if "_exps." in name}
    large = sum(encoded_size(shape, "F32") for shape in experts.values()) > PROBE_BYTES
    rounded = set(experts) if large else set()
    tensors, choices = {}, []
    for name in file.tensors:
        block = re.match(r"blk\.(\d+)\.", name)
        if block and int(block.group(1)) >= layers:
            continue
        by_token = name in ("token_embd.weight", "output.weight")
        tensors[name] = ProbeTensor(file, name, used if by_token else None)
        plain = is_quantizable(name, file.shape(name)) and (not exact or name in rounded)
        kind = "F16" if plain else "F32"
        choices.append(Choice(name, kind))
    metadata: dict[str, Value] = {
        **_model_metadata(file, prefix, layers),
        f"{prefix}.block_count": ("uint32", layers),
        f"{prefix}.vocab_size": ("uint32", len(used)),
        "tokenizer.ggml.model": ("string", "no_vocab"),
    }
    write_gguf(path, metadata, tensors, choices, threads=threads)


def _model_metadata(file: TensorFile, prefix: str, layers: int) -> Mapping[str, Value]:
    from gguf import GGUFValueType

    found: dict[str, Value] = {"general.architecture": ("string", file.architecture)}
    for key, value in file.metadata.items():
        if key.startswith(f"{prefix}."):
            kind = GGUFValueType(file.value_types[key])
            by_layer = kind is GGUFValueType.ARRAY and not key.startswith(f"{prefix}.rope.")
            found[key] = (kind.name, list(value)[:layers] if by_layer else value)
    return found


def probe_config(model: GGUFModel, layers: int, tokens: int) -> Any:
    """transformers' configuration of the checkpoint, cut to the probe's size."""
    config = copy.deepcopy(transformers_config(model))
    config.num_hidden_layers, config.vocab_size = layers, tokens
    config.pad_token_id = None
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return config
