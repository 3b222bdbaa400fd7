"""Sentencepiece's BPE in the terms of the `tokenizers` library, and back.

Sentencepiece keeps a score for every token and merges whatever gives the best-scored one;
`tokenizers` keeps a list of pairs. Every way to cut a token in two tokens is a pair, ranked by the
token's score, so that either says what the other does (llama.cpp: `llm_tokenizer_spm`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tuneserve.errors import UsageError

SPACE = "▁"
LOWEST_SCORE = -10000.0  # llama.cpp's score for ids without a token


def merges_by_score(
    tokens: Sequence[str], scores: Sequence[float], left_out: Collection[str]
) -> list[tuple[str, str]]:
    """All pairs that make up a token, best score first; tokens in `left_out` are never merged."""
    ids = {token: number for number, token in enumerate(tokens) if token not in left_out}
    ranked = [
        (-scores[number], ids[left], ids[right], left, right)
        for token, number in ids.items()
        for left, right in pairs_of(token, ids)
    ]
    return [(left, right) for *_, left, right in sorted(ranked)]


def pairs_of(token: str, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """The ways to cut a token in two that are tokens themselves."""
    cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
    return [(left, right) for left, right in cuts if left in ids and right in ids]


def scores_by_merge(
    ids: Mapping[str, int], merges: Sequence[tuple[str, str]], size: int
) -> list[float]:
    """The reverse: minus the place at which merges first give a token; then, in the order of
    their ids, the tokens that no merge gives, which scores don't matter for. [size]"""
    scores = [LOWEST_SCORE] * size
    order = dict.fromkeys(ids[left + right] for left, right in merges)
    order |= dict.fromkeys(sorted(ids.values()))
    for place, number in enumerate(order):
        scores[number] = float(-place)
    return scores


def missing_pairs(
    ids: Mapping[str, int], merges: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Pairs that llama.cpp would merge, because their sum is a token, and this list does not."""
    known = set(merges)
    return [
        pair
        for token in dict.fromkeys(left + right for left, right in merges)
        for pair in pairs_of(token, ids)
        if pair not in known
    ]


def sentencepiece_steps(*, space_prefix: bool) -> dict[str, Any]:
    """Normalizer, pre-tokenizer and decoder: spaces become '▁', and with `space_prefix` every
    piece of text between special tokens gets one in front."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    normalizer: dict[str, Any] = replace
    if space_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        prepend = {"type": "Prepend", "prepend": SPACE}
        normalizer = {"type": "Sequence", "normalizers": [prepend, replace]}
    decoder = {"type": "Sequence", "decoders": decoders}
    return {"normalizer": normalizer, "pre_tokenizer": None, "decoder": decoder}


def has_space_prefix(content: Mapping[str, Any], where: str) -> bool:
    """Does a '▁' go in front of each piece of text between special tokens?

    Raises UsageError for steps that llama.cpp does not take.
    """
    normalizer = content.get("normalizer")
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    pre = content.get("pre_tokenizer")
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    # Splits at spaces after they were replaced: nothing is left to split.
    nothing = (None, {"type": "Split", "pattern": {"String": " "},
                      "behavior": "MergedWithPrevious", "invert": False})  # fmt: skip
    if pre in nothing and steps == [{"type": "Prepend", "prepend": SPACE}, replace]:
        return True
    if pre in nothing and steps == [replace]:
        return False
    if not steps and pre and pre.get("type") == "Metaspace":
        scheme = pre.get("prepend_scheme", "always")
        if scheme != "never":
            raise UsageError(
                f"the tokenizer (Metaspace, '{scheme}') puts a space in front of text only where "
                "none stands already, or only at the beginning; llama.cpp does so always or never",
                where=where,
                hint="Train on a GGUF of the base: its import gives the tokenizer that llama.cpp "
                "has.",
            )
        if pre.get("replacement") == SPACE and pre.get("split") is False:
            return False
    raise UsageError(
        f"normalizer {normalizer} with pre-tokenizer {pre} is unknown to llama.cpp's sentencepiece",
        where=where,
        hint="Known: spaces become '▁' (with or without one in front), nothing else changes.",
    )
