"""Is all of a conversation in what its chat template renders?

A template that does not know a part of a message leaves it out without a word: a call beside text,
a tool, a system prompt. The model would be trained on another conversation than the one that was
written down. So the conversation is rendered once more with a mark in each part, and the marks are
looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import render_example
from tuneserve.chat.template import ChatTemplate
from tuneserve.chat.thinking import REASONING


@dataclass(frozen=True)
class LostPart:
    """A part that the template does not write. `kind`: 'thoughts' of an earlier answer or a
    speaker's 'name', which many templates leave out on purpose; 'content' is all else."""

    name: str
    kind: Literal["content", "thoughts", "name"] = "content"


def lost_parts(
    template: ChatTemplate, example: Example, *, thoughts: str = "train"
) -> list[LostPart]:
    """The parts of an example with a prompt that the template does not write where they belong: the
    last message's behind the prompt, all others in it. `thoughts` is [data]'s setting."""
    marked, before, answer = with_marks(example)
    rendering = render_example(template, marked, thoughts=thoughts)
    completion = rendering.completion.text if rendering.completion else ""
    return [
        part
        for text, marks in ((rendering.prompt, before), (completion, answer))
        for mark, part in marks
        if mark not in text and not (thoughts == "drop" and part.kind == "thoughts")
    ]


_Marks = list[tuple[str, LostPart]]


def with_marks(example: Example) -> tuple[Example, _Marks, _Marks]:
    """An example with a mark in each part: (example, marks of what belongs into the prompt, marks
    of the last message)."""
    marker = _Marker()
    messages = tuple(marker.message(n, m) for n, m in enumerate(example.messages))
    before, answer = marker.marks[: marker.last], marker.marks[marker.last :]
    tools = None if example.tools is None else tuple(map(marker.tool, example.tools))
    before += marker.marks[marker.last + len(answer) :]
    return replace(example, messages=messages, tools=tools), before, answer


class _Marker:
    """Puts marks into messages and tools. `marks`: each with its part, of which those from `last`
    on were put in since the last message began."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, LostPart]] = []
        self.last = 0
        self._numbers = count(1)

    def message(self, place: int, message: Mapping[str, Any]) -> dict[str, Any]:
        self.last = len(self.marks)
        name = f"messages[{place}]"
        marked = dict(message)
        if (message.get("content") or "").strip():
            kind = "the system prompt" if message["role"] == "system" else f"the text of {name}"
            marked["content"] = _inside(message["content"], self._new(LostPart(kind)))
        if message.get(REASONING):
            part = LostPart(f"the thoughts of {name}", kind="thoughts")
            marked[REASONING] = _inside(message[REASONING], self._new(part))
        if message.get("name") and message["role"] != "tool":
            part = LostPart(f"the name in {name}", kind="name")
            marked["name"] = f"{message['name']}{self._new(part)}"
        if calls := message.get("tool_calls"):
            marked["tool_calls"] = [self._call(f"a call of {name}", call) for call in calls]
        return marked

    def tool(self, tool: Mapping[str, Any]) -> dict[str, Any]:
        function = dict(tool.get("function", tool))
        part = LostPart(f"the tool {function.get('name')!r}")
        if function.get("name"):
            function["name"] = f"{function['name']}{self._new(part)}"
        if function.get("description"):
            function["description"] = f"{function['description']}{self._new(part)}"
        parameters = function.get("parameters")
        if isinstance(parameters, Mapping) and (properties := parameters.get("properties")):
            more = {self._new(part): {"type": "string", "description": "text"}}
            function["parameters"] = {**parameters, "properties": {**properties, **more}}
        return {**tool, "function": function} if "function" in tool else function

    def _call(self, name: str, call: Mapping[str, Any]) -> dict[str, Any]:
        part = LostPart(name)
        function = dict(call["function"])
        function["name"] = f"{function['name']}{self._new(part)}"
        function["arguments"] = {**function["arguments"], self._new(part): "text"}
        return {**call, "function": function}

    def _new(self, part: LostPart) -> str:
        mark = f"qz{next(self._numbers)}qz"
        self.marks.append((mark, part))
        return mark


def _inside(text: str, mark: str) -> str:
    """The mark in the middle of a text, but not within a tag, which templates look for."""
    middle = len(text) // 2
    place = next((p for p in _outside_tags(text) if p >= middle), len(text))
    return text[:place] + mark + text[place:]


def _outside_tags(text: str) -> Iterator[int]:
    """The places between a text's characters that are not between < and >."""
    opened = False
    for place, character in enumerate(text):
        if not opened and place:
            yield place
        opened = (opened or character == "<") and character != ">"
