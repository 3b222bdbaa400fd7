"""A chat template compiled and rendered in Jinja's sandbox.

Whitespace control, the loop controls extension and the helpers are those that chat templates are
written against (Hugging Face's `apply_chat_template`). The sandbox keeps a template from objects
that it was not given; it bounds neither time nor memory, and a template can hold the interpreter
for as long as it likes. So nothing but a process of its own (tuneserve.chat.render_process) calls
this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

_OF_LISTS = ("append", "pop")
_CHANGES_LISTS = re.compile(rf"\.(?:{'|'.join(_OF_LISTS)})\(")


AS_TEXT = "{# text #}"
"""What a template begins with that writes a plain text instead of a conversation: its white space
stays as it is written, a variable that is not given is an error, and there is the filter
`regex_replace` (lm-evaluation-harness's templates of prompts are written so)."""


class RefusedError(Exception):
    """The template refuses what it was given, in its own words."""


class Sandbox:
    """A compiled template. Raises jinja2.TemplateError, and whatever compiling code can raise."""

    def __init__(self, source: str) -> None:
        # Some keep a list of their own (Kimi K2: of ids). What they are given they can't change.
        self._changes_lists = _CHANGES_LISTS.search(source) is not None
        if source.startswith(AS_TEXT):
            self._changes_lists = False
            texts = ImmutableSandboxedEnvironment(
                undefined=jinja2.StrictUndefined, keep_trailing_newline=True
            )
            texts.filters["regex_replace"] = _regex_replace
            self._template = texts.from_string(source)
            return
        kind = _WithLists if self._changes_lists else ImmutableSandboxedEnvironment
        environment = kind(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols, _GenerationTag],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self._template = environment.from_string(source)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text. Raises RefusedError, and whatever foreign code can raise."""
        return self._template.render(_closed(variables) if self._changes_lists else variables)


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's text for transformers' masks and
    renders as what is in it."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _WithLists(ImmutableSandboxedEnvironment):
    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        own = type(obj) is list and attr in _OF_LISTS
        return own or super().is_safe_attribute(obj, attr, value)


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


def _regex_replace(text: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, text, count=count)


def _raise_exception(message: str) -> None:
    raise RefusedError(message)
