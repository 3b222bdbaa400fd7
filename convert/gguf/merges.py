"""Does it matter whether a tokenizer takes whole tokens before it merges (`ignore_merges`)?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_AT_A_TIME = 20_000


def merges_give_every_token(content: Mapping[str, Any]) -> bool:
    """Do the merges of a BPE tokenizer.json lead to each of its tokens? Then a piece of text that
    is a token becomes that token with `ignore_merges` or without (gpt-oss's file has it, llama.cpp
    does not)."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    model = content["model"]
    pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"])
    merges = [(str(left), str(right)) for left, right in pairs]
    tokenizer = Tokenizer(BPE(vocab=model["vocab"], merges=merges))
    added = {entry["content"] for entry in content["added_tokens"]}
    tokens = [token for token in model["vocab"] if token not in added]
    return all(
        len(encoding.ids) == 1
        for start in range(0, len(tokens), _AT_A_TIME)
        for encoding in tokenizer.encode_batch_fast(tokens[start : start + _AT_A_TIME])
    )
