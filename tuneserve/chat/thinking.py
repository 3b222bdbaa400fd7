"""Reasoning models: thoughts in what a model writes, and in the text it is trained on.

A reasoning model writes `<think>`, its thoughts, `</think>`, then the answer. Some templates
(DeepSeek-R1's distills, QwQ) write the opening mark into the prompt, so the model starts inside it;
some render thoughts themselves (Qwen3); some take an answer's thoughts out again (R1's); most know
nothing of them. Whatever the template does, the trained text is what the model has to write after
the prompt that the server gives it: no mark twice, none missing.

The rules by which thoughts are told from an answer, the same for example files, streams, grammars
and scores:
- Thoughts begin with an opening mark that only white space stands before, or where the prompt has
  opened them; then an opening mark that the model writes once more is no text.
- The first closing mark ends them. Whatever follows it is the answer, marks included.
- White space (ASCII) around the marks belongs to neither part.
- Of a text whose prompt is not known, what stands before a lone closing mark is thoughts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, AnyStr, Literal

OPEN_THOUGHTS = "<think>"
CLOSE_THOUGHTS = "</think>"
REASONING = "reasoning_content"
"""The key of a message under which its thoughts stand."""

# Not all that Unicode calls white space: the same for text and for its bytes.
_WHITE = " \t\n\r\f\v"

Thoughts = Literal["none", "may", "open"]
"""The state after the prompt. none: no thoughts follow (the prompt has closed them, or the model
has none); may: the answer may open with `<think>`; open: the prompt has opened them."""


@dataclass(frozen=True)
class SplitAnswer:
    """An assistant's text: its thoughts (None: it has none) and the answer proper. `cut_off`: the
    thoughts never end, so there is no answer."""

    thoughts: str | None
    answer: str
    cut_off: bool = False


def split_thoughts(text: str, *, opened: bool | None = None) -> SplitAnswer:
    """A whole text, split. `opened`: has the prompt opened the thoughts? None: not known.

    Without thoughts the answer is the text, unchanged.
    """
    begins, inside = opening(text)
    if not begins and not opened:
        before, closed, after = text.partition(CLOSE_THOUGHTS)
        if opened is None and closed and OPEN_THOUGHTS not in before:
            return SplitAnswer(before.strip(_WHITE), after.lstrip(_WHITE))
        return SplitAnswer(None, text)
    thoughts, closed, answer = (inside if begins else text).partition(CLOSE_THOUGHTS)
    return SplitAnswer(thoughts.strip(_WHITE), answer.lstrip(_WHITE), cut_off=not closed)


class ThoughtStream:
    """Splits a text that comes in pieces, as `split_thoughts` splits a whole one. `thoughts`: the
    state after the prompt."""

    def __init__(self, thoughts: Thoughts = "none") -> None:
        self._left = thoughts
        self._held = ""
        self._state: Literal["start", "thoughts", "answer"] = (
            "answer" if thoughts == "none" else "start"
        )
        self._trim = False

    @property
    def in_answer(self) -> bool:
        """Is all further text the answer, unchanged?"""
        return self._state == "answer" and not self._trim

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """(is it thoughts?, text) of what `text` completes or continues."""
        self._held += text
        found: list[tuple[bool, str]] = []
        if self._state == "start":
            self._begin()
        if self._state == "thoughts":
            found += self._take_thoughts()
        if self._state == "answer":
            found += self._take_answer()
        return found

    def finish(self, *, cut: bool = False, stop: str | None = None) -> list[tuple[bool, str]]:
        """The text that is still held back when the answer ends, as `feed` gives it. Of an answer
        that was `cut` the beginning of a mark is no text, nor is that of one that a `stop` string
        has cut."""
        rest, self._held = self._held, ""
        starts = self._state == "start" and self._left == "open"
        mark = OPEN_THOUGHTS if self._state == "start" else CLOSE_THOUGHTS
        if cut or (stop is not None and is_cut_within([mark], rest, stop)):
            rest = rest[: len(rest) - overlap(rest, mark)]
        thinks = starts or self._state == "thoughts"
        if thinks:
            rest = rest.strip(_WHITE) if starts or self._trim else rest.rstrip(_WHITE)
        return [(thinks, rest)] if rest else []

    def _begin(self) -> None:
        begins, rest = opening(self._held)
        if begins is None:
            return
        if begins:
            self._held = rest
        thinks = begins or self._left == "open"
        self._state, self._trim = ("thoughts", True) if thinks else ("answer", False)

    def _take_thoughts(self) -> list[tuple[bool, str]]:
        if self._trim:
            self._held = self._held.lstrip(_WHITE)
            self._trim = not self._held
        thoughts, closed, after = self._held.partition(CLOSE_THOUGHTS)
        if closed:
            self._state, self._trim, self._held = "answer", True, after
            thoughts = thoughts.rstrip(_WHITE)
        else:
            shown = len(thoughts) - overlap(thoughts, CLOSE_THOUGHTS)
            thoughts = thoughts[:shown].rstrip(_WHITE)
            self._held = self._held[len(thoughts) :]
        return [(True, thoughts)] if thoughts else []

    def _take_answer(self) -> list[tuple[bool, str]]:
        answer, self._held = self._held, ""
        if self._trim:
            answer = answer.lstrip(_WHITE)
            self._trim = not answer
        return [(False, answer)] if answer else []


def opening(text: AnyStr) -> tuple[bool | None, AnyStr]:
    """Does a text open with thoughts? (True, what follows the mark), (False, the text), or where
    that can't be told yet (None, the text without the white space in front)."""
    if isinstance(text, str):
        mark, begun = OPEN_THOUGHTS, text.lstrip(_WHITE)
    else:
        mark, begun = OPEN_THOUGHTS.encode(), text.lstrip(_WHITE.encode())
    if begun.startswith(mark):
        return True, begun[len(mark) :]
    return (None, begun) if mark.startswith(begun) else (False, text)


