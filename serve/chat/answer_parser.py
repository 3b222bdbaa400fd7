"""An answer's parts: what the model thinks, what it says, which tools it calls.

Read from the text as it streams: marks may be cut anywhere, and nothing of them is ever shown. Of
a call that the end of the answer cuts, what is known is told: its name, and its arguments as far as
they go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

from tuneserve.chat.call_formats import PYTHON_TAG, CallForm
from tuneserve.chat.thinking import Thoughts, ThoughtStream, is_cut_within, overlap
from tuneserve.serve.chat.call_arguments import ObjectEnd, argument_reader
from tuneserve.serve.chat.parts import (
    CallArguments,
    CallBegin,
    Content,
    Part,
    Reasoning,
    call_id,
    calls_or_content,
)


class _State(Enum):
    START = "before anything, where a call is told by its JSON alone"
    CONTENT = "in the answer's text"
    CALL = "at the mark of a call, before its arguments"
    ARGUMENTS = "in the arguments of a call"
    CALLED = "behind the arguments, before the end of the call"
    NEXT = "behind a call among several, before the next or their end"


def _name(written: str, form: CallForm) -> str | None:
    """A function's name as a call writes it; None where it is no JSON text though it should be."""
    if not form.is_object:
        return written
    try:
        name = json.loads(written, strict=False)
    except ValueError:
        return None
    return name if isinstance(name, str) else None


