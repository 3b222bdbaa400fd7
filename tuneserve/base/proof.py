"""Proof of an import: transformers computes from the checkpoint what llama.cpp computes from the
file, and its tokenizer gives llama.cpp's ids.

Quantized products can't be compared closely: llama.cpp rounds activations too. So a probe is made,
a GGUF with the file's own metadata whose first layers are dequantized by ggml, with the rows of the
tokens in use. A small model is compared whole, a large one in a few layers: all others go through
the same code.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuneserve.arrays import Floats, Ids
from tuneserve.base.weights import checkpoint_dtype
from tuneserve.child import own_module, run_child
from tuneserve.console import say
from tuneserve.divergence import DivergenceSummary, divergence
from tuneserve.errors import TuneserveError, UsageError
from tuneserve.files import write_json
from tuneserve.gguf.reader import GGUFFile, GGUFTensor
from tuneserve.llama import LlamaContext, LlamaModel, ggml

LIMIT = 1e-4
"""Mean KL divergence (nats) up to which the two are the same: F16 against float32 sums of the same
weights gives 1e-7 to 1e-5, the smallest fault known (YaRN lost) 1.4e-3."""

PROBE_BYTES = 256 << 20
SEQUENCES, TOKENS = 3, 48
LONGEST = 1088
TEXTS = (
    "", " ", "  two  spaces ", "\n\n\t x\r\n", "Hello, world!", "don't I'LL we've", "HTTPServer2",
    "1234567890 3.14 0x1F ²", "def f(x):\n    return x ** 2  # squared\n", "naïve Größe Łódź",
    "Привет, мир! Γειά", "שלום مرحبا नमस्ते สวัสดี", "你好，世界！こんにちは 안녕하세요",
    "🙂👨‍👩‍👧‍👦🇩🇪", "→ ≤ ∞ “quotes” …", "a\u0300 e\u0301\u00a0\u200b\ufeff", "..!! ---- ==",
)  # fmt: skip


class ImportedOtherwiseError(TuneserveError):
    """The checkpoint made of a GGUF is not the model in it; nothing was left under its name."""


def check_imported(
    gguf: GGUFFile, config: Mapping[str, Any], checkpoint: Path
) -> DivergenceSummary:
    """Compare token ids and logits; the checkpoint's directory holds the temporary probe.

    Raises ImportedOtherwiseError if they differ.
    """
    where = str(gguf.path)
    check_ids(gguf, checkpoint)
    sequences = _sequences(config)
    used = np.unique(np.concatenate(sequences))
    numbered = [np.searchsorted(used, ids).tolist() for ids in sequences]
    layers = probe_layers(gguf, config)
    with tempfile.TemporaryDirectory(dir=checkpoint) as folder:
        probe = Path(folder) / "probe.gguf"
        write_probe(gguf, used, layers, probe)
        theirs = _llama_logits(probe, numbered, where)
        ours = _transformers_logits(checkpoint, used, layers, numbered, Path(folder), where)
    found = divergence(theirs, ours)
    if not found.mean <= LIMIT:
        raise ImportedOtherwiseError(
            f"transformers would compute something else from it than llama.cpp ({found})",
            where=where,
            hint="Train on the model's own checkpoint instead of this GGUF.",
        )
    say(f"import: transformers = llama.cpp on {layers} layers ({found})")
    return found


def check_ids(gguf: GGUFFile, checkpoint: Path) -> None:
    """Raise ImportedOtherwiseError if tokenizer.json cuts a text otherwise than llama.cpp."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:32]
    texts = [*TEXTS, *(form for token in special for form in (token, f"a{token}b", f"x {token} y"))]
    with LlamaModel(gguf.path, vocab_only=True) as model:
        for text in texts:
            ours = tokenizer.encode(text, add_special_tokens=False).ids
            theirs = model.tokenize(text)
            if ours != theirs:
                raise ImportedOtherwiseError(
                    f"the tokenizer made of it gives other ids than llama.cpp for {text[:40]!r}",
                    where=str(gguf.path),
                    problems=[f"tokenizer.json: {ours[:12]}", f"llama.cpp: {theirs[:12]}"],
                )


