"""A GGUF of a Llama's shape with random Q4_K_M weights, for measuring speed and memory.

How fast a model runs does not depend on what its weights are, so a model of 8 billion of them need
not be downloaded or quantized: random blocks of the right types are written as they are. Types
are those that llama.cpp's Q4_K_M gives each tensor; scales are chosen so that weights have mean 0
and a standard deviation of 0.02. Tokenizer and chat template come from any other GGUF. The rows
of its special tokens are zero in the output layer, so that a greedy answer never ends early.

    python benchmarks/random_gguf.py vocabulary.gguf random-8b.gguf --shape 8b
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tuneserve.gguf.reader import GGUFFile

STANDARD_DEVIATION = 0.02
SPECIAL_TOKENS = 17
"""How many ids at the beginning of SmolLM2's vocabulary are special."""

Q4_K, Q6_K = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K
BLOCK = 256


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    embedding: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def kv_width(self) -> int:
        return self.embedding // self.heads * self.kv_heads


SHAPES = {
    "8b": Shape(4096, 14336, 32, 32, 8),
    "tiny": Shape(512, 1536, 4, 8, 4),
}


class Blocks:
    """Random quantized matrices. Those of one shape share their bytes: writing is all it costs."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._made: dict[tuple[Any, int, int], np.ndarray] = {}

    def matrix(self, kind: Any, rows: int, columns: int) -> np.ndarray:
        """uint8 of shape [rows, bytes of a row]."""
        key = (kind, rows, columns)
        if key not in self._made:
            blocks = rows * columns // BLOCK
            make = self._q4 if kind == Q4_K else self._q6
            self._made[key] = make(blocks).reshape(rows, -1)
        return self._made[key]

    def _q4(self, blocks: int) -> np.ndarray:
        """d, dmin (half floats), 12 bytes of 6-bit scales and minima, 128 of 4-bit values:
        d * scale * value - dmin * minimum. The mean is 0 where dmin = 7.5 d."""
        data = self._bytes(blocks, 144)
        d = STANDARD_DEVIATION / 258
        data[:, :4] = np.array([d, 7.5 * d], np.float16).view(np.uint8)
        return data

    def _q6(self, blocks: int) -> np.ndarray:
        """192 bytes of 6-bit values, 16 signed scales, d (half float): d * scale * (value - 32)."""
        data = self._bytes(blocks, 210)
        data[:, 208:] = np.array([STANDARD_DEVIATION / 1366], np.float16).view(np.uint8)
        return data

    def _bytes(self, blocks: int, size: int) -> np.ndarray:
        return np.frombuffer(self._random.bytes(blocks * size), np.uint8).reshape(-1, size).copy()


def gets_more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's rule for the layers whose value and down projections are Q6_K."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def write(vocabulary: Path, path: Path, shape: Shape, *, seed: int = 0) -> None:
    """Write the GGUF; `vocabulary` is any GGUF with SmolLM2's tokenizer."""
    given = GGUFFile(vocabulary)
    writer = gguf.GGUFWriter(str(path), "llama")
    copy_tokenizer(given, writer)
    tokens = len(given.require("tokenizer.ggml.tokens"))
    writer.add_name(f"random-{path.stem}")
    writer.add_block_count(shape.layers)
    writer.add_context_length(131072)
    writer.add_embedding_length(shape.embedding)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.embedding // shape.heads)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tokens)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    add_tensors(writer, Blocks(seed), shape, tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def copy_tokenizer(given: GGUFFile, writer: gguf.GGUFWriter) -> None:
    for key, value in given.metadata.items():
        if key.startswith("tokenizer."):
            writer.add_key_value(key, value, gguf.GGUFValueType(given.value_types[key]))


def add_tensors(writer: gguf.GGUFWriter, blocks: Blocks, shape: Shape, tokens: int) -> None:
    wide, narrow, feed = shape.embedding, shape.kv_width, shape.feed_forward

    def add(name: str, kind: Any, rows: int, columns: int) -> None:
        writer.add_tensor(name, blocks.matrix(kind, rows, columns), raw_dtype=kind)

    add("token_embd.weight", Q4_K, tokens, wide)
    ones = np.ones(wide, np.float32)
    for layer in range(shape.layers):
        better = Q6_K if gets_more_bits(layer, shape.layers) else Q4_K
        name = f"blk.{layer}."
        writer.add_tensor(f"{name}attn_norm.weight", ones)
        writer.add_tensor(f"{name}ffn_norm.weight", ones)
        add(f"{name}attn_q.weight", Q4_K, wide, wide)
        add(f"{name}attn_k.weight", Q4_K, narrow, wide)
        add(f"{name}attn_v.weight", better, narrow, wide)
        add(f"{name}attn_output.weight", Q4_K, wide, wide)
        add(f"{name}ffn_gate.weight", Q4_K, feed, wide)
        add(f"{name}ffn_up.weight", Q4_K, feed, wide)
        add(f"{name}ffn_down.weight", better, wide, feed)
    writer.add_tensor("output_norm.weight", ones)
    output = blocks.matrix(Q6_K, tokens, wide).copy()
    output[:SPECIAL_TOKENS] = 0
    writer.add_tensor("output.weight", output, raw_dtype=Q6_K)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("vocabulary", type=Path, help="a GGUF with SmolLM2's tokenizer")
    parser.add_argument("output", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="8b")
    arguments = parser.parse_args()
    started = time.perf_counter()
    write(arguments.vocabulary, arguments.output, SHAPES[arguments.shape])
    size = arguments.output.stat().st_size / 2**30
    print(f"{arguments.output}: {size:.2f} GiB in {time.perf_counter() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
