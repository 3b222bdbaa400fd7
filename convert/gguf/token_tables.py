"""The tokens of a tokenizer.json as a GGUF has them: text, type and score by id."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.gguf.sentencepiece import SPACE, missing_pairs, scores_by_merge
from tuneserve.gguf.tokens import ADDED_SCORE, Token, TokenType, added_kind

# Gemma 4's tokens that a chat template's reader has to see in the text: llama.cpp's converter has
# this list as well.
_VISIBLE = frozenset(
    {
        "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>",
        "<tool_response|>", '<|"|>',
    }
)  # fmt: skip


def byte_level_tokens(content: Mapping[str, Any]) -> dict[int, Token]:
    """Tokens by id of a byte-level BPE tokenizer.json."""
    tokens = {
        number: Token(text, TokenType.NORMAL) for text, number in content["model"]["vocab"].items()
    }
    for entry in content["added_tokens"]:
        tokens[entry["id"]] = Token(entry["content"], added_kind(entry))
    return tokens


def spaces_replaced_tokens(content: Mapping[str, Any]) -> dict[int, Token]:
    """Tokens by id of Gemma 4's tokenizer.json: BPE of text whose spaces are '▁'.

    llama.cpp's converter leaves added tokens that are not special to the merges.
    """
    vocabulary: Mapping[str, int] = content["model"]["vocab"]
    tokens = {
        number: Token(text, TokenType.BYTE if BYTE_TOKEN.fullmatch(text) else TokenType.NORMAL,
                      ADDED_SCORE)
        for text, number in vocabulary.items()
    }  # fmt: skip
    for entry in content["added_tokens"]:
        text, number = entry["content"], int(entry["id"])
        if text in _VISIBLE or (number not in tokens and not entry["special"]):
            tokens[number] = Token(text, TokenType.USER_DEFINED, ADDED_SCORE)
        elif entry["special"]:
            tokens[number] = Token(text, TokenType.CONTROL, ADDED_SCORE)
    return tokens


BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def sentencepiece_tokens(
    directory: Path, content: Mapping[str, Any], *, architecture: str
) -> dict[int, Token]:
    """Tokens by id. Raises UsageError where llama.cpp would tokenize otherwise."""
    added = {int(entry["id"]): entry for entry in content["added_tokens"]}
    model = directory / "tokenizer.model"
    if model.is_file():
        tokens = _from_model(model)
        _check_same(tokens, content["model"]["vocab"], set(added), directory)
    else:
        tokens = _from_json(content["model"], {entry["content"] for entry in added.values()},
                            directory)  # fmt: skip
    # Phi-3's converter takes the flags as they stand, the others go by a token's looks too.
    literal = architecture == "phi3"
    for number, entry in added.items():
        kind, text = added_kind(entry, by_looks=not literal), entry["content"]
        if kind is TokenType.USER_DEFINED and not literal:
            text = text.replace(SPACE, " ")
        tokens[number] = Token(text, kind, ADDED_SCORE)
    return tokens


def _from_model(path: Path) -> dict[int, Token]:
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise UsageError(f"no sentencepiece model: {error}", where=str(path)) from error
    kinds = (
        (pieces.IsUnknown, TokenType.UNKNOWN), (pieces.IsControl, TokenType.CONTROL),
        (pieces.IsUnused, TokenType.UNUSED), (pieces.IsByte, TokenType.BYTE),
    )  # fmt: skip
    return {
        number: Token(
            pieces.IdToPiece(number),
            next((kind for test, kind in kinds if test(number)), TokenType.NORMAL),
            pieces.GetScore(number),
        )
        for number in range(pieces.GetPieceSize())
    }


def _from_json(model: Mapping[str, Any], added: set[str], directory: Path) -> dict[int, Token]:
    bytes_ = {token for token in model["vocab"] if BYTE_TOKEN.fullmatch(token)}
    ids = {token: n for token, n in model["vocab"].items() if token not in bytes_}
    merges = [_pair(merge) for merge in model["merges"]]
    unknown = [pair for pair in merges if not {*pair, "".join(pair)} <= ids.keys()]
    # Added tokens are cut out before anything is merged.
    missing = unknown or [
        (left, right)
        for left, right in missing_pairs(ids, merges)
        if not added & {left, right, left + right}
    ]
    if missing:
        raise UsageError(
            "the merges are not those of a sentencepiece model, which llama.cpp would take it for",
            where=str(directory / "tokenizer.json"),
            problems=[f"'{left}' + '{right}'" for left, right in missing[:10]],
        )
    scores = scores_by_merge(ids, merges, max(model["vocab"].values(), default=-1) + 1)
    tokens = {
        number: Token(token, TokenType.NORMAL, scores[number]) for token, number in ids.items()
    }
    for token in bytes_:
        tokens[model["vocab"][token]] = Token(token, TokenType.BYTE, 0.0)
    if model.get("unk_token") in ids:
        tokens[ids[model["unk_token"]]] = Token(model["unk_token"], TokenType.UNKNOWN, 0.0)
    return tokens


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """A merge in either of tokenizer.json's forms: 'a b' or ['a', 'b']."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _check_same(
    tokens: Mapping[int, Token], vocabulary: Mapping[str, int], added: set[int], directory: Path
) -> None:
    by_id = {number: token for token, number in vocabulary.items()}
    different = [
        f"id {number}: '{token.text}' and '{by_id.get(number)}'"
        for number, token in tokens.items()
        if number not in added and by_id.get(number) != token.text
    ]
    if different:
        raise UsageError(
            "tokenizer.model and tokenizer.json are of different tokenizers",
            where=str(directory), problems=different[:10],
        )  # fmt: skip
