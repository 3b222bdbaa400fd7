"""Grammars in GBNF, llama.cpp's notation, put together from others."""

from __future__ import annotations

import re

# What a rule's name may not be looked for in: literals, character classes, comments.
_NAME = re.compile(
    r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*|(?P<name>[A-Za-z_][A-Za-z0-9_-]*)', re.DOTALL
)


def either(*grammars: str) -> str:
    """A grammar of whatever one of `grammars` allows. Each has a rule `root`."""
    roots = " | ".join(f"g{number}-root" for number in range(len(grammars)))
    parts = [prefixed(grammar, f"g{number}-") for number, grammar in enumerate(grammars)]
    return "\n".join([f"root ::= {roots}", *parts])


def prefixed(grammar: str, prefix: str) -> str:
    """The grammar with every rule's name beginning with `prefix`."""
    return _NAME.sub(lambda m: prefix + m[0] if m["name"] else m[0], grammar)


def literal(text: str) -> str:
    """A grammar of just this text."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
