"""Contract: what llama.cpp computes from the file is what transformers computes from its weights.

A quantized model can't be compared closely: rounding hides a wrong RoPE base. So a probe is made, a
GGUF with the file's own metadata, its first layers dequantized to float32, and the rows of the
embedding that are used. llama.cpp and transformers compute with the same weights: what remains is
the order of sums and llama.cpp's tables of functions. The probe of a small model has all layers, of
a large one a few; one of each kind of layer reads a text longer than the sliding windows.
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
from tuneserve.convert.gguf.quantization import Choice
from tuneserve.convert.gguf.tensors import TensorFile
from tuneserve.convert.gguf.vocabulary import Value
from tuneserve.convert.gguf.writer import encoded_size, write_gguf
from tuneserve.convert.result import Check
from tuneserve.convert.verify.logits import PROBE_BYTES, file_logits
from tuneserve.convert.verify.reference import transformers_config
from tuneserve.convert.verify.streamed_model import StreamedModel, Variant
from tuneserve.convert.verify.weights import FileWeights, cut_shape, is_by_token
from tuneserve.divergence import divergence
from tuneserve.gguf.architectures.computed import ignored_window

NOISE = 2.0**-11
"""Half a unit in the last place of float16, as a share of a weight. The KL divergence that this
much noise on every weight makes says how closely two computations of this model can agree: it is
the limit of the contract, so that a model of any depth and sharpness is held as tightly. Right
ones stay a million times below it."""
TABLE = 10.0
"""How much further apart the two may be where the activation is GELU. llama.cpp takes it from a
float16 table, which moves activations as much as NOISE moves weights: by 0.01 to 1.4 times."""
FLOOR = 1e-9
_LITE = "whether queries are compressed"
_BY_DEPTH = {
    ("deepseek_v2", 26): _LITE, ("deepseek_v2", 27): _LITE, ("deepseek_v2", 48): _LITE,
    ("exaone4", 64): "which layers have a window",
    ("gemma2", 46): "the scale of attention", ("gemma3_text", 62): "the scale of attention",
}  # fmt: skip
"""Models (model_type, layers) of which llama.cpp reads something in no key of the file."""
LONG_IDS = 64  # tokens of the vocabulary, drawn at random, that the long text is made of
SHORTEST_LONG, LONGEST_LONG = 1024, 8192 + 64


@dataclass(frozen=True)
class ProbeTensor:
    """A tensor of the file, dequantized; of a matrix by token the rows in use. `shape`: what the
    probe holds of it."""

    file: TensorFile
    name: str
    used: Ids | None
    shape: tuple[int, ...]

    def rows(self, start: int, stop: int) -> Floats:
        wanted = np.arange(start, stop) if self.used is None else self.used[start:stop]
        return self.file.rows_at(self.name, wanted)[..., : self.shape[-1]]


def check_probe(
    file: TensorFile,
    model: GGUFModel,
    sequences: Sequence[Sequence[int]],
    *,
    folder: Path,
    limit: float,
    threads: int,
    layers: int | None = None,
) -> list[Check]:
    """Compare logits of held-out `sequences` in both, and of a long text where the model has a
    window or a scaled RoPE. `limit` bounds the mean KL divergence besides NOISE's. The probes, of
    so many `layers` (as many as there is room for), are written into `folder` and removed again."""
    layers = layers or probe_layers(model)
    checks = [
        _check(
            "llama.cpp = transformers", file, model, sequences, layers,
            folder=folder, limit=limit, threads=threads,
        )
    ]  # fmt: skip
    if text := long_text(model):
        checks.append(
            _check(
                "llama.cpp = transformers, long text", file, model, [text], needed_layers(model),
                folder=folder, limit=limit, threads=threads,
            )
        )  # fmt: skip
    return checks


def _check(
    contract: str,
    file: TensorFile,
    model: GGUFModel,
    sequences: Sequence[Sequence[int]],
    layers: int,
    *,
    folder: Path,
    limit: float,
    threads: int,
) -> Check:
    total = int(model.config["num_hidden_layers"])
    if layers < total and (told := _told_by_depth(model, total)):
        detail = (
            f"not computed: llama.cpp tells {told} by the number of layers ({total}), which a "
            f"probe of {layers} has not"
        )
        return Check(contract, True, detail)
    used = np.unique(np.concatenate([np.asarray(ids, dtype=np.int64) for ids in sequences]))
    numbered = [np.searchsorted(used, ids).tolist() for ids in sequences]
    probe = folder / f"{file.path.name}.probe"
    try:
        write_probe(file, model, used, layers, probe, threads=threads)
        ours = file_logits(probe, numbered, threads=threads)
    finally:
        probe.unlink(missing_ok=True)
    config = probe_config(model, layers, len(used))
    variants = [
        Variant(FileWeights(file, model, used, layers=layers, noise=noise))
        for noise in (0.0, NOISE)
    ]
    theirs, noisy = StreamedModel(config, variants, threads=threads).logits(numbered)
    found, most = divergence(theirs, ours), divergence(theirs, noisy).mean
    allowed = min(limit, max(FLOOR, most * (TABLE if _has_gelu(config) else 1)))
    detail = f"F32, {layers} of {total} layers: {found}; at most {allowed:.2e}"
    figures = {**found.figures(), "limit": allowed, "layers": layers}
    return Check(contract, found.mean <= allowed, detail, figures)


def _told_by_depth(model: GGUFModel, total: int) -> str:
    """What llama.cpp takes from the number of layers alone; '' for nothing."""
    if model.config.get("model_type") == "deepseek_v2" and total == 48:
        return _BY_DEPTH["deepseek_v2", total] if model.vocabulary_size == 128_256 else ""
    return _BY_DEPTH.get((str(model.config.get("model_type")), total), "")


def _has_gelu(config: Any) -> bool:
    names = ("hidden_activation", "hidden_act")
    return any("gelu" in str(getattr(config, name, None)) for name in names)


def probe_layers(model: GGUFModel, room: int = PROBE_BYTES) -> int:
    """The first layers that fit `room` bytes, and at least one of every kind there is."""
    size = sum(
        encoded_size(source.shape, "F32")
        for name, source in model.sources.items()
        if name.startswith("blk.0.")
    )
    return min(int(model.config["num_hidden_layers"]), max(needed_layers(model), room // size))


def needed_layers(model: GGUFModel) -> int:
    """The first layers among which there is one of every kind: of each type of attention, and of
    each set of tensors."""
    total = int(model.config["num_hidden_layers"])
    names: list[set[str]] = [set() for _ in range(total)]
    for name in model.sources:
        if block := re.match(r"blk\.(\d+)\.", name):
            names[int(block.group(1))].add(name[block.end() :])
    types = list(getattr(transformers_config(model), "layer_types", None) or [""] * total)
    kinds = [(kind, frozenset(found)) for kind, found in zip(types, names, strict=True)]
    return max(kinds.index(kind) + 1 for kind in set(kinds))


def long_text(model: GGUFModel) -> list[int]:
    """Random ids, more than the sliding window and the context before its RoPE was scaled take,
    within LONGEST_LONG; none for a model that has neither. No more than a window that llama.cpp
    computes without: such a model is served within it."""
    config = transformers_config(model)
    ignored = ignored_window(model.config)
    rope = getattr(config, "rope_parameters", None) or {}
    scalings = [part for part in (rope, *rope.values()) if isinstance(part, Mapping)]
    scaled = [part for part in scalings if part.get("rope_type", "default") != "default"]
    sizes = [0 if ignored else int(getattr(config, "sliding_window", None) or 0)]
    # Only LongRoPE computes otherwise beyond that context; the others' factors show before it.
    sizes += [
        int(part.get("original_max_position_embeddings") or 0)
        for part in scaled
        if part["rope_type"] == "longrope"
    ]
    if not scaled and not sizes[0]:
        return []
    length = max(SHORTEST_LONG, *(size + LONG_IDS for size in sizes if size < LONGEST_LONG), 0)
    length = min(length, int(config.max_position_embeddings), ignored or LONGEST_LONG, LONGEST_LONG)
    random = np.random.default_rng(length)
    ids = random.integers(0, model.vocabulary_size, LONG_IDS)
    return [int(number) for number in random.choice(ids, length)]


def write_probe(
    file: TensorFile, model: GGUFModel, used: Ids, layers: int, path: Path, *, threads: int
) -> None:
    """A GGUF of the first `layers` layers, whose vocabulary is the ids `used`, without texts."""
    tensors, choices = {}, []
    for name in file.tensors:
        block = re.match(r"blk\.(\d+)\.", name)
        if block and int(block.group(1)) >= layers:
            continue
        shape = cut_shape(name, file.shape(name), model, layers)
        by_token = is_by_token(name)
        shape = (len(used), *shape[1:]) if by_token else shape
        tensors[name] = ProbeTensor(file, name, used if by_token else None, shape)
        choices.append(Choice(name, "F32"))
    total = int(model.config["num_hidden_layers"])
    prefix = model.architecture.gguf_name
    shared = f"{prefix}.attention.shared_kv_layers"
    metadata: dict[str, Value] = {
        **_model_metadata(file, prefix, total=total, layers=layers),
        **(
            {shared: ("uint32", _sharing(file.metadata[shared], total, layers))}
            if shared in file.metadata
            else {}
        ),
        f"{prefix}.block_count": ("uint32", layers),
        f"{prefix}.vocab_size": ("uint32", len(used)),
        "tokenizer.ggml.model": ("string", "no_vocab"),
    }
    write_gguf(path, metadata, tensors, choices, threads=threads)


def _model_metadata(
    file: TensorFile, prefix: str, *, total: int, layers: int
) -> Mapping[str, Value]:
    """What the file says of its architecture; of a list that has a value for each of the `total`
    layers the first `layers` values."""
    from gguf import GGUFValueType

    found: dict[str, Value] = {"general.architecture": ("string", file.architecture)}
    for key, value in file.metadata.items():
        if key.startswith(f"{prefix}."):
            by_layer = isinstance(value, list) and len(value) == total and ".rope." not in key
            kept = value[:layers] if by_layer else value
            found[key] = (GGUFValueType(file.value_types[key]).name, kept)
    return found


def _sharing(shared: Any, total: int, layers: int) -> int:
    """Of the last `shared` layers, which have no keys and values of their own, those that are among
    the first `layers`."""
    return max(0, layers - (total - int(shared or 0)))


def probe_config(model: GGUFModel, layers: int, tokens: int) -> Any:
    """transformers' configuration of the checkpoint, cut to the probe's size."""
    config = copy.deepcopy(transformers_config(model))
    total = int(config.num_hidden_layers)
    for key, value in vars(config).items():
        if isinstance(value, list) and len(value) == total:
            setattr(config, key, value[:layers])
    rope = getattr(config, "rope_parameters", None) or {}
    if model.architecture.gguf_name == "gpt-oss" and rope.get("truncate") is False:
        # gpt-oss's YaRN blends between dimensions that are no whole numbers; llama.cpp, whatever
        # the file says, rounds them.
        config.rope_parameters = {**rope, "truncate": True}
    if hasattr(config, "num_kv_shared_layers"):
        config.num_kv_shared_layers = _sharing(config.num_kv_shared_layers, total, layers)
    if hasattr(config, "vocab_size_per_layer_input"):
        config.vocab_size_per_layer_input = tokens
    config.num_hidden_layers, config.vocab_size = layers, tokens
    config.pad_token_id = None
    return config
