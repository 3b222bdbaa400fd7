"""The texts on which the vocabularies are compared tell every two pre-tokenizers apart."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from tokenizers import Tokenizer

from tuneserve.convert.verify.hard_strings import (
    HARD_STRINGS,
    mixed_strings,
    special_token_strings,
)
from tuneserve.gguf.pretokenizers import PRE_TOKENIZERS

# Two spellings of the same: `\s*` takes all line ends but one before `[\r\n]` or `[\r\n]+`.
SAME = [("deepseek-r1-qwen", "bailingmoe")]


def splitter(steps: dict[str, Any]) -> Any:
    model = {"type": "BPE", "vocab": {}, "merges": []}
    content = {"version": "1.0", "added_tokens": [], "model": model, "pre_tokenizer": steps}
    return Tokenizer.from_str(json.dumps(content)).pre_tokenizer


def test_every_two_pre_tokenizers_cut_a_text_differently() -> None:
    texts = [*HARD_STRINGS, *mixed_strings()]
    by_steps = {json.dumps(row.to_json(), sort_keys=True): row for row in PRE_TOKENIZERS}
    cuts = {}
    for row in by_steps.values():
        made = splitter(row.to_json())
        cuts[row.name] = [tuple(piece for piece, _ in made.pre_tokenize_str(t)) for t in texts]
    assert len(cuts) > 5
    alike = [(a, b) for a, b in itertools.combinations(cuts, 2) if cuts[a] == cuts[b]]
    assert alike == SAME


@pytest.mark.parametrize("count", [0, 1, 32, 300])
def test_every_special_token_is_in_a_text(count: int) -> None:
    tokens = [f"<|{n}|>" for n in range(count)]
    texts = special_token_strings(tokens)
    assert all(any(token in text for text in texts) for token in tokens)
    assert len(texts) < 3 * 32 + 4 * (count // 32 + 1) + 1
