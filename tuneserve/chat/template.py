"""Chat templates: the one renderer that training, server and benchmark use.

A template is code from a model file, so it runs in Jinja's immutable sandbox. Whitespace control,
the loop controls extension and the helpers are those that chat templates are written against
(Hugging Face's `apply_chat_template`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from tuneserve.errors import TuneserveError

MAX_TEMPLATE_CHARACTERS = 256 * 1024
_OF_LISTS = ("append", "pop")
Message = Mapping[str, Any]


class TemplateError(TuneserveError):
    """A chat template can't be compiled, or refuses the conversation it was given."""


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
    return {**call, "function": {**function, "arguments": _to_json(function["arguments"])}}


class ChatTemplate:
    """A compiled chat template with the special tokens it refers to.

    `bos_token` and `eos_token` are the tokens' text. What `render` returns already holds every
    special token: tokenize it with special tokens parsed, and add no BOS to one that is there
    (tuneserve.chat.prompt does so).
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise TemplateError(
                f"chat template is longer than {MAX_TEMPLATE_CHARACTERS} characters"
            )
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The conversation as text, ending where the assistant speaks if asked to."""
        given = {"messages": list(messages), "tools": tools, **variables}
        try:
            text: str = self._compiled.render(
                **(_closed(given) if self._changes_lists else given),
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
            )
        except TemplateError:
            raise
        except Exception as error:
            # The template is foreign code: whatever it raises is its failure, not ours.
            raise TemplateError(f"chat template failed: {error}") from error
        return text

    @cached_property
    def _changes_lists(self) -> bool:
        """Does it keep a list of its own (Kimi K2: of ids)? What it is given it can't change."""
        return re.search(rf"\.(?:{'|'.join(_OF_LISTS)})\(", self.source) is not None

    @cached_property
    def _compiled(self) -> Any:
        import jinja2
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class GenerationTag(jinja2.ext.Extension):
            """`{% generation %}…{% endgeneration %}` marks the assistant's text for transformers'
            masks and renders as what is in it."""

            tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

            def parse(self, parser: Any) -> Any:
                next(parser.stream)
                return parser.parse_statements(("name:endgeneration",), drop_needle=True)

        class WithLists(ImmutableSandboxedEnvironment):
            def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
                own = type(obj) is list and attr in _OF_LISTS
                return own or super().is_safe_attribute(obj, attr, value)

        kind = WithLists if self._changes_lists else ImmutableSandboxedEnvironment
        environment = kind(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols, GenerationTag],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            return environment.from_string(self.source)
        except jinja2.TemplateError as error:
            raise TemplateError(f"chat template can't be compiled: {error}") from error


class _Closed(list[Any]):
    """A list that a template is given."""


def _closed(value: Any) -> Any:
    """A copy that templates can be told from their own lists."""
    if isinstance(value, Mapping):
        return {key: _closed(inner) for key, inner in value.items()}
    return _Closed(map(_closed, value)) if isinstance(value, list | tuple) else value


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own tojson escapes HTML characters; prompts must not. The parameters are those that
    # transformers gives it, in its order.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(f"chat template refuses the conversation: {message}")