def opens_thoughts(prompt: str) -> bool:
    """Does a rendered prompt end inside thoughts that it has opened?"""
    return prompt.rstrip(_WHITE).endswith(OPEN_THOUGHTS)


def thoughts_left(prompt: str, begun: str = "", *, thinks: bool = True) -> Thoughts:
    """The state of the thoughts after a rendered prompt and the beginning of the answer that is
    given (`begun`). `thinks`: does the model's template know thoughts at all?"""
    opened = opens_thoughts(prompt)
    if begun:
        return "open" if split_thoughts(begun, opened=opened).cut_off else "none"
    if opened:
        return "open"
    return "none" if prompt.rstrip(_WHITE).endswith(CLOSE_THOUGHTS) or not thinks else "may"


def overlap(text: str, mark: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0


def is_cut_within(marks: Iterable[str], text: str, stop: str) -> bool:
    """Does a text end in the beginning of a mark whose rest, or some of it, is in `stop`?"""
    for mark in marks:
        begun = text[len(text) - overlap(text, mark) :]
        whole = begun + stop
        if begun and (mark.startswith(whole) or whole.startswith(mark)):
            return True
    return False


@dataclass(frozen=True)
class TargetText:
    """Text the model writes after the prompt; the first `thoughts_end` characters are thoughts,
    their closing mark and the white space behind it included (0: there are none)."""

    text: str
    thoughts_end: int


def without_thoughts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in message.items() if k != REASONING} for message in messages]


def complete(
    prompt: str,
    full: str,
    answer: str,
    thoughts: str | None,
    *,
    calls: bool = False,
    start: int | None = None,
) -> TargetText | None:
    """What follows `prompt` when the model gives `answer` after `thoughts`; with `calls` the answer
    calls tools and may have no text.

    `prompt` and `full` are the template's rendering without and with the final turn; `start` is
    where the answer's text begins in `full`, if that is known. None if the answer can't be found in
    what the template rendered.
    """
    opened = opens_thoughts(prompt)
    tail = _tail(prompt, full, answer, calls=calls, start=start)
    if tail is None:
        return None
    rendered = thoughts is not None and thoughts.strip() in tail and CLOSE_THOUGHTS in tail
    if not rendered and thoughts is not None:
        mark = "" if opened else f"{OPEN_THOUGHTS}\n"
        tail = f"{mark}{thoughts}\n{CLOSE_THOUGHTS}\n\n" + tail.lstrip("\n")
    elif opened and not thoughts_end(tail, answer):
        # The prompt has opened the thoughts: an answer without any has to close them first.
        tail = f"\n{CLOSE_THOUGHTS}\n\n{tail}"
    return TargetText(tail, thoughts_end(tail, answer))


def thoughts_end(text: str, answer: str) -> int:
    """Where the answer begins in an assistant's rendered turn if thoughts stand before it: behind
    their closing tag and its white space. 0 if there are none."""
    end = text.find(CLOSE_THOUGHTS)
    if end < 0 or end > text.rfind(answer.strip()):
        return 0
    end += len(CLOSE_THOUGHTS)
    return end + len(text[end:]) - len(text[end:].lstrip())


def _tail(prompt: str, full: str, answer: str, *, calls: bool, start: int | None) -> str | None:
    if full.startswith(prompt):
        return full[len(prompt) :]
    # The template renders a finished turn otherwise than the beginning that it puts into a prompt
    # (without <think>, for instance): take the answer and what closes the turn.
    turn = _turn_start(prompt, full)
    if not answer.strip():
        return full[_tag_start(full, turn) :] if calls else None
    if start is not None:
        return (
            full[start:]
            if full.startswith(answer.strip(), start) or full.startswith(answer, start)
            else None
        )
    places = (full.find(text, turn) for text in (answer, answer.strip()))
    found = next((place for place in places if place >= 0), None)
    return None if found is None else full[found:]


def _tag_start(text: str, place: int) -> int:
    """The beginning of the tag that a place is within, or else the place."""
    start = text.rfind("<", 0, place)
    inside = start >= 0 and not any(one.isspace() or one == ">" for one in text[start:place])
    return start if inside else place


def _turn_start(prompt: str, full: str) -> int:
    """Where the final turn's text begins in `full`, which differs from `prompt` from within or
    after a tag on.

    The search for the answer begins here, since the text before it may contain the answer too.
    """
    pairs = enumerate(zip(prompt, full, strict=False))
    parted = next((place for place, (a, b) in pairs if a != b), min(len(prompt), len(full)))
    opening = prompt.rfind(OPEN_THOUGHTS)
    if opening < 0 or not 0 <= parted - opening <= len(OPEN_THOUGHTS):
        return parted
    if full.startswith(CLOSE_THOUGHTS, opening) and CLOSE_THOUGHTS in prompt[opening:]:
        return opening + len(CLOSE_THOUGHTS)
    # The answer may share its first characters with the tag that the prompt ends with ('<b>'), or
    # follow thoughts that the template wrote itself.
    written = full.startswith(OPEN_THOUGHTS, opening)
    closing = full.find(CLOSE_THOUGHTS, opening) if written else -1
    return opening if closing < 0 else closing + len(CLOSE_THOUGHTS)
