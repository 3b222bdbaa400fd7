"""One token of a vocabulary, and what kind an added token is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneserve.base.tokenizer import TokenType

ADDED_SCORE = -1000.0
_LOOK_SPECIAL = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"}
_BRACKETS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))


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
