"""Types of what the tests of grammars share."""

from __future__ import annotations

from collections.abc import Callable

from llguidance import LLMatcher

Allows = Callable[[LLMatcher, str], bool]
"""Does a grammar let a text through from beginning to end, token by token?"""
