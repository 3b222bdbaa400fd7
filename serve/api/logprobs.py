"""Log probabilities of an answer's tokens as OpenAI's two completions APIs write them.

A token may be a part of a character, which is no text: it is written as its bytes, `\\xf0\\x9f` in
a chat and `bytes:\\xf0\\x9f` in a text completion, whose alternatives are told by their text alone.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from tuneserve.llama import LlamaModel
from tuneserve.serve.api.replies import ChatLogprobs, TextLogprobs, TopLogprob
from tuneserve.serve.engine import TokenLogprob


def chat_logprobs(model: LlamaModel, tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """`logprobs` of a chat completion's choice."""
    return {
        "content": [
            {
                **_chat_token(model, one.token, one.logprob),
                "top_logprobs": [_chat_token(model, *alternative) for alternative in one.top],
            }
            for one in tokens
        ]
    }


def _chat_token(model: LlamaModel, token: int, logprob: float) -> TopLogprob:
    """A token with its text, bytes and log probability."""
    data = model.token_bytes(token)
    return {"token": _text(data), "logprob": logprob, "bytes": list(data)}


class TextOffsets:
    """Where tokens begin in the text of an answer, token by token."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._shown = 0

    def place(self, shown: bytes) -> int:
        """The place of a token in the text, in characters; `shown` are its bytes there. Parts of
        one character have the place of the character."""
        place = self._shown
        self._shown += len(self._decoder.decode(shown))
        return place


def text_logprobs(
    model: LlamaModel, tokens: Sequence[TokenLogprob], offsets: TextOffsets
) -> TextLogprobs:
    """`logprobs` of a text completion's choice, or of a piece of it."""
    return {
        "tokens": [_text(model.token_bytes(one.token), mark="bytes:") for one in tokens],
        "token_logprobs": [one.logprob for one in tokens],
        "top_logprobs": [_alternatives(model, one.top) for one in tokens],
        "text_offset": [
            offsets.place(model.token_bytes(one.token, special=False)) for one in tokens
        ],
    }


def _alternatives(model: LlamaModel, top: Sequence[tuple[int, float]]) -> dict[str, float]:
    """By their text; of two tokens of one text the less probable is written as bytes."""
    named: dict[str, float] = {}
    for token, logprob in top:
        data = model.token_bytes(token)
        name = _text(data, mark="bytes:")
        named.setdefault(f"bytes:{_escaped(data)}" if name in named else name, logprob)
    return named


def _text(data: bytes, *, mark: str = "") -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return mark + _escaped(data)


def _escaped(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)
