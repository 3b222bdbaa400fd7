"""A small vocabulary cut from one of llama.cpp's files, so that a test of many loads is cheap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuneserve.convert.gguf.writer import write_gguf
from tuneserve.gguf.reader import GGUFFile


def cut_vocabulary(
    source: Path,
    target: Path,
    *,
    pre: str | None = None,
    tokens: int = 8000,
    special: Sequence[str] = ("<|begin|>", "<|end|>"),
    **keys: tuple[str, Any],
) -> Path:
    """Byte-level BPE: the first `tokens` ordinary ones, all single bytes, the merges between them,
    and behind them special tokens, of which the first is BOS and the second EOS. `keys` are of
    tokenizer.ggml."""
    gguf = GGUFFile(source)
    types = gguf.require("tokenizer.ggml.token_type")
    texts = [
        text
        for number, (text, kind) in enumerate(
            zip(gguf.require("tokenizer.ggml.tokens"), types, strict=True)
        )
        if kind == 1 and (number < tokens or len(text) == 1)
    ]
    known = set(texts)
    merges = [
        merge
        for merge in gguf.require("tokenizer.ggml.merges")
        if {*merge.split(" ", 1), merge.replace(" ", "", 1)} <= known
    ]
    metadata: dict[str, tuple[str, Any]] = {
        "general.architecture": ("STRING", "llama"),
        "llama.context_length": ("UINT32", 4096),
        "tokenizer.ggml.model": ("STRING", "gpt2"),
        "tokenizer.ggml.pre": ("STRING", pre or gguf.require("tokenizer.ggml.pre")),
        "tokenizer.ggml.tokens": ("ARRAY", [*texts, *special]),
        "tokenizer.ggml.token_type": ("ARRAY", [1] * len(texts) + [3] * len(special)),
        "tokenizer.ggml.merges": ("ARRAY", merges),
        "tokenizer.ggml.bos_token_id": ("UINT32", len(texts)),
        "tokenizer.ggml.eos_token_id": ("UINT32", len(texts) + 1),
        "tokenizer.ggml.add_bos_token": ("BOOL", False),
    }
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    write_gguf(target, metadata, {}, [], threads=1)
    return target
