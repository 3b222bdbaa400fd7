"""The keys by which a record is known, also where they are written with other case or spaces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tuneserve.finetune.data.conversations import CONVERSATION_KEYS
from tuneserve.finetune.data.pairs import ANSWERS, PROMPTS

MARKS = frozenset({
    "instruction", "output", "prompt", "completion", "messages", "conversations", "conversation",
    "text", "input", "question", "answer", "answers", "query", "response", "problem", "solution",
    "chosen", "rejected",
})  # fmt: skip
"""Keys that only a record has, and nothing that holds records."""
KNOWN = MARKS | {
    *CONVERSATION_KEYS, *PROMPTS, *ANSWERS, "system", "history", "tools", "id", "group", "source",
}  # fmt: skip
TAUGHT = frozenset({*PROMPTS, *ANSWERS, "text"})
"""Keys whose text is asked or learned, so that it is never taken for an empty cell."""

_SIDES = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "validation": "eval", "valid": "eval", "val": "eval", "dev": "eval", "eval": "eval",
    "evaluation": "eval",
}  # fmt: skip


def side_of_name(name: str) -> str | None:
    """The side of the split that a name of a file, a folder or a key says: 'my_test.csv' is for
    'test'. None if it says none, or several."""
    sides = {_SIDES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _SIDES}
    return sides.pop() if len(sides) == 1 else None


def matched_keys(record: Mapping[str, Any], known: frozenset[str]) -> dict[str, str]:
    """Keys that are known but for case and white space, with the names they are known by."""
    found: dict[str, str] = {}
    for key in record:
        if key in known or not isinstance(key, str):
            continue
        name = key.strip().strip("\ufeff")
        name = name if name in known else name.lower()
        if name in known and name not in record and name not in found.values():
            found[key] = name
    return found
