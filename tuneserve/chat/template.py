"""Chat templates: the one renderer that training, server and benchmark use.

A template is code from a model file, so it runs in Jinja's sandbox (tuneserve.chat.sandbox), in a
process with a limit of time and memory (tuneserve.chat.renderers).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tuneserve.chat.render_process import MEMORY_BYTES, Outcome, as_json
from tuneserve.chat.renderers import RENDERERS, RenderersBusyError, RenderLimitError
from tuneserve.console import human_bytes
from tuneserve.errors import TuneserveError

MAX_TEMPLATE_CHARACTERS = 256 * 1024
Message = Mapping[str, Any]


class TemplateError(TuneserveError):
    """A chat template can't be compiled, or refuses the conversation it was given."""


class TemplateLimitError(TemplateError):
    """A chat template takes more time, memory or text than it may: nothing is known of what it
    would write."""


def normal_message(message: Message) -> dict[str, Any]:
    """A message of OpenAI's in the one form that templates are given, in training as in serving.

    Templates know 'system', not the newer 'developer'; add content to text, which None is not;
    and write a call's arguments as JSON, which would quote again what is JSON text already.
    Raises ValueError if the arguments of a call are no JSON object.
    """
    normal = {**message, "content": message.get("content") or ""}
    if normal["role"] == "developer":
        normal["role"] = "system"
    if calls := message.get("tool_calls"):
        normal["tool_calls"] = [_normal_call(call) for call in calls]
    return normal


def api_message(message: Message) -> dict[str, Any]:
    """A message in the normal form as OpenAI's API takes it: arguments of calls as JSON text, and
    without the weight that only training reads."""
    given = {key: value for key, value in message.items() if key != "weight"}
    if calls := message.get("tool_calls"):
        given["tool_calls"] = [_api_call(call) for call in calls]
    return given


def _normal_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise ValueError("the arguments of a call must be JSON") from None
    if not isinstance(arguments, dict):
        raise ValueError("the arguments of a call must be a JSON object")
    called = {"name": function["name"], "arguments": arguments}
    given = {key: value for key, value in call.items() if value is not None}
    return {**given, "type": "function", "function": called}


def _api_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {
        **call,
        "function": {
            **function,
            "arguments": json.dumps(function["arguments"], ensure_ascii=False),
        },
    }


class ChatTemplate:
    """A chat template with the special tokens it refers to.

    `bos_token` and `eos_token` are the tokens' text. What `render` returns already holds every
    special token: tokenize it with special tokens parsed, and add no BOS to one that is there
    (tuneserve.chat.prompt does so).
    """

    renderers = RENDERERS

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise TemplateError(
                f"chat template is longer than {MAX_TEMPLATE_CHARACTERS} characters"
            )
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        self._ahead: dict[bytes, Outcome] = {}

    def check(self) -> None:
        """Raise TemplateError if it can't be compiled, or takes too much for any conversation."""
        ((kind, text),) = self._outcomes([{"messages": [{"role": "user", "content": "a"}]}])
        if kind in ("broken", *_LIMITS):
            _text(kind, text)

    def render(self, messages: Sequence[Message], **variables: Any) -> str:
        """The conversation as text: with `add_generation_prompt` up to where the assistant speaks,
        with `tools` and whatever other variables the template knows.

        Raises TemplateError, and RenderersBusyError where others take long.
        """
        (text,) = self.render_all([{"messages": messages, **variables}])
        return or_raise(text)

    def render_all(self, calls: Sequence[Mapping[str, Any]]) -> list[str | TemplateError]:
        """What `render` gives or raises for each of several calls, at once. Raises
        TemplateLimitError, RenderersBusyError."""
        found: list[str | TemplateError] = []
        for kind, text in self._outcomes(calls):
            try:
                found.append(_text(kind, text))
            except TemplateLimitError:
                raise
            except TemplateError as error:
                found.append(error)
        return found

    def render_ahead(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """Keep what these calls give until they, or others of this kind, are asked for: thousands
        are rendered faster together than one by one. What can't be rendered is told then; but
        raises TemplateLimitError."""
        self._ahead = {}
        try:
            given = list(dict.fromkeys(map(self._given, calls)))
            self._ahead = dict(zip(given, self._rendered(given), strict=True))
        except TemplateLimitError:
            raise
        except (TemplateError, RenderersBusyError):
            return

    def _outcomes(self, calls: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        given = list(map(self._given, calls))
        if self._ahead and all(one in self._ahead for one in given):
            return [self._ahead[one] for one in given]
        return self._rendered(given)

    def variables(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """All that the template is given with what its caller gives."""
        return {
            "tools": None, "add_generation_prompt": False, **given,
            "bos_token": self.bos_token, "eos_token": self.eos_token,
        }  # fmt: skip

    def _given(self, given: Mapping[str, Any]) -> bytes:
        try:
            return as_json(self.variables(given))
        except (ValueError, TypeError, RecursionError) as error:
            raise TemplateError(f"what the chat template is given is no JSON: {error}") from None

    def _rendered(self, given: Sequence[bytes]) -> list[Outcome]:
        try:
            return self.renderers.render(self.source, given)
        except RenderLimitError as error:
            raise TemplateLimitError(f"chat template {error}") from None


def or_raise(text: str | TemplateError) -> str:
    """A text of `render_all`, or its error raised."""
    if isinstance(text, TemplateError):
        raise text
    return text


_LIMITS = {
    "memory": f"takes more than {human_bytes(MEMORY_BYTES)} of memory",
    "long": "writes far more than it is given",
}


def _text(kind: str, text: str) -> str:
    """The text of an outcome. Raises TemplateError."""
    match kind:
        case "text":
            return text
        case "refused":
            raise TemplateError(f"chat template refuses the conversation: {text}")
        case "broken":
            raise TemplateError(f"chat template can't be compiled: {text}")
        case "failed":
            raise TemplateError(f"chat template failed: {text}")
    raise TemplateLimitError(f"chat template {_LIMITS[kind]}")
