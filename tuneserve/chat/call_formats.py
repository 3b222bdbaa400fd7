"""The form in which a chat template writes calls of tools, as data: the texts around name and
arguments. The server reads answers with it and bounds them by it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from tuneserve.chat.argument_styles import MARK, ArgumentStyle, BareKeys, Tagged

CALL_ID = "\x00"
"""Stands in a form's texts for the id of a call."""
PYTHON_TAG = "<|python_tag|>"
"""What Llama 3 may write before a call."""


@dataclass(frozen=True)
class CallForm:
    """How calls are written: `section`, then for each call `begin`, `head`, its name, `middle`, its
    arguments (a JSON object, or in another `style`), `tail` and `end`, with `separator` between
    them, then `section_end`.

    `head` is '' where the name stands bare, or begins a JSON object, which `tail` closes; with a
    style or an id in front of the name it is what `begin` has behind its mark. Outer white space is
    in none of the texts but `head`, `middle` and `tail`.
    """

    begin: str = ""
    head: str = '{"name": "'
    middle: str = '", "arguments": '
    tail: str = "}"
    end: str = ""
    section: str = ""
    section_end: str = ""
    separator: str = ""
    several: bool = True
    style: ArgumentStyle | None = None
    text_name: str = ""
    """As whose call the text of an answer is written, if it is (Functionary's `all`); then the
    prompt has the first call's `begin`."""

    @property
    def is_object(self) -> bool:
        """Is a call one JSON object?"""
        return self.head.lstrip().startswith("{") and self.style is None

    @property
    def name_is_key(self) -> bool:
        """Is the object's only key the function's name, its value the arguments (Apertus)?"""
        return self.is_object and not self.name_key and not self.arguments_key

    @property
    def in_list(self) -> bool:
        """Are the calls a JSON list?"""
        return self.section.endswith("[")

    @property
    def in_channels(self) -> bool:
        """Are they messages in channels, as gpt-oss writes all of its answer?"""
        return "<|channel|>" in self.middle

    @property
    def section_mark(self) -> str:
        return self.section.removesuffix("[").rstrip() if self.in_list else self.section

    @property
    def section_end_mark(self) -> str:
        return self.section_end.removeprefix("]").lstrip() if self.in_list else self.section_end

    @property
    def triggers(self) -> tuple[str, ...]:
        """What calls begin with; none where a call is only told by its JSON. Qwen3-Coder at times
        leaves the first mark away and begins with the function's."""
        if self.text_name:
            return ()
        second = self.head.strip() if isinstance(self.style, Tagged) else ""
        return tuple(mark for mark in (self.section_mark, self.begin, second) if mark)

    @property
    def writes_ids(self) -> bool:
        return CALL_ID in self.head + self.middle + self.tail

    @cached_property
    def end_mark(self) -> str:
        """The part of `end` by which it is known."""
        marks = MARK.findall(self.end)
        return marks[-1] if marks else self.end

    @property
    def marks(self) -> frozenset[str]:
        """All that may be a token of its own."""
        texts = [self.section, self.begin, self.head, self.middle, self.tail, self.end,
                 self.section_end]  # fmt: skip
        match self.style:
            case Tagged(key_begin, text_begin, json_begin, value_end):
                texts += [key_begin, text_begin, json_begin, value_end]
            case BareKeys(quote):
                texts.append(quote)
        found = {mark for text in texts for mark in MARK.findall(text)}
        if self.in_channels:
            found |= {"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"}
        told = self.triggers or self.text_name
        return frozenset(found if told else {*found, PYTHON_TAG})

    @cached_property
    def arguments_key(self) -> str:
        """The key of the arguments in a call's object."""
        return _last_key(self.middle)

    @cached_property
    def name_key(self) -> str:
        """The key of the name in a call's object."""
        return _last_key(self.head)

    @cached_property
    def opening(self) -> re.Pattern[str]:
        """Matches a call up to its arguments; `name` is JSON text in an object, or else bare."""
        before = "".join(rf"(?:{re.escape(mark)})?\s*" for mark in self.triggers[:1])
        before += r"[\[,\s]*" if self.in_list else ""
        before += "".join(rf"(?:{re.escape(mark)})?\s*" for mark in self.triggers[1:])
        if self.style is not None:
            # Where nothing stands behind the name, what follows it tells that it is whole.
            behind = {text[0] for text in (self.style.first, self.end, self.section_end) if text}
            follows = "".join(map(re.escape, sorted(behind)))
            around = _loose(self.head), _loose(self.middle)
            return re.compile(
                rf"\s*{before}{around[0]}(?P<name>[\w.-]+){around[1]}(?=[\s{follows}])"
            )
        if not self.is_object:
            around = _loose(self.head), _loose(self.middle)
            return re.compile(rf"{before}{around[0]}(?P<name>[\w.-]+){around[1]}\s*(?=\{{)")
        text = r'"(?:[^"\\]|\\.)*"'
        if self.name_is_key:
            return re.compile(rf"\s*{before}\{{\s*(?P<name>{text})\s*:\s*(?=\{{)")
        others = rf'(?:"(?!{self.name_key}")\w+"\s*:\s*{text}\s*,\s*)*'
        return re.compile(
            rf'\s*{before}\{{\s*{others}"{self.name_key}"\s*:\s*(?P<name>{text})\s*,\s*'
            rf'"{self.arguments_key}"\s*:\s*(?=\{{)'
        )


HERMES = CallForm(begin="<tool_call>", end="</tool_call>")
"""The form in which tools.py writes calls for templates that write none."""


def _last_key(text: str) -> str:
    keys = re.findall(r'"(\w+)"\s*:', text)
    return str(keys[-1]) if keys else ""


def _loose(text: str) -> str:
    """A text as a regular expression that does not mind white space; ids are any."""
    parts = re.split(rf"(\s+|{CALL_ID})", text)
    return "".join(
        r"[\w-]*" if part == CALL_ID else r"\s*" if not part.strip() else re.escape(part)
        for part in parts
    )
