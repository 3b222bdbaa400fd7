"""What a chat template can write, found by rendering marked conversations with it.

Templates say nowhere what they support. Some ignore tools, calls or results without a word, some
write a call only where the content is None, or need its arguments as JSON text. A part that is not
in what the template rendered would be lost in training and in serving alike.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from tuneserve.chat.call_finder import call_form
from tuneserve.chat.call_formats import HERMES, CallForm
from tuneserve.chat.template import ChatTemplate, TemplateError, TemplateLimitError
from tuneserve.chat.thinking import CLOSE_THOUGHTS

SHORT_ID = "{:09d}"
"""An id as the strictest templates want it (Mistral's: nine letters or digits)."""

_SYSTEM, _CALLED, _VALUE, _RESULT = "qzsystem", "qzcalled", "qzvalue", "qzresult"
_TOOL, _DESCRIPTION, _PROPERTY = "qztool", "qzdescription", "qzproperty"
_THOUGHTS = "qzthoughts"
_THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")
_USER = {"role": "user", "content": "qzuser"}
_DESCRIBED = {
    "type": "function",
    "function": {
        "name": _TOOL,
        "description": _DESCRIPTION,
        "parameters": {
            "type": "object",
            "properties": {"qzname": {"type": "string", "description": _PROPERTY}},
            "required": ["qzname"],
        },
    },
}
_OBJECT = {"type": "object", "properties": {}}
_BARE: list[dict[str, Any]] = [
    {},
    {"description": _DESCRIPTION},
    {"parameters": _OBJECT},
    {"description": _DESCRIPTION, "parameters": {}},
    {"description": _DESCRIPTION, "parameters": {"type": "object"}},
]
_TYPED: list[dict[str, Any]] = [
    {
        "description": _DESCRIPTION,
        "parameters": {
            "type": "object",
            "properties": {"qzname": one},
            "required": [],
        },
    }
    for one in (
        {"type": ["string", "null"]},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"enum": ["a", "b"]},
        {},
        True,
    )
]
# SmolLM3 takes tools under this name; `tools` it ignores.
_TOOL_VARIABLES = ("tools", "xml_tools")


@dataclass(frozen=True)
class CallStyle:
    """How a template wants a message with calls: its empty content as None, the arguments as JSON
    text (not an object), ids of nine characters."""

    null_content: bool = False
    text_arguments: bool = False
    short_ids: bool = False


@dataclass(frozen=True)
class TemplateTraits:
    """`system`: a system message is written. `tools`: the variable under which descriptions of
    tools are written, None if they are not. `calls`: how calls and their results are written, None
    if they are not, or in no form that can be read back. `form`: what calls look like, Hermes'
    where they are written as text. `own_thoughts`: thoughts have a form of the template's own,
    without <think>. `whole_tools`: a tool without a description or parameters can't be written;
    `simple_types`: nor a property without a type, or with several."""

    system: bool
    tools: str | None
    calls: CallStyle | None
    form: CallForm
    own_thoughts: bool
    whole_tools: bool = False
    simple_types: bool = False


def template_traits(template: ChatTemplate) -> TemplateTraits:
    """The traits of a template. Raises TemplateLimitError for one that takes too much."""
    return _traits(template.source, template.bos_token, template.eos_token)


@lru_cache(maxsize=256)
def _traits(source: str, bos_token: str, eos_token: str) -> TemplateTraits:
    template = ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)
    form = call_form(template)
    style = _call_style(template, as_json=form is None or form.style is None)
    # What an answer calls must be told from its text again.
    calls = style if form else None
    tools = next((name for name in _TOOL_VARIABLES if _writes_tools(template, name)), None)
    if calls is None and tools != "xml_tools":
        tools = None  # its text would tell of a form of calls that conversations do not have
    return TemplateTraits(
        system=_writes_system(template),
        tools=tools,
        calls=calls,
        form=form if calls and form else HERMES,
        own_thoughts=_own_thoughts(template, style),
        whole_tools=tools is not None and not _writes_all(template, tools, _BARE),
        simple_types=tools is not None and not _writes_all(template, tools, _TYPED),
    )


