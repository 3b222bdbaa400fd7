"""An answer's parts: what the model thinks, what it says, which tools it calls.

Read from the text as it streams: marks may be cut anywhere, and nothing of them is ever shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from tuneserve.serve.chat.calls import CallArguments, CallBegin, ObjectEnd, begun, whole
from tuneserve.serve.chat.tools import CLOSE, OPEN, ToolCall, parse_call
from tuneserve.serve.engine.detokenizer import overlap
from tuneserve.serve.engine.thinking import Thoughts
from tuneserve.thoughts import CLOSE as CLOSE_THOUGHTS
from tuneserve.thoughts import OPEN as OPEN_THOUGHTS


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text the model thinks to itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


Part = Reasoning | Content | CallBegin | CallArguments


def calls_of(parts: Sequence[Part]) -> list[ToolCall]:
    """The calls among the parts of an answer."""
    calls: list[ToolCall] = []
    for part in parts:
        if isinstance(part, CallBegin):
            calls.append(ToolCall(part.id, part.name, ""))
        elif isinstance(part, CallArguments):
            calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + part.text)
    return calls


class _State(Enum):
    START = "before anything but white space"
    REASONING = "between <think> and </think>"
    CONTENT = "in the answer"
    CALL = "behind <tool_call>, before the arguments"
    ARGUMENTS = "in the arguments of a call"
    CALLED = "behind the arguments, before </tool_call>"


class PartReader:
    """Splits growing text. `thoughts`: what the prompt left of them; `calls`: tools were
    offered."""

    def __init__(self, thoughts: Thoughts = "none", *, calls: bool = False):
        begin = {"none": _State.CONTENT, "may": _State.START, "open": _State.REASONING}
        self._calls = calls
        self._held = ""
        self._state = begin[thoughts]
        self._trim = thoughts == "open"
        self._end = ObjectEnd()

    @property
    def plain(self) -> bool:
        """Is all of the text simply content?"""
        return self._state is _State.CONTENT and not self._calls and not self._trim

    def feed(self, text: str) -> list[Part]:
        """The parts that `text` completes or continues."""
        self._held += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def finish(self) -> list[Part]:
        """What is held when the answer ends; a call without a name is content."""
        rest, self._held = self._held, ""
        if self._state is _State.REASONING:
            return [Reasoning(rest)] if rest else []
        if self._state is _State.CALL:
            return _call_or_content(rest, closed=False)
        if self._state is _State.CALLED:
            return []
        return [Content(rest)] if rest else []

    def _step(self, parts: list[Part]) -> bool:
        """Take one thing from what is held; False if more text is needed."""
        if self._state is _State.START:
            return self._start()
        if self._trim:
            # The white space after a mark belongs to neither part.
            self._held = self._held.lstrip()
            self._trim = not self._held
        if not self._held:
            return False
        if self._state is _State.REASONING:
            return self._until(CLOSE_THOUGHTS, parts, _State.CONTENT)
        if self._state is _State.CALL:
            return self._call(parts)
        if self._state is _State.ARGUMENTS:
            return self._arguments(parts)
        if self._state is _State.CALLED:
            return self._called()
        if not self._calls:
            parts.append(Content(self._held))
            self._held = ""
            return False
        return self._until(OPEN, parts, _State.CALL)

    def _start(self) -> bool:
        begun = self._held.lstrip()
        if begun.startswith(OPEN_THOUGHTS):
            self._held = begun[len(OPEN_THOUGHTS) :]
            self._state, self._trim = _State.REASONING, True
            return True
        if OPEN_THOUGHTS.startswith(begun):
            return False
        self._state = _State.CONTENT
        return True

    def _until(self, mark: str, parts: list[Part], then: _State) -> bool:
        kind = Reasoning if self._state is _State.REASONING else Content
        before, found, after = self._held.partition(mark)
        if found:
            if before := before.rstrip() if kind is Reasoning else before:
                parts.append(kind(before))
            self._held, self._state, self._trim = after, then, True
            return True
        keep = overlap(self._held, mark)
        shown, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        if shown:
            parts.append(kind(shown))
        return False

    def _call(self, parts: list[Part]) -> bool:
        if found := begun(self._held):
            call, self._held = found
            parts.append(call)
            self._state, self._end = _State.ARGUMENTS, ObjectEnd()
            return True
        inside, closed, after = self._held.partition(CLOSE)
        if not closed:
            return False
        parts += _call_or_content(inside, closed=True)
        self._held, self._state, self._trim = after, _State.CONTENT, True
        return True

    def _arguments(self, parts: list[Part]) -> bool:
        end = self._end.find(self._held)
        parts.append(CallArguments(self._held[:end]))
        self._held = "" if end is None else self._held[end:]
        if end is not None:
            self._state = _State.CALLED
        return end is not None

    def _called(self) -> bool:
        _, closed, after = self._held.partition(CLOSE)
        if closed:
            self._held, self._state, self._trim = after, _State.CONTENT, True
        return bool(closed)


def _call_or_content(inside: str, *, closed: bool) -> list[Part]:
    call = parse_call(inside)
    if call is not None:
        return list(whole(call))
    return [Content(f"{OPEN}{inside}{CLOSE if closed else ''}")]