def probe_layers(gguf: GGUFFile, config: Mapping[str, Any], room: int = PROBE_BYTES) -> int:
    """The first layers that fit `room` bytes as F16, at least one of every kind there is."""
    size = sum(
        2 * tensor.n_elements for name, tensor in gguf.tensors.items() if name.startswith("blk.0.")
    )
    kinds = list(config.get("layer_types") or [])
    needed = max((kinds.index(kind) + 1 for kind in set(kinds)), default=1)
    return min(int(config["num_hidden_layers"]), max(needed, room // size))


def write_probe(gguf: GGUFFile, used: Ids, layers: int, path: Path) -> None:
    """A GGUF of the first `layers` layers, dequantized, whose vocabulary is the ids `used`."""
    from gguf import GGUFWriter

    prefix = gguf.architecture
    writer = GGUFWriter(path, prefix, use_temp_file=False)
    for key, value in gguf.metadata.items():
        if key.startswith(f"{prefix}.") and key not in (
            f"{prefix}.block_count",
            f"{prefix}.vocab_size",
        ):
            if isinstance(value, list):
                writer.add_array(key, value[:layers] if "pattern" in key else value)
            else:
                writer.add_key_value(key, value, _value_type(gguf, key))
    writer.add_block_count(layers)
    writer.add_vocab_size(len(used))
    writer.add_tokenizer_model("no_vocab")
    kind = np.float16 if checkpoint_dtype(gguf) == "F16" else np.float32
    for name, tensor in _kept(gguf, layers):
        values = _dequantized(tensor, used if name in _BY_TOKEN else None)
        writer.add_tensor(name, values.astype(kind) if _is_matrix(tensor) else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_BY_TOKEN = ("token_embd.weight", "output.weight")


def _value_type(gguf: GGUFFile, key: str) -> Any:
    from gguf import GGUFValueType

    return GGUFValueType(gguf.value_types[key])


def _kept(gguf: GGUFFile, layers: int) -> Iterator[tuple[str, GGUFTensor]]:
    for name, tensor in gguf.tensors.items():
        if not name.startswith("blk.") or int(name.split(".")[1]) < layers:
            yield name, tensor


def _is_matrix(tensor: GGUFTensor) -> bool:
    return len(tensor.shape) > 1


def _dequantized(tensor: GGUFTensor, rows: Ids | None) -> Floats:
    data = tensor.data if rows is None else tensor.data[rows]
    values = ggml.dequantize(data, tensor.type_name, tensor.shape[-1])
    return values.reshape(-1, *tensor.shape[1:]) if _is_matrix(tensor) else values.reshape(-1)


def _sequences(config: Mapping[str, Any]) -> list[Ids]:
    """Random token ids: a text of a vocabulary that is unknown would say no more. One sequence is
    longer than a sliding window, where layers have one."""
    random = np.random.default_rng(0)
    lengths = [TOKENS] * SEQUENCES
    if "sliding_attention" in (config.get("layer_types") or []):
        lengths[0] = min(LONGEST, config["sliding_window"] + TOKENS)
    lengths = [min(length, config["max_position_embeddings"]) for length in lengths]
    return [random.integers(0, config["vocab_size"], length) for length in lengths]


def _llama_logits(path: Path, sequences: Sequence[Sequence[int]], where: str) -> list[Floats]:
    longest = max(map(len, sequences))
    try:
        with (
            LlamaModel(path, repack=False, tried=True) as model,
            LlamaContext(
                model, n_ctx=longest, n_batch=longest, cache_type_k="f32", cache_type_v="f32",
                flash_attention=False, on_cpu=True,
            ) as context,
        ):  # fmt: skip
            return [context.logits(ids) for ids in sequences]
    except TuneserveError as error:
        raise UsageError(f"llama.cpp can't load this GGUF: {error.message}", where=where) from error


def _transformers_logits(
    checkpoint: Path,
    used: Ids,
    layers: int,
    sequences: Sequence[Sequence[int]],
    folder: Path,
    where: str,
) -> list[Floats]:
    """Computed in a process of its own: a training has to load Unsloth before it loads torch."""
    job, result = folder / "job.json", folder / "logits.npz"
    write_json(job, {"used": used.tolist(), "layers": layers, "sequences": sequences})
    command = own_module("tuneserve.base.trainer_logits", str(checkpoint), str(job), str(result))
    try:
        run_child(command, what="transformers' computation")
    except TuneserveError as error:
        raise ImportedOtherwiseError(
            f"transformers can't compute with the checkpoint made of it: {error.message}",
            where=where,
            problems=error.problems,
        ) from error
    with np.load(result) as found:
        return [found[f"arr_{number}"] for number in range(len(sequences))]
