"""The form in which a chat template writes calls of tools, found by rendering calls of known names,
so that the server reads what training writes.

Hermes and Qwen write
`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, Llama 3 the JSON object alone, Mistral
`[TOOL_CALLS][{…}]` or `[TOOL_CALLS]NAME[ARGS]{…}`; any other text around a name and its arguments
is found as well, as long as the name comes first and the arguments are a JSON object or in one of
the styles of argument_styles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import takewhile
from typing import Any

from tuneserve.chat.argument_styles import (
    MARK,
    ArgumentStyle,
    common_end,
    common_start,
    find_arguments,
    units,
)
from tuneserve.chat.call_formats import CALL_ID, CallForm
from tuneserve.chat.template import ChatTemplate, TemplateError, TemplateLimitError
from tuneserve.chat.thinking import CLOSE_THOUGHTS


def call_form(template: ChatTemplate) -> CallForm | None:
    """The form in which a template writes calls; None if it writes none, or none that can be read
    back (arguments that are no JSON, for instance)."""
    return _found(template.source, template.bos_token, template.eos_token)


@lru_cache(maxsize=64)
def _found(source: str, bos_token: str, eos_token: str) -> CallForm | None:
    template = ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)
    one = min(_written(template, _CALLS[:1]), key=_length, default=None)
    if one is None:
        return None
    two = min(_written(template, _CALLS), key=_length, default=None)
    after_turn = _turn_end(template)
    form = _form(one, two, after_turn)
    if form.separator and (name := _text_name(template, form.separator, form.middle)):
        return replace(form, begin=form.separator, separator="", text_name=name)
    return form if _can_be_read(form, after_turn) else None


_QUESTION = {"role": "user", "content": "zq asks"}
_ANSWER = "zq answers"
_NAMES = ("zqfirst", "zqsecond")
_ARGUMENTS: tuple[dict[str, Any], ...] = (
    {"zqtext": "zq value", "zqlist": [7]},
    {"zqtext": "zq other", "zqlist": [8]},
)
_IDS = ("zqcallid1", "zqcallid2")  # nine letters and digits: Mistral's templates refuse others
_CALLS = tuple(zip(_IDS, _NAMES, _ARGUMENTS, strict=True))
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "zq does",
            "parameters": {
                "type": "object",
                "properties": {
                    "zqtext": {"type": "string", "description": "zq text"},
                    "zqlist": {
                        "type": "array",
                        "items": {"type": "integer"},
                        "description": "zq list",
                    },
                },
                "required": ["zqtext"],
            },
        },
    }
    for name in _NAMES
]


@dataclass(frozen=True)
class _Rendered:
    """Rendered calls: the text before the first name, the `middles` between name and arguments,
    the texts `between` calls, and the text `after` the last arguments; and the `style` of arguments
    that are no JSON."""

    before: str
    middles: tuple[str, ...]
    between: tuple[str, ...]
    after: str
    style: ArgumentStyle | None = None


def _length(rendered: _Rendered) -> int:
    """The shortest rendering of several writes nothing for the content that there is none of."""
    return len(rendered.before) + len(rendered.after)


def _written(
    template: ChatTemplate, calls: Sequence[tuple[str, str, Mapping[str, Any]]]
) -> Iterator[_Rendered]:
    """What a template writes for an answer of calls, in the ways that templates want them given."""
    for as_text in (False, True):
        written = [
            {
                "id": number,
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": json.dumps(arguments) if as_text else arguments,
                },
            }
            for number, name, arguments in calls
        ]
        for content in ({}, {"content": None}, {"content": ""}):
            answer = {"role": "assistant", **content, "tool_calls": written}
            try:
                prompt = template.render([_QUESTION], tools=_TOOLS, add_generation_prompt=True)
                full = template.render([_QUESTION, answer], tools=_TOOLS)
            except TemplateLimitError:
                raise
            except TemplateError:
                continue
            if rendered := _taken_apart(_behind(prompt, full), calls):
                yield rendered


def _behind(prompt: str, full: str) -> str:
    """The text of the answer: what `full` has behind the beginning it shares with the prompt."""
    pairs = zip(units(prompt), units(full), strict=False)
    shared = sum(len(unit) for unit, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    behind = full[shared:].rpartition(CLOSE_THOUGHTS)[2]
    if shared < len(prompt) and _whole_overlap(prompt, behind):
        # Something stands behind all turns (Command R+): the answer can't be told from it.
        return ""
    return behind


def _whole_overlap(first: str, second: str) -> bool:
    """Does `first` end with a beginning of `second` that ends with a mark?"""
    return any(first.endswith(second[: found.end()]) for found in MARK.finditer(second[:200]))


def _taken_apart(
    text: str, calls: Sequence[tuple[str, str, Mapping[str, Any]]]
) -> _Rendered | None:
    """The rendering around the calls; None unless all of them are there, in one style."""
    pieces: list[str] = []
    middles: list[str] = []
    place = 0
    style: ArgumentStyle | None = None
    for _, name, arguments in calls:
        start = text.find(name, place)
        name_end = start + len(name)
        span = _json_arguments(text, name_end, arguments) if start >= 0 and not style else None
        if span is None:
            found = find_arguments(text, name_end, arguments, style) if start >= 0 else None
            if found is None or (pieces and style is None):
                return None
            style, span = found.style, (found.start, found.end)
        pieces.append(text[place:start])
        middles.append(text[name_end : span[0]])
        place = span[1]
    parts = [_without_ids(piece) for piece in (*pieces, text[place:])]
    inner = tuple(map(_without_ids, middles))
    if any("zq" in part for part in (*parts, *inner)):
        return None
    return _Rendered(parts[0], inner, tuple(parts[1:-1]), parts[-1], style)


def _json_arguments(
    text: str, name_end: int, arguments: Mapping[str, Any]
) -> tuple[int, int] | None:
    """Where arguments that are a JSON object begin and end."""
    opening = text.find("{", name_end)
    try:
        value, end = json.JSONDecoder().raw_decode(text, opening) if opening >= 0 else (None, 0)
    except (ValueError, RecursionError):
        return None
    return (opening, end) if value == arguments else None


def _without_ids(text: str) -> str:
    for number in _IDS:
        text = text.replace(number, CALL_ID)
    return re.sub(r"""(?<=[:"'])\d+""", CALL_ID, text)  # Kimi and Cohere count calls


def _text_name(template: ChatTemplate, begin: str, middle: str) -> str:
    """The name under which a text is written behind a prompt that ends with a call's beginning; ''
    if it is not."""
    answer = {"role": "assistant", "content": _ANSWER}
    try:
        prompt = template.render([_QUESTION], tools=_TOOLS, add_generation_prompt=True)
        full = template.render([_QUESTION, answer], tools=_TOOLS)
    except TemplateLimitError:
        raise
    except TemplateError:
        return ""
    if not (prompt.endswith(begin) and full.startswith(prompt)):
        return ""
    name, found, _ = full[len(prompt) :].partition(f"{middle}{_ANSWER}")
    return name if found and re.fullmatch(r"[\w.-]+", name) else ""


def _turn_end(template: ChatTemplate) -> str:
    """What a template writes behind an answer of text."""
    answer = {"role": "assistant", "content": _ANSWER}
    try:
        return template.render([_QUESTION, answer], tools=_TOOLS).rpartition(_ANSWER)[2]
    except TemplateLimitError:
        raise
    except TemplateError:
        return ""


def _form(one: _Rendered, two: _Rendered | None, turn_end: str) -> CallForm:
    several = two is not None and len(set(two.middles)) == 1
    rendered = two if two is not None and several else one
    between = rendered.between[0] if several else None
    after = _without_end(rendered.after, turn_end)
    # In front of a call: the section's beginning, then what stands in front of every call.
    each = rendered.before if between is None else common_end(rendered.before, between)
    section = rendered.before[: len(rendered.before) - len(each)]
    head = found[0] if not rendered.style and (found := _OBJECT.search(each)) else ""
    # Behind a call: what stands behind every call, then the section's end.
    closing = after if between is None else common_start(after, between)
    section_end = after[len(closing) :]
    tail_end = closing.find("}") + 1 if head else 0
    separator = ""
    if between is not None:
        separator = between[len(closing) : len(between) - len(each)]
    begin = each.removesuffix(head).strip()
    vague = rendered.style is not None or CALL_ID in begin
    if vague and (mark := MARK.match(begin)):
        # The mark alone tells a call; models vary the white space behind it.
        begin, head = mark[0], each.strip()[mark.end() :]
    return CallForm(
        style=rendered.style,
        begin=begin,
        head=head,
        middle=rendered.middles[0],
        tail=closing[:tail_end],
        end=closing[tail_end:].strip(),
        section=section.strip(),
        section_end=section_end.strip() if section.strip() else "",
        separator=separator.strip(),
        several=several,
    )


def _can_be_read(form: CallForm, turn_end: str) -> bool:
    outside = form.section + form.begin
    # The end of a turn ends the answer: what comes behind it is never written.
    if any(mark in outside for mark in MARK.findall(turn_end)[:1]):
        return False
    if CALL_ID in outside or (form.style and CALL_ID in form.head + form.middle):
        return False
    if form.style is not None:
        return bool(form.triggers)
    if re.search(r'["{]', outside + form.separator):
        return False
    if form.is_object:
        # A name that is a key has none of its own, nor have its arguments.
        keyed = bool(form.name_key and form.arguments_key)
        return bool(form.tail) and (keyed or (form.name_is_key and bool(form.triggers)))
    return bool(form.begin and form.middle)


_OBJECT = re.compile(r'\{\s*"(?:[^{}]*")?\Z')
"""An object's beginning up to within the text of the name."""


def _without_end(text: str, turn_end: str) -> str:
    text = text.rstrip()
    ended = common_end(text, turn_end.rstrip())
    return text[: len(text) - len(ended)]