def _writes_system(template: ChatTemplate) -> bool:
    messages = [{"role": "system", "content": _SYSTEM}, _USER]
    texts = (_rendered(template, messages), _rendered(template, messages, tools=[_DESCRIBED]))
    # A template that can't write the user's message alone was asked wrongly: nothing is known.
    return any(_SYSTEM in text for text in texts) or not _rendered(template, [_USER])


def _writes_tools(template: ChatTemplate, variable: str) -> bool:
    text = _rendered(template, [_USER], **{variable: [_DESCRIBED]})
    return all(mark in text for mark in (_TOOL, _DESCRIPTION, _PROPERTY))


def _writes_all(template: ChatTemplate, variable: str, changes: list[dict[str, Any]]) -> bool:
    """Are all tools written that have this instead of a description and parameters?"""
    return all(
        _TOOL
        in _rendered(
            template,
            [_USER],
            **{variable: [{"type": "function", "function": {"name": _TOOL, **one}}]},
        )
        for one in changes
    )


def _own_thoughts(template: ChatTemplate, calls: CallStyle | None) -> bool:
    """Does any answer, a last one or one that calls, show its thoughts without <think>?"""
    thinking = dict.fromkeys(_THOUGHT_KEYS, _THOUGHTS)
    conversation = _calling(calls or CallStyle())
    texts = [
        _rendered(template, [_USER, {"role": "assistant", "content": "qzanswer", **thinking}]),
        _rendered(template, [{**m, **thinking} if "tool_calls" in m else m for m in conversation]),
    ]
    return any(_THOUGHTS in text and CLOSE_THOUGHTS not in text for text in texts)


def _call_style(template: ChatTemplate, *, as_json: bool = True) -> CallStyle | None:
    """The style whose rendering holds the call and its result, and nothing that is needless: the
    shortest one. Arguments can be given as text only where they are written `as_json`."""
    found = []
    for short, null, text in product((False, True), repeat=3):
        if text and not as_json:
            continue
        style = CallStyle(null_content=null, text_arguments=text, short_ids=short)
        rendered = _rendered(template, _calling(style), tools=[_DESCRIBED])
        if _is_whole(rendered):
            found.append((len(rendered), style.short_ids, null, text, style))
    # An id of nine characters shortens the text: it is taken only where no other is.
    if any(not style.short_ids for *_, style in found):
        found = [entry for entry in found if not entry[1]]
    return min(found)[-1] if found else None


def _is_whole(rendered: str) -> bool:
    whole = all(mark in rendered for mark in (_CALLED, _VALUE, _RESULT))
    # Python's own text of an object or of None, and JSON in JSON, are not what was meant of calls;
    # what describes the tools stands before the question.
    calls = rendered.rpartition(_USER["content"])[2]
    strange = any(sign in calls for sign in ("{'", "None", '\\"'))
    return whole and not strange


def _calling(style: CallStyle) -> list[dict[str, Any]]:
    name = SHORT_ID.format(1) if style.short_ids else "call_1"
    arguments = {"qzargument": _VALUE}
    function = {
        "name": _CALLED,
        "arguments": json.dumps(arguments) if style.text_arguments else arguments,
    }
    return [
        _USER,
        {
            "role": "assistant",
            "content": None if style.null_content else "",
            "tool_calls": [{"id": name, "type": "function", "function": function}],
        },
        {"role": "tool", "content": _RESULT, "tool_call_id": name, "name": _CALLED},
        {"role": "assistant", "content": "qzanswer"},
    ]


def _rendered(template: ChatTemplate, messages: list[dict[str, Any]], **variables: Any) -> str:
    """The conversation as text; empty if the template refuses it."""
    tools = variables.pop("tools", None)
    try:
        return template.render(messages, tools=tools, **variables)
    except TemplateLimitError:
        raise
    except TemplateError:
        return ""
