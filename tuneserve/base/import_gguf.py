"""GGUF in, Hugging Face checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuneserve.base.tokenizer import special_ids, write_tokenizer
from tuneserve.base.weights import checkpoint_dtype, write_weights
from tuneserve.console import bytes_per_second, progress
from tuneserve.errors import OutputExistsError, UsageError
from tuneserve.files import atomic_path, write_json
from tuneserve.gguf.architectures import by_gguf_name
from tuneserve.gguf.architectures.llama import llama3_scaling
from tuneserve.gguf.architectures.table import Architecture
from tuneserve.gguf.reader import ArchitectureMetadata, GGUFFile

TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def import_gguf(source: Path, target: Path, *, force: bool = False) -> Path:
    """Make a checkpoint directory of a GGUF: weights, config, tokenizer, chat template.

    `target` appears whole or not at all. Raises UsageError if the GGUF is damaged or of a kind
    that isn't supported, OutputExistsError if `target` exists and `force` is not given. With
    `force` it replaces a checkpoint; anything else there is a UsageError.
    """
    if target.exists():
        _check_replaceable(target, force=force)
    gguf = GGUFFile(source)
    architecture = by_gguf_name(gguf.architecture)
    config = checkpoint_config(gguf, architecture)
    total = sum(tensor.n_elements for tensor in gguf.tensors.values())
    with atomic_path(target) as directory:
        directory.mkdir()
        write_json(directory / "config.json", config)
        write_json(directory / "generation_config.json", generation_config(gguf))
        write_tokenizer(gguf, directory)
        size = total * (4 if checkpoint_dtype(gguf) == "F32" else 2)
        with progress(f"import {source.name}", size, rate=bytes_per_second) as advance:
            write_weights(
                gguf, architecture, config, directory / "model.safetensors", on_tensor=advance
            )
    return target


def _check_replaceable(target: Path, *, force: bool) -> None:
    if not force:
        raise OutputExistsError(target)
    if not target.is_dir() or (any(target.iterdir()) and not (target / "config.json").is_file()):
        raise UsageError(
            "is no checkpoint, and is not replaced by one",
            where=str(target),
            hint="Choose another name.",
        )


def checkpoint_config(gguf: GGUFFile, architecture: Architecture) -> dict[str, Any]:
    """config.json; a GGUF without an output matrix shares the embedding's."""
    config = architecture.config(ArchitectureMetadata(gguf))
    config |= {
        "vocab_size": gguf.shape("token_embd.weight")[0],
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "torch_dtype": TORCH_DTYPES[checkpoint_dtype(gguf)],
        **generation_config(gguf),
    }
    if "rope_freqs.weight" in gguf.tensors:
        factors = gguf.dequantized("rope_freqs.weight")
        config["rope_scaling"] = llama3_scaling(factors, config["rope_theta"], config["head_dim"])
    return config


def generation_config(gguf: GGUFFile) -> dict[str, Any]:
    """Ids of BOS, EOS and padding, as far as the file names them."""
    ids = special_ids(gguf)
    return {f"{name}_id": number for name, number in ids.items() if name != "unk_token"}
