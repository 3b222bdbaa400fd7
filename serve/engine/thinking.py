"""Where an answer stands: before or inside its thoughts, in the answer proper, behind a mark.

A grammar bounds the answer proper and never the thoughts; a budget bounds the thoughts and nothing
else. Which of them holds is told by the text as it comes, token by token.
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
    """Follows an answer's text. `mark`: text in the answer proper behind which the grammar
    begins; `budget`: tokens of thoughts at most."""

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
        """Does a grammar hold now?"""
        return self.stage is Stage.ANSWER and self._mark is None

    @property
    def bounded_unless_thought(self) -> bool:
        """Does a grammar hold for the next token, unless it opens thoughts?"""
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
        """The piece without what it says behind the mark that a grammar waits for: that would be
        unbounded. White space there does no harm."""
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
