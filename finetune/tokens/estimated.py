"""Lengths of examples where there is no tokenizer: estimated from their characters."""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tuneserve.chat.examples import Example
from tuneserve.chat.thinking import REASONING
from tuneserve.finetune.data.prepare import Prepared
from tuneserve.finetune.tokens.encoder import IGNORED, Encoded

CHARACTERS_A_TOKEN: Mapping[str, float] = {
    "Latin text": 4.0,
    "Chinese, Japanese and Korean": 1.3,
    "other scripts": 2.5,
}
"""Roughly what today's vocabularies make of text: of English prose 4.2, of code 3.7, of Markdown 3;
a small or an English vocabulary takes two to three times as many tokens for other scripts."""
_LATIN, _WIDE, _OTHER = CHARACTERS_A_TOKEN.values()
# Tokens that a chat template puts around a message: who speaks, and the end.
_A_MESSAGE = 5
_WIDE_RANGES = ((0x1100, 0x11FF), (0x2E80, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF),
                (0xFF00, 0xFFEF), (0x20000, 0x3FFFF))  # fmt: skip


def estimated_tokens(text: str) -> float:
    """About how many tokens a text has."""
    if text.isascii():
        return len(text) / _LATIN
    return sum(1 / _characters_a_token(character) for character in text)


@functools.lru_cache(maxsize=1 << 14)
def _characters_a_token(character: str) -> float:
    if character.isascii():
        return _LATIN
    code = ord(character)
    if any(first <= code <= last for first, last in _WIDE_RANGES):
        return _WIDE
    return _LATIN if unicodedata.name(character, "").startswith("LATIN ") else _OTHER


def estimate_parts(prepared: Prepared, *, max_length: int) -> dict[str, list[Encoded]]:
    """The parts of the data as if they were encoded, of estimated lengths and without ids: all are
    0. What is longer than `max_length` is cut; a text without a prompt becomes several (but for a
    test), as it does when it is encoded. Of a conversation only the last answer counts as trained.
    """
    encoded: dict[str, list[Encoded]] = {}
    for name, part in prepared.parts().items():
        if name == "test":
            encoded[name] = estimate_all(part, max_length=max_length)
            continue
        pairs = [(e, item) for e in part for item in _estimated(e, max_length)]
        part[:] = [example for example, _ in pairs]
        encoded[name] = [item for _, item in pairs]
    return encoded


def estimate_all(examples: Sequence[Example], *, max_length: int) -> list[Encoded]:
    """The examples, each as one that is encoded: what is longer than `max_length` is cut."""
    return [next(_estimated(example, max_length)) for example in examples]


def _estimated(example: Example, max_length: int) -> Iterator[Encoded]:
    *context, answer = example.messages
    tools = json.dumps(example.tools, ensure_ascii=False) if example.tools else ""
    prompt = estimated_tokens(tools) + sum(map(_of_message, context))
    whole = max(1, round(prompt + _of_message(answer)))
    left = whole
    while True:
        length = min(left, max_length)
        read = min(round(prompt), length - 1)
        cut = whole if context else length
        yield Encoded(_zeros(length), _labels(read, length), cut, 0, (), example.where)
        left -= length
        if context or not left:
            return


def _of_message(message: Mapping[str, Any]) -> float:
    parts = [message.get("content"), message.get(REASONING), message.get("tool_calls")]
    text = "".join(
        part if isinstance(part, str) else json.dumps(part, ensure_ascii=False)
        for part in parts
        if part
    )
    return estimated_tokens(text) + _A_MESSAGE


# Examples of one length share their lists, which nobody changes.
@functools.cache
def _zeros(length: int) -> list[int]:
    return [0] * length


@functools.lru_cache(maxsize=1 << 12)
def _labels(read: int, length: int) -> list[int]:
    return [IGNORED] * read + [0] * (length - read)
