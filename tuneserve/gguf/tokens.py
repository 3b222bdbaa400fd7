"""Tokens of a vocabulary: their types, and what llama.cpp makes of added and special ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

ADDED_SCORE = -1000.0
_LOOK_SPECIAL = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))

# llama.cpp takes the whitespace behind special tokens away in a model whose general.name holds one
# of these, but for three tokens (llama-vocab.cpp: a GGUF itself can't say so).
STRIPPING_NAMES = ("phi-3", "phi3")
NEVER_STRIPPING = {"<unk>", "<s>", "<|endoftext|>"}


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Token:
    text: str
    type: TokenType
    score: float = 0.0


def added_kind(entry: Mapping[str, Any], *, by_looks: bool = True) -> TokenType:
    """CONTROL for a special token (or one that looks so), else USER_DEFINED."""
    control = entry["special"] or (by_looks and looks_special(entry["content"]))
    return TokenType.CONTROL if control else TokenType.USER_DEFINED


def looks_special(token: str) -> bool:
    """Is this added token a control token that was not flagged as special?

    Some models' tokenizer.json leave the flag out; llama.cpp goes by the same looks.
    """
    return token in _LOOK_SPECIAL or any(
        token.startswith(left) and token.endswith(right) for left, right in _BRACKETS
    )


def strips_right(name: str) -> bool:
    """Does llama.cpp take away what stands behind special tokens in a model of this name?"""
    return any(part in name.lower() for part in STRIPPING_NAMES)
