"""The thinking state of an answer: before its thoughts, inside them, or in the answer proper.

The grammar applies to the answer proper only, the thinking budget to the thoughts only. The state
is read from the generated text, token by token.
"""

from __future__ import annotations

from enum import Enum

from tuneserve.chat.thinking import CLOSE_THOUGHTS, OPEN_THOUGHTS, Thoughts, opening

_OPEN, _CLOSE = OPEN_THOUGHTS.encode(), CLOSE_THOUGHTS.encode()


class Stage(Enum):
    START = "nothing but white space or a part of <think>"
    THOUGHTS = "between <think> and </think>"
    ANSWER = "the answer proper"


class ThinkingState:
    """Follows an answer's text. `mark`: the grammar applies after this text in the answer proper
    (None: from its beginning); `budget`: the most tokens of thoughts."""

    def __init__(
        self, thoughts: Thoughts, *, mark: str | None = None, budget: int | None = None
    ) -> None:
        begin = {"none": Stage.ANSWER, "may": Stage.START, "open": Stage.THOUGHTS}
        self.stage = begin[thoughts]
        self._mark = mark.encode() if mark else None
        self._budget = budget
        self._count = 0
        self._tail = b""

    @property
    def bounded(self) -> bool:
        """Does the grammar apply to the next token?"""
        return self.stage is Stage.ANSWER and self._mark is None

    @property
    def bounded_unless_thought(self) -> bool:
        """Does the grammar apply to the next token, unless that opens thoughts?"""
        return self.stage is Stage.START and self._mark is None and not self._tail

    def see(self, piece: bytes) -> bool:
        """The next token's bytes. True: the thoughts have used up their budget."""
        if self.stage is Stage.THOUGHTS:
            self._count += 1
        seen, self._tail = self._tail + piece, b""
        if self.stage is Stage.START:
            seen = self._see_beginning(seen)
        if self.stage is Stage.THOUGHTS:
            seen = self._see_thoughts(seen)
        if self.stage is Stage.ANSWER:
            self._see_answer(seen)
        spent = self._budget is not None and 0 < self._count >= self._budget
        return spent and self.stage is Stage.THOUGHTS

    @staticmethod
    def begins_thought(piece: bytes) -> str | None:
        """The rest of `<think>` behind a first token that begins it; None if it does not."""
        if piece.startswith(_OPEN):
            return ""
        return OPEN_THOUGHTS[len(piece) :] if piece and _OPEN.startswith(piece) else None

    def cut(self, piece: bytes) -> bytes:
        """A token's bytes up to the mark (`</think>` or `mark`) that it completes: the grammar
        would not have checked the text after it. White space after the mark is kept."""
        mark = {Stage.THOUGHTS: _CLOSE, Stage.ANSWER: self._mark}.get(self.stage)
        if mark is None:
            return piece
        rest = (self._tail + piece).partition(mark)[2]
        return piece[: len(piece) - len(rest)] if rest.strip() else piece

    def _see_beginning(self, seen: bytes) -> bytes:
        opened, rest = opening(seen)
        if opened is None:
            self._tail = rest
            return b""
        self.enter(Stage.THOUGHTS if opened else Stage.ANSWER)
        return rest

    def _see_thoughts(self, seen: bytes) -> bytes:
        _, closed, rest = seen.partition(_CLOSE)
        if closed:
            self.enter(Stage.ANSWER)
            return rest
        self._tail = seen[1 - len(_CLOSE) :]
        return b""

    def _see_answer(self, seen: bytes) -> None:
        if self._mark is None:
            return
        if self._mark in seen:
            self._mark = None
        else:
            self._tail = seen[1 - len(self._mark) :]

    def enter(self, stage: Stage) -> None:
        """What comes next is of this stage."""
        self.stage = stage
        self._tail = b""
