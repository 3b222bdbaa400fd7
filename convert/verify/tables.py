"""Contract: the GGUF's tables of tokens, types, merges and scores are the trainer's tokenizer.json.

Held-out texts meet a small part of a vocabulary. Here all of it is compared, read from
tokenizer.json by nothing that wrote the GGUF.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from tuneserve.convert.result import Check
from tuneserve.files import read_json
from tuneserve.gguf.reader import GGUFFile
from tuneserve.gguf.tokens import TokenType, looks_special

SHOWN = 3
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
# A token that stands in a table of tokens alone, not among the added ones.
_LOOKED_UP = {TokenType.NORMAL, TokenType.UNUSED}


def check_tables(tokenizer: Path, file: GGUFFile) -> Check:
    """Compare `tokenizer`'s tokenizer.json with the GGUF, row by row."""
    content = read_json(tokenizer / "tokenizer.json")
    model, added = content["model"], {int(e["id"]): e for e in content["added_tokens"]}
    tokens: list[str] = file.require("tokenizer.ggml.tokens")
    types: list[int] = file.get("tokenizer.ggml.token_type") or []
    merges = [_pair(merge) for merge in model.get("merges") or ()]
    named = {number: text for text, number in _vocabulary(model).items()}
    named |= {number: entry["content"] for number, entry in added.items()}
    problems = [
        *_wrong_texts(named, tokens),
        *_wrong_types(named, added, types, byte_fallback=bool(model.get("byte_fallback"))),
    ]
    stored, scores = file.get("tokenizer.ggml.merges"), file.get("tokenizer.ggml.scores")
    if stored is not None:
        problems += _wrong_merges(merges, stored)
    elif scores is not None:
        problems += _wrong_scores(merges, _vocabulary(model), scores, set(added))
    elif merges:
        problems.append(f"the GGUF has none of the {len(merges)} merges")
    more = f" … ({len(problems)})" if len(problems) > SHOWN else ""
    detail = f"{len(named)} tokens with their types, {len(merges)} merges equal"
    return Check(
        "tables of tokens", not problems, "; ".join(problems[:SHOWN]) + more or detail,
        {"tokens": len(named), "merges": len(merges), "wrong": len(problems)},
    )  # fmt: skip


def _vocabulary(model: Mapping[str, Any]) -> dict[str, int]:
    """Ids by token; a Unigram model has a list of tokens with their scores."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        return {token: number for number, (token, _) in enumerate(vocabulary)}
    return dict(vocabulary)


def _wrong_texts(named: Mapping[int, str], tokens: Sequence[str]) -> Iterator[str]:
    for number, text in named.items():
        found = tokens[number] if number < len(tokens) else None
        # Sentencepiece writes a space as U+2581, in added tokens too.
        if found != text and found != text.replace("\u2581", " "):
            yield f"token {number} is {text!r} in training, {found!r} in the GGUF"


def _wrong_types(
    named: Mapping[int, str],
    added: Mapping[int, Mapping[str, Any]],
    types: Sequence[int],
    *,
    byte_fallback: bool,
) -> Iterator[str]:
    for number, text in named.items():
        kind = TokenType(types[number]) if number < len(types) else None
        entry = added.get(number)
        if entry is not None:
            allowed = {TokenType.CONTROL, TokenType.UNKNOWN} if entry["special"] else set()
            if not entry["special"]:
                # llama.cpp's converters go by looks where the flag was left out.
                allowed = {TokenType.USER_DEFINED, *_control_by_looks(text)}
        elif byte_fallback and _BYTE.fullmatch(text):
            allowed = {TokenType.BYTE}
        elif byte_fallback:
            continue  # tokenizer.model may know more of it than tokenizer.json
        else:
            allowed = _LOOKED_UP
        if kind not in allowed:
            name = "of no type" if kind is None else kind.name
            yield f"token {number} ({text!r}) is {name} in the GGUF"


def _control_by_looks(text: str) -> set[TokenType]:
    return {TokenType.CONTROL} if looks_special(text) else set()


def _wrong_merges(merges: Sequence[tuple[str, str]], stored: Sequence[str]) -> Iterator[str]:
    if len(merges) != len(stored):
        yield f"{len(merges)} merges in training, {len(stored)} in the GGUF"
    for place, (pair, found) in enumerate(zip(merges, stored, strict=False)):
        if " ".join(map(_without_spaces, pair)) != found:
            yield f"merge {place} is {pair} in training, {found!r} in the GGUF"


def _without_spaces(text: str) -> str:
    # A GGUF separates the two by a space; one inside is moved by 256, as bytes are.
    return text.replace(" ", "\u0120")


def _wrong_scores(
    merges: Sequence[tuple[str, str]],
    ids: Mapping[str, int],
    scores: Sequence[float],
    added: Set[int],
) -> Iterator[str]:
    """A GGUF of sentencepiece has no merges: the better score is merged first. So what a later
    merge gives may not have a better score than what an earlier one gives. `added` tokens, such as
    Gemma 3's runs of spaces, are found in the text before it is merged."""
    lowest, seen = float("inf"), set(added)
    for left, right in merges:
        number = ids.get(left + right)
        if number is None or number in seen:
            continue
        seen.add(number)
        if number >= len(scores) or scores[number] > lowest:
            yield f"token {number} ({left + right!r}) has a score out of the order of the merges"
        else:
            lowest = scores[number]


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right
