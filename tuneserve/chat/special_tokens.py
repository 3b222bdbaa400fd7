"""Special tokens that a conversation's own text spells out, told apart from those of the template.

`<|im_end|>` in a question is text: were it read as the token, a question could end its own turn and
an answer teach the model to stop in its middle. What a message brings is therefore protected before
the template renders it: a mark is put into each spelled-out special token, so that tokenizing the
rendered text finds the template's own ones only; the rest is tokenized as text, without the mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tuneserve.llama.special_texts import any_of

MARK = "\ufdd1"
"""A code point that is no character and will never be one: no text holds it."""


class Segment(NamedTuple):
    """`text` without marks, of which character i is character `places[i]` of the marked text.
    `plain`: special tokens in it are text."""

    text: str
    places: Sequence[int]
    plain: bool


class SpecialTokens:
    """The texts of a vocabulary's special tokens; `greedy` are those that take the white space
    behind them with them. One of a single character can't be told from the same character in a
    text, since no mark goes into it: it is left out."""

    def __init__(self, texts: Iterable[str], greedy: Iterable[str] = ()) -> None:
        known = [text for text in texts if len(text) > 1]
        self._greedy = frozenset(greedy)
        self._pattern = re.compile(any_of(known)) if known else None

    def __bool__(self) -> bool:
        return self._pattern is not None

    def found(self, text: str) -> list[str]:
        """The special tokens that a text spells out."""
        return self._pattern.findall(text) if self._pattern else []

    def protect(self, value: Any) -> Any:
        """Texts, and those in lists and objects, with the marks put in."""
        if isinstance(value, str):
            return self._pattern.sub(_marked, value) if self._pattern else value
        if isinstance(value, Mapping):
            return {key: self.protect(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.protect(inner) for inner in value)
        return value

    def segments(self, text: str) -> Iterator[Segment]:
        """A rendered text in pieces that are tokenized by themselves, in order. A plain one reaches
        from one special token of the template's to the next: what is merged stays whole."""
        for begin, end, plain in self._stretches(text):
            places: Sequence[int] = range(begin, end)
            if plain:
                places = [place for place in places if text[place] != MARK]
            yield Segment(without_marks(text[begin:end]), places, plain)

    def pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """(text, plain) of each segment."""
        for begin, end, plain in self._stretches(text):
            yield without_marks(text[begin:end]), plain

    def _stretches(self, text: str) -> Iterator[tuple[int, int, bool]]:
        start = 0  # of what is not yet given
        for begin, end in self._marked_stretches(text):
            if start < begin:
                yield start, begin, False
            yield begin, end, True
            start = end
        if start < len(text):
            yield start, len(text), False

    def _marked_stretches(self, text: str) -> Iterator[tuple[int, int]]:
        if MARK not in text or self._pattern is None:
            return
        begin = 0
        for match in [*self._pattern.finditer(text), None]:
            end = match.start() if match else len(text)
            if MARK in text[begin:end]:
                yield begin, end
            if match:
                begin = match.end()
                if match[0] in self._greedy:
                    begin += len(text[begin:]) - len(text[begin:].lstrip())


def _marked(match: re.Match[str]) -> str:
    return match[0][0] + MARK + match[0][1:]


def without_marks(text: str) -> str:
    """A protected text as it was."""
    return text.replace(MARK, "")
