"""A GGUF of a Llama's shape with random Q4_K_M weights, for measuring speed and memory.

How fast a model runs does not depend on what its weights are, so a model of 8 billion of them need
not be downloaded or quantized: random blocks of the right types are written as they are. Types
are those that llama.cpp's Q4_K_M gives each tensor; scales are chosen so that weights have mean 0
and a standard deviation of 0.02. Tokenizer and chat template come from any other GGUF. The rows
of its special tokens are zero in the output layer, so that a greedy answer never ends early.

How fast sampling runs does depend on the vocabulary's size and on how flat the distribution is:
`--vocabulary` adds words that no text is tokenized into, `--logits` gives the logits' standard
deviation. Random weights alone give a flat distribution (1.3 with the 8B shape), the worst case for
top_p; with 5, top_p 0.95 at temperature 0.7 keeps a few tokens, as with a trained model.

    python benchmarks/random_gguf.py vocabulary.gguf random-8b.gguf --shape 8b
    python benchmarks/random_gguf.py vocabulary.gguf wide-8b.gguf --vocabulary 128256 --logits 5
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
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


def write(
    vocabulary: Path,
    path: Path,
    shape: Shape,
    *,
    seed: int = 0,
    tokens: int = 0,
    deviation: float = 0.0,
) -> None:
    """Write the GGUF; `vocabulary` is any GGUF with SmolLM2's tokenizer, `tokens` the vocabulary's
    size (0: as it is), `deviation` the logits' standard deviation (0: what the weights give)."""
    given = GGUFFile(vocabulary)
    tokens = tokens or len(given.require("tokenizer.ggml.tokens"))
    writer = gguf.GGUFWriter(str(path), "llama")
    copy_tokenizer(given, writer, tokens)
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
    # The last layer's values have a mean square of 1, so logits deviate by root(width) weights'.
    natural = STANDARD_DEVIATION * shape.embedding**0.5
    add_tensors(writer, Blocks(seed), shape, tokens, deviation / natural if deviation else 1.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def copy_tokenizer(given: GGUFFile, writer: gguf.GGUFWriter, tokens: int) -> None:
    for key, value in given.metadata.items():
        if key.startswith("tokenizer."):
            writer.add_key_value(
                key, lengthened(key, value, tokens), gguf.GGUFValueType(given.value_types[key])
            )


def lengthened(key: str, value: Any, tokens: int) -> Any:
    """A list with an entry for each token gets entries for the added ones."""
    fillers: dict[str, Callable[[int], Any]] = {
        "tokenizer.ggml.tokens": lambda number: f"\u0120word{number}",  # the space, byte-level
        "tokenizer.ggml.token_type": lambda _: int(gguf.TokenType.NORMAL),
        "tokenizer.ggml.scores": lambda _: 0.0,
    }
    if key not in fillers:
        return value
    return [*value, *(fillers[key](number) for number in range(len(value), tokens))]


def add_tensors(
    writer: gguf.GGUFWriter, blocks: Blocks, shape: Shape, tokens: int, output_scale: float
) -> None:
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
    scales = output.reshape(-1, 210)[:, 208:]  # of each block, a half float
    scales[:] = (scales.copy().view(np.float16) * output_scale).astype(np.float16).view(np.uint8)
    output[:SPECIAL_TOKENS] = 0
    writer.add_tensor("output.weight", output, raw_dtype=Q6_K)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("vocabulary", type=Path, help="a GGUF with SmolLM2's tokenizer")
    parser.add_argument("output", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="8b")
    parser.add_argument("--vocabulary", dest="tokens", type=int, default=0, help="tokens")
    parser.add_argument("--logits", type=float, default=0.0, help="their standard deviation")
    arguments = parser.parse_args()
    started = time.perf_counter()
    write(
        arguments.vocabulary, arguments.output, SHAPES[arguments.shape],
        tokens=arguments.tokens, deviation=arguments.logits,
    )  # fmt: skip
    size = arguments.output.stat().st_size / 2**30
    print(f"{arguments.output}: {size:.2f} GiB in {time.perf_counter() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
