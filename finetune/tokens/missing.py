"""Characters that a base model's vocabulary has no token for.

Some byte-level vocabularies lack tokens for bytes that their training text did not have (SmolLM2:
six control characters, and the code points from U+40000 to U+BFFFF). The tokenizers library drops
such a byte before it merges what stands beside it, llama.cpp after: the model never sees the
character, and the ids of the same text may differ between training and serving.
"""

from __future__ import annotations

import json
import re
from typing import Any


def missing_bytes(tokenizer: Any) -> re.Pattern[bytes] | None:
    """A pattern of the bytes of UTF-8 text that have no token; None if every byte has one.

    `tokenizer` is a fast tokenizer of transformers. Sentencepiece vocabularies have a token for
    each of the 256 bytes.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    steps = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]
    if '"ByteLevel"' not in json.dumps(steps):
        return None
    vocabulary = tokenizer.get_vocab()
    missing = bytes(byte for byte, sign in bytes_to_unicode().items() if sign not in vocabulary)
    return re.compile(b"[" + re.escape(missing) + b"]") if missing else None


def missing_character(text: str, missing: re.Pattern[bytes] | None) -> str | None:
    """The first character of `text` with one of the `missing` bytes, if there is one."""
    if missing is None or not missing.search(text.encode()):
        return None
    return next(character for character in text if missing.search(character.encode()))
