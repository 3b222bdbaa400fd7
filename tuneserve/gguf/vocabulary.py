"""Does a GGUF's vocabulary fit itself? llama.cpp ends the process for tokens that stand there
twice, and at the first text with a byte for which there is no token."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tuneserve.gguf.reader import ARRAY, STRING, GGUFFile, shown
from tuneserve.gguf.tokens import TokenType

TOKENS, TYPES, SCORES, MERGES = (
    f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores", "merges")
)
MODEL = "tokenizer.ggml.model"
TEMPLATE = "tokenizer.chat_template"
NO_VOCABULARY = ("none", "no_vocab")
NO_TOKEN = 2**32 - 1
"""How some converters write that there is no such token: -1."""

# Models that spell unknown characters in tokens of bytes, <0x00> to <0xFF>.
_BY_BYTES = ("llama", "plamo2")
# Models whose ids of BOS llama.cpp doesn't know if the file leaves them out, or that are others
# than these.
_USUAL_BOS = {"llama": 1, "bert": 101, "gpt2": 11, "plamo2": 1}
_ALWAYS_BOS = ("gemma4",)
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def has_vocabulary(file: GGUFFile) -> bool:
    """Does it not say that it has none?"""
    return file.get(MODEL) not in NO_VOCABULARY


def vocabulary_problems(file: GGUFFile) -> Iterator[str]:
    """What is wrong, one line for each key; nothing of a file without a vocabulary."""
    yield from _text_problems(file)
    if not has_vocabulary(file):
        yield from _dummy_problems(file)
        return
    tokens = file.get(TOKENS)
    if tokens is None:
        return  # llama.cpp says what it misses; a model that needs no vocabulary may have none
    if not tokens or not _are(tokens, str):
        yield f"{TOKENS} is no list of texts"
        return
    yield from _column_problems(file, len(tokens))
    yield from _token_problems(file, tokens)
    yield from _merge_problems(file)
    yield from _special_problems(file, len(tokens))


def _text_problems(file: GGUFFile) -> Iterator[str]:
    for key, kind in file.value_types.items():
        text = key in (MODEL, "tokenizer.ggml.pre") or key.startswith(TEMPLATE)
        # The names of further templates stand in a list.
        if text and kind != STRING and not (key == f"{TEMPLATE}s" and kind == ARRAY):
            yield f"{key} is {shown(file.metadata[key])}, and must be a text"


def _dummy_problems(file: GGUFFile) -> Iterator[str]:
    """llama.cpp makes up so many tokens as such a file names."""
    key = f"{file.architecture}.vocab_size"
    embedding = file.tensors.get("token_embd.weight")
    count = file.get(key, 0)
    if isinstance(count, int) and count > (embedding.shape[0] if embedding else 0):
        rows = embedding.shape[0] if embedding else 0
        yield f"{key} is {count}, and token_embd.weight has {rows} rows"


def _column_problems(file: GGUFFile, n_tokens: int) -> Iterator[str]:
    for key, kinds in ((TYPES, (int,)), (SCORES, (int, float))):
        column = file.get(key)
        if column is None:
            continue
        if not isinstance(column, list) or not _are(column, *kinds):
            yield f"{key} is {shown(column)}, and must be a list of numbers"
        elif len(column) < n_tokens:
            yield f"{key} has {len(column)} values for {n_tokens} tokens"
        elif key == TYPES and not 0 <= min(column) <= max(column) <= max(TokenType):
            yield f"{key} holds types that there are none of: {min(column)} to {max(column)}"
        elif any(map(math.isnan, column)):
            yield f"{key} holds values that are no numbers (NaN)"


def _token_problems(file: GGUFFile, tokens: Sequence[str]) -> Iterator[str]:
    # An empty text becomes one by its number.
    known = {token or f"[EMPTY_{number}]" for number, token in enumerate(tokens)}
    if len(known) != len(tokens):
        twice = next(iter(_twice(tokens)), "")
        yield f"{TOKENS}: {len(tokens) - len(known)} stand there twice, such as {twice[:40]!r}"
    if file.get(MODEL) in _BY_BYTES:
        missing = [
            byte for byte in range(256)
            if f"<0x{byte:02X}>" not in known and (byte > 127 or chr(byte) not in known)
        ]  # fmt: skip
        if missing:
            yield (
                f"{TOKENS}: {len(missing)} of the 256 tokens of one byte are missing, the first of "
                f"them <0x{missing[0]:02X}>"
            )
    types = file.get(TYPES)
    if isinstance(types, list) and _are(types, int) and file.get(MODEL) != "rwkv":
        for token, kind in zip(tokens, types, strict=False):
            if kind == TokenType.BYTE and not _BYTE.fullmatch(token):
                yield f"{TOKENS}: {token[:40]!r} is no token of one byte, as {TYPES} says"
                return


def _twice(tokens: Sequence[str]) -> Iterator[str]:
    seen = set()
    for token in tokens:
        if token in seen:
            yield token
        seen.add(token)


def _merge_problems(file: GGUFFile) -> Iterator[str]:
    merges = file.get(MERGES)
    if merges is None:
        return
    if not isinstance(merges, list) or not _are(merges, str):
        yield f"{MERGES} is no list of texts"
        return
    broken = [merge for merge in merges if " " not in merge[1:]]
    if broken:
        yield f"{MERGES}: {len(broken)} are no pairs, such as {broken[0][:40]!r}"


def _special_problems(file: GGUFFile, n_tokens: int) -> Iterator[str]:
    for name in ("bos", "eos", "eot", "eom"):
        key = f"tokenizer.ggml.{name}_token_id"
        value = file.get(key)
        if value is None or value == NO_TOKEN:
            continue
        if type(value) is not int:
            yield f"{key} is {shown(value)}, and must be a token's number"
        elif not 0 <= value < n_tokens:
            yield f"{key} is {value} of {n_tokens} tokens"
    model = file.get(MODEL)
    bos = file.get("tokenizer.ggml.bos_token_id", _USUAL_BOS.get(str(model), NO_TOKEN))
    adds = model in _ALWAYS_BOS or file.get("tokenizer.ggml.add_bos_token") is True
    if adds and (type(bos) is not int or not 0 <= bos < n_tokens):
        yield "tokenizer.ggml.add_bos_token wants a token in front of each text, and there is none"


def _are(values: Any, *kinds: type) -> bool:
    """Of a list, whose values have one type each: the first says it."""
    return isinstance(values, list) and all(type(value) in kinds for value in values[:1])