class PartReader:
    """Splits growing text. `thoughts`: whether the answer begins inside them ('open'), may have
    some ('may') or has none; `calls`: the form of calls if tools were offered, of which `functions`
    has the schemas by their names; `only_calls`: the answer can be nothing else."""

    def __init__(
        self,
        thoughts: Thoughts = "none",
        *,
        calls: CallForm | None = None,
        functions: Mapping[str, Mapping[str, Any]] | None = None,
        only_calls: bool = False,
    ):
        self._thoughts = ThoughtStream(thoughts)
        self._form = calls
        self._functions = functions or {}
        self._only_calls = only_calls
        self._held = ""
        self._state = _State.START if calls and not calls.triggers else _State.CONTENT
        self._trim = False
        self._end = ObjectEnd()
        self._arguments = argument_reader(None, None)

    @property
    def plain(self) -> bool:
        """Is all of the text simply content?"""
        return self._thoughts.in_answer and self._form is None and not self._only_calls

    def feed(self, text: str) -> list[Part]:
        """The parts that `text` completes or continues."""
        return self._read(self._thoughts.feed(text))

    @property
    def in_call(self) -> bool:
        """Is a call begun whose arguments have not ended?"""
        return self._state is _State.ARGUMENTS

    def finish(self, *, cut: bool = False, stop: str | None = None) -> list[Part]:
        """What is held when the answer ends; a call without a name is content, unless the answer
        was `cut`: then the beginning of a mark or of a call is nothing. A `stop` string cuts too
        what it is a part of."""
        parts = self._read(self._thoughts.finish(cut=cut, stop=stop))
        rest, self._held = self._held, ""
        form = self._form
        if stop is not None and form is not None:
            begins = form.triggers or (f'{{"{form.name_key}":',)
            cut = self._state is _State.CALL or is_cut_within(begins, rest, stop)
        if form is not None and self._state is _State.CALL:
            found = calls_or_content(form, rest)
            hidden = self._only_calls or (cut and self._may_be_call(form, rest))
            return parts + [one for one in found if not (hidden and isinstance(one, Content))]
        if self._state in (_State.ARGUMENTS, _State.CALLED, _State.NEXT):
            return parts
        hidden = self._only_calls or (cut and form is not None)
        return parts if hidden or not rest else [*parts, Content(rest)]

    def _may_be_call(self, form: CallForm, text: str) -> bool:
        """May a call without an end still become one? Without a mark, an answer in JSON can begin
        alike: only the name of a function tells."""
        if form.triggers:
            return True
        short = "".join(text.split())
        starts = [f'{{"{form.name_key}":"{name}"' for name in self._functions]
        return any(start.startswith(short) or short.startswith(start) for start in starts)

    def _read(self, split: list[tuple[bool, str]]) -> list[Part]:
        parts: list[Part] = []
        for is_thought, text in split:
            if is_thought:
                parts.append(Reasoning(text))
                continue
            self._held += text
            while self._step(parts):
                pass
        if self._only_calls:
            parts = [part for part in parts if not isinstance(part, Content)]
        return parts

    def _step(self, parts: list[Part]) -> bool:
        """Take one thing from what is held; False if more text is needed."""
        if self._trim:
            # The white space after a call belongs to no part.
            self._held = self._held.lstrip()
            self._trim = not self._held
        if not self._held:
            return False
        if self._form is None:
            parts.append(Content(self._held))
            self._held = ""
            return False
        match self._state:
            case _State.START:
                return self._start(self._form)
            case _State.CONTENT:
                return self._until_call(parts, self._form)
            case _State.CALL:
                return self._call(parts, self._form)
            case _State.ARGUMENTS:
                return self._read_arguments(parts)
            case _State.CALLED:
                return self._until_end(self._form)
            case _State.NEXT:
                return self._next(self._form)

    def _start(self, form: CallForm) -> bool:
        """Where a call has no mark: does the answer begin with an object that names one?"""
        begun = self._held.lstrip()
        if begun.startswith(PYTHON_TAG):
            # What it stands before is a call or a program; the tag is no text.
            self._held = begun.removeprefix(PYTHON_TAG)
            return True
        short = "".join(begun.split())
        keys = ("type", form.name_key, form.arguments_key)
        wanted = [f'{{"{key}":' for key in keys]
        if any(short.startswith(start) for start in wanted):
            self._state = _State.CALL
            return True
        if any(start.startswith(short) for start in (*wanted, PYTHON_TAG)):
            return False
        self._form = None  # nothing that comes later can be a call
        return True

    def _until_call(self, parts: list[Part], form: CallForm) -> bool:
        places = [place for mark in form.triggers if (place := self._held.find(mark)) >= 0]
        if places:
            shown = min(places)
            self._state = _State.CALL
        else:
            shown = len(self._held) - max(overlap(self._held, mark) for mark in form.triggers)
        if shown:
            parts.append(Content(self._held[:shown]))
            self._held = self._held[shown:]
        return bool(places)

    def _call(self, parts: list[Part], form: CallForm) -> bool:
        head, end = form.opening.match(self._held), self._place_of_end(form)
        name = _name(head["name"], form) if head else None
        if head and name is not None and (end is None or end > head.end()):
            parts.append(CallBegin(call_id(), name))
            self._held = self._held[head.end() :]
            self._state = _State.ARGUMENTS
            self._arguments = argument_reader(form.style, self._functions.get(name))
            return True
        if end is None:
            return False
        found = calls_or_content(form, self._held[:end])
        parts += found
        self._held = self._held[end:]
        self._restart()
        if isinstance(found[0], Content):
            self._state, self._trim = _State.CONTENT, False
            # Without a mark, nothing behind text can be a call.
            self._form = form if form.triggers else None
        elif form.section_mark:
            self._state = _State.CONTENT
        return True

    def _place_of_end(self, form: CallForm) -> int | None:
        """Where what is held as a call ends, though it is not written as calls are."""
        if not form.triggers:
            return ObjectEnd().find(self._held)
        mark = form.section_end_mark if form.section_mark else form.end_mark
        place = self._held.find(mark) if mark else -1
        return place + len(mark) if place >= 0 else None

    def _read_arguments(self, parts: list[Part]) -> bool:
        written, self._held, ended = self._arguments.feed(self._held)
        if written:
            parts.append(CallArguments(written))
        if ended:
            self._state, self._end = _State.CALLED, ObjectEnd(depth=1)
        return ended

    def _until_end(self, form: CallForm) -> bool:
        """Leave out what stands between the arguments and the end of the call."""
        if form.end_mark:
            _, closed, after = self._held.partition(form.end_mark)
            if not closed:
                return False
            self._held = after
        elif form.is_object:
            end = self._end.find(self._held)
            self._held = "" if end is None else self._held[end:]
            if end is None:
                return False
        self._restart()
        return True

    def _restart(self) -> None:
        """Behind a call."""
        self._trim = True
        if self._form is None or not self._form.triggers:
            self._state = _State.START
        else:
            self._state = _State.NEXT if self._form.section_mark else _State.CONTENT

    def _next(self, form: CallForm) -> bool:
        """Behind a call of a section: the next one, or the section's end."""
        self._held = self._held.lstrip(" \t\r\n," if form.in_list else None)
        if not self._held:
            return False
        beginning = form.begin or "{"
        named = form.style is not None and not form.begin and self._held[0].isidentifier()
        if named or self._held.startswith(beginning):
            self._state = _State.CALL
            return True
        closings = [mark for mark in ("]" if form.in_list else "", form.section_end_mark) if mark]
        for mark in closings:
            if self._held.startswith(mark):
                self._held = self._held[len(mark) :]
                if mark == closings[-1]:
                    self._state, self._trim = _State.CONTENT, True
                return True
        if any(mark.startswith(self._held) for mark in (beginning, *closings)):
            return False
        self._state, self._trim = _State.CONTENT, True
        return True
