"""Answers in channels, as gpt-oss writes them: every message has a header that says whom it is for.

Thoughts are `<|channel|>analysis<|message|>…<|end|>`, the answer is
`<|start|>assistant<|channel|>final<|message|>…`, a call is
`<|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>{…}`. The prompt ends with
`<|start|>assistant`, so an answer begins within a header.
"""

from __future__ import annotations

import re

from tuneserve.chat.thinking import is_cut_within, overlap
from tuneserve.serve.chat.call_arguments import ObjectEnd
from tuneserve.serve.chat.parts import (
    CallArguments,
    CallBegin,
    Content,
    Part,
    Reasoning,
    call_id,
)

_MESSAGE = "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
_HEADER = ("<|start|>", "<|channel|>", "<|constrain|>", _MESSAGE, "assistant", "to=")
_RECEIVER = re.compile(r"to=functions\.([\w.-]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


class ChannelReader:
    """Splits growing text of channels, as PartReader does other text. `calls`: tools were offered;
    if not, a call is text."""

    plain = False

    def __init__(self, *, calls: bool) -> None:
        self._calls = calls
        self._held = ""
        self._kind: type[Reasoning | Content | CallArguments] | None = None  # None: in a header
        self._end = ObjectEnd()
        self._in_call = False

    def feed(self, text: str) -> list[Part]:
        """The parts that `text` completes or continues."""
        self._held += text
        parts: list[Part] = []
        while self._held and (self._header(parts) if self._kind is None else self._body(parts)):
            pass
        return parts

    @property
    def in_call(self) -> bool:
        """Is a call begun whose arguments have not ended?"""
        return self._in_call

    def finish(self, *, cut: bool = False, stop: str | None = None) -> list[Part]:
        """What is held when the answer ends; a header without a message is nothing, and neither is
        the beginning of a mark in an answer that was `cut`, or that a `stop` string has cut."""
        rest, self._held = self._held, ""
        cut = cut or (stop is not None and is_cut_within(_ENDS, rest, stop))
        return [self._part(rest)] if rest and self._kind is not None and not cut else []

    def _header(self, parts: list[Part]) -> bool:
        begun = self._held.lstrip()
        if begun and not any(begun.startswith(m) or m.startswith(begun) for m in _HEADER):
            self._kind = Content  # no header at all
            return True
        header, ended, after = self._held.partition(_MESSAGE)
        if not ended:
            return False
        self._held = after
        receiver, channel = _RECEIVER.search(header), _CHANNEL.search(header)
        if receiver and self._calls:
            self._kind = CallArguments
            self._end, self._in_call = ObjectEnd(), True
            parts.append(CallBegin(call_id(), receiver[1]))
        else:
            thinks = channel is not None and channel[1] == "analysis"
            self._kind = Reasoning if thinks else Content
        return True

    def _body(self, parts: list[Part]) -> bool:
        assert self._kind is not None
        places = [place for mark in _ENDS if (place := self._held.find(mark)) >= 0]
        shown = min(places, default=len(self._held) - max(overlap(self._held, m) for m in _ENDS))
        if shown:
            parts.append(self._part(self._held[:shown]))
        self._held = self._held[shown:]
        if places:
            ended = next(mark for mark in _ENDS if self._held.startswith(mark))
            self._held = self._held.removeprefix(ended)
            self._kind = None
        return bool(places)

    def _part(self, text: str) -> Part:
        assert self._kind is not None
        if self._kind is CallArguments and self._in_call:
            self._in_call = self._end.find(text) is None
        return self._kind(text)
