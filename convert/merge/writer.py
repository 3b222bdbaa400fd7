"""The merged model as a Hugging Face checkpoint, written by rows: no layer has to fit in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tuneserve.base.weights import encode_values
from tuneserve.convert.merge.checkpoint import MergedCheckpoint, merged_file_config
from tuneserve.convert.slabs import made_in_order, one_blas_thread, row_spans
from tuneserve.errors import UsageError
from tuneserve.files import write_json
from tuneserve.safetensors import SafetensorsWriter, TensorSpec

SHARD_BYTES = 4 * 1000**3
TOKENIZER_FILES = ("tokenizer*", "chat_template*", "special_tokens_map.json", "vocab.json",
                   "merges.txt", "added_tokens.json")  # fmt: skip


def write_checkpoint(
    directory: Path,
    merged: MergedCheckpoint,
    tokenizer: Path,
    *,
    threads: int,
    advance: Callable[[float], None] = lambda _: None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Fill `directory` with weights (in the base's own types), config, tokenizer and template.

    `tokenizer`: the directory of the trainer's; `advance` gets the bytes written. Raises UsageError
    for a weight that its type can't hold.
    """
    check_writable(merged)
    directory.mkdir(parents=True)
    shards = shards_of(merged, shard_bytes)
    weight_map: dict[str, str] = {}
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for number, specs in enumerate(shards, start=1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            name = name if len(shards) > 1 else "model.safetensors"
            stored = [replace(spec, name=merged.file_name(spec.name)) for spec in specs]
            weight_map |= {spec.name: name for spec in stored}
            with SafetensorsWriter(directory / name, stored) as writer:
                for spec in specs:
                    pieces = _pieces(merged, spec, pool, threads)
                    writer.write(merged.file_name(spec.name), pieces)
                    advance(spec.size_bytes)
    if len(shards) > 1:
        total = sum(spec.size_bytes for specs in shards for spec in specs)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(directory / "model.safetensors.index.json", index)
    write_json(directory / "config.json", merged_file_config(merged))
    generation = merged.directory / "generation_config.json"
    for path in (generation, *(p for glob in TOKENIZER_FILES for p in tokenizer.glob(glob))):
        if path.is_file():
            shutil.copy(path, directory / path.name)


def check_writable(merged: MergedCheckpoint) -> None:
    """Raise UsageError for biases that the model's own class has no place for."""
    if merged.added_biases:
        raise UsageError(
            "a merged checkpoint has no place for the biases of this adapter (lora_bias)",
            where=str(merged.directory), problems=merged.added_biases[:10],
            hint="Leave out merged_checkpoint; a GGUF has them, where llama.cpp reads them.",
        )  # fmt: skip


def checkpoint_bytes(merged: MergedCheckpoint) -> int:
    """Size of the weights."""
    return sum(spec.size_bytes for specs in shards_of(merged) for spec in specs)


def shards_of(merged: MergedCheckpoint, limit: int = SHARD_BYTES) -> list[list[TensorSpec]]:
    """The tensors in order, in files of at most `limit` bytes (or of one tensor)."""
    shards: list[list[TensorSpec]] = [[]]
    size = 0
    for name in [*merged.names, *merged.outside]:
        spec = TensorSpec(name, merged.dtype(name), merged.shape(name))
        if shards[-1] and size + spec.size_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.size_bytes
    return shards


def _pieces(
    merged: MergedCheckpoint, spec: TensorSpec, pool: ThreadPoolExecutor, threads: int
) -> Iterator[bytes]:
    def encoded(span: tuple[int, int]) -> bytes:
        values = merged.rows(spec.name, *span)
        return encode_values(values, spec.dtype, where=f"{merged.directory}: {spec.name}")

    return made_in_order(pool, encoded, row_spans(spec.shape), threads)
