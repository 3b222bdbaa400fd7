"""A chat template rendered by transformers, in a process with limits of time and memory.

tuneserve's own renderer, which it is compared with, has such limits (tuneserve.chat.renderers); but
a template can tell the two apart, and take for ever in one of them alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneserve.chat.renderers import Renderers
from tuneserve.chat.template import ChatTemplate

_RENDERERS = Renderers("tuneserve.convert.verify.transformers_process")


class TransformersTemplate(ChatTemplate):
    """A template of a tokenizer with these special tokens, by their names."""

    renderers = _RENDERERS

    def __init__(self, source: str, special_tokens: Mapping[str, Any]) -> None:
        super().__init__(source)
        self._special_tokens = special_tokens

    def variables(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """As `apply_chat_template` puts them together."""
        return {**self._special_tokens, **given}
