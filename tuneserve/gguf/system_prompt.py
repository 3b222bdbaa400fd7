"""The system prompt that a model was trained with, as a key of its GGUF's metadata.

It stands in the file, so that it is known wherever the file goes. llama.cpp passes over keys that
it does not know; a model that was trained without one has no such key.
"""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

from tuneserve.gguf.reader import STRING, GGUFFile

SYSTEM_PROMPT = "tuneserve.system_prompt"
_COUNT_AT = 16  # of the values of the metadata: behind magic, version and the number of tensors


def system_prompt_of(gguf: GGUFFile) -> str:
    """The system prompt in a GGUF of a model or of an adapter; '' if there is none."""
    value = gguf.get(SYSTEM_PROMPT, "")
    return value if isinstance(value, str) else ""


def write_with_system_prompt(source: Path, target: Path, system: str) -> None:
    """Write `target`: the GGUF `source`, which has no such key, with this system prompt. All else
    is the same, byte for byte. Raises UsageError if `source` is damaged."""
    gguf = GGUFFile(source)
    with source.open("rb") as old, target.open("wb") as new:
        head = old.read(gguf.metadata_end)
        new.write(head[:_COUNT_AT] + struct.pack("<Q", len(gguf.metadata) + 1))
        new.write(head[_COUNT_AT + 8 :])
        new.write(_text(SYSTEM_PROMPT) + struct.pack("<I", STRING) + _text(system))
        new.write(old.read(gguf.header_end - gguf.metadata_end))
        new.write(bytes(-new.tell() % gguf.alignment))
        old.seek(-gguf.header_end % gguf.alignment, 1)
        shutil.copyfileobj(old, new, 1 << 20)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
