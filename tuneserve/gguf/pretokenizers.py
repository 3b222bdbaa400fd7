"""Pre-tokenizers of byte-level BPE: from llama.cpp's name to the `tokenizers` structure and back.

A GGUF only names how text is cut before the merges run (`tokenizer.ggml.pre`); a tokenizer.json
spells it out. The table is read in both directions: an import writes the structure that a name
stands for, a conversion recognises the name by the structure. A structure or name that is not in
the table is an error: a wrong guess gives a model that loads and talks nonsense.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Set
from difflib import SequenceMatcher
from typing import Any

from tuneserve.errors import UsageError
from tuneserve.gguf.pretokenizer_table import (
    COVERING,
    PRE_TOKENIZERS,
    SAME_AS,
    PreTokenizer,
    Step,
    split,
)

__all__ = ["PRE_TOKENIZERS", "PreTokenizer", "by_name", "is_exact", "recognise"]

DEFAULT = "default"
"""llama.cpp's name for what it does with a file that names no pre-tokenizer."""


def by_name(name: str) -> PreTokenizer:
    """The row for a GGUF's `tokenizer.ggml.pre`. Raises UsageError if there is none."""
    wanted = SAME_AS.get(name, name)
    for row in PRE_TOKENIZERS:
        if row.name == wanted:
            return row
    known = sorted({row.name for row in PRE_TOKENIZERS} | set(SAME_AS))
    raise UsageError(
        f"unknown pre-tokenizer '{name}' (tokenizer.ggml.pre)", hint=f"Known: {', '.join(known)}."
    )


def recognise(
    pre_tokenizer: Mapping[str, Any] | None,
    *,
    ignore_merges: bool,
    adds_bos: bool,
    vocabulary: Set[str],
    merges_suffice: Callable[[], bool] = lambda: False,
) -> PreTokenizer:
    """The row whose steps a tokenizer.json's `pre_tokenizer` has.

    Twins (equal steps) are told apart by `ignore_merges`, `adds_bos` and marker tokens.
    `merges_suffice` is asked where no twin has that `ignore_merges`: does it change nothing? Raises
    UsageError for steps that are in no row.
    """
    steps = _canonical(pre_tokenizer)
    alike = [row for row in PRE_TOKENIZERS if steps in _spellings(row)]
    rows = [row for row in alike if row.ignore_merges == ignore_merges]
    if alike and not rows and merges_suffice():
        rows = alike
    if not rows:
        nearest = max(PRE_TOKENIZERS, key=lambda row: _likeness(_canonical(row.to_json()), steps))
        raise UsageError(
            "the tokenizer's pre-tokenizer is unknown to llama.cpp, as far as this table goes: "
            f"{steps}, ignore_merges={ignore_merges}",
            hint=f"The nearest is '{(alike or [nearest])[0].name}': "
            f"{_canonical((alike or [nearest])[0].to_json())}, "
            f"ignore_merges={(alike or [nearest])[0].ignore_merges}. Train on a GGUF of the base, "
            "whose import gives the tokenizer that llama.cpp has.",
        )
    rows = [row for row in rows if row.adds_bos == adds_bos] or [
        row for row in rows if row.adds_bos is None
    ]
    marked = [row for row in rows if row.marker and row.marker in vocabulary]
    return (marked or [row for row in rows if not row.marker])[0]


def is_exact(pre_tokenizer: Mapping[str, Any] | None, name: str) -> bool:
    """Does llama.cpp's pre-tokenizer `name` cut every text as these steps of a tokenizer.json do?
    Otherwise texts outside ASCII may be cut in other ways."""
    steps = _canonical(pre_tokenizer)
    rows = [row for row in PRE_TOKENIZERS if row.name == SAME_AS.get(name, name)]
    return not any(steps in _spellings(row) and steps != _spellings(row)[0] for row in rows)


def _spellings(row: PreTokenizer) -> list[list[Step]]:
    return [
        [part for step in steps for part in _canonical(step)] for steps in (row.steps, *row.also)
    ]


def _likeness(one: list[Step], other: list[Step]) -> float:
    return SequenceMatcher(None, json.dumps(one), json.dumps(other), autojunk=False).quick_ratio()


def _canonical(pre_tokenizer: Mapping[str, Any] | None) -> list[Step]:
    """The steps, flattened, without what does not change ids, with left-out defaults filled in and
    equal steps in one spelling."""
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for part in pre_tokenizer["pretokenizers"] for step in _canonical(part)]
    step = {key: value for key, value in pre_tokenizer.items() if key != "trim_offsets"}
    if step["type"] == "ByteLevel":
        return [{"add_prefix_space": True, "use_regex": True, **step}]
    if step["type"] == "Digits":
        return [split(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")]
    if step["type"] == "Punctuation":
        return [{"behavior": "Isolated", **step}]
    kept = step["type"] == "Split" and (step.get("behavior"), step.get("invert")) == (
        "Removed",
        True,
    )
    if kept and (regex := step["pattern"].get("Regex")) in COVERING:
        return [split(regex)]
    return [step]
