"""The held-out prompts of a run, with their reference answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tuneserve.errors import UsageError
from tuneserve.thoughts import KEY

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """One held-out prompt: the conversation up to the answer, and the reference answer with the
    thoughts that lead to it; `tools` are those the prompt offers."""

    id: str
    group: str | None
    source: str | None
    prompt: tuple[dict[str, Any], ...]
    reference: str
    thoughts: str | None = None
    tools: tuple[dict[str, Any], ...] = ()


def read_examples(path: Path, limit: int = 0) -> list[Example]:
    """The examples of a split file that can be asked, at most `limit` (0: all) of them.

    Where fewer are asked for, they are spread evenly over the file, so that a file sorted by group
    still gives all groups. Raises UsageError naming every bad line, or if there is no example.
    """
    if not path.is_file():
        raise UsageError("no held-out examples", where=str(path))
    examples = read_rows(path)
    if not examples:
        raise UsageError(
            "no held-out examples with a prompt and a text as its answer",
            where=str(path),
            hint="Raise test_fraction in [data] and train again. Of plain texts there is only the "
            "perplexity to measure: tuneserve perplexity",
        )
    return evenly(examples, limit or len(examples))


def read_rows(path: Path) -> list[Example]:
    """The examples of a split file that can be asked, be it none: a text without a prompt and an
    answer that only calls a tool are left out. Raises UsageError naming every bad line."""
    examples: list[Example] = []
    problems: list[str] = []
    seen: set[str] = set()
    # A line ends with a line break alone: JSON strings may hold what str.splitlines breaks at.
    for place, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            example = from_row(json.loads(line))
            if example is None:
                continue
            if example.id in seen:
                raise ValueError(f"id '{example.id}' is there twice")
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{path}:{place}: {error}")
            continue
        seen.add(example.id)
        examples.append(example)
    if problems:
        raise UsageError(f"{len(problems)} bad lines", where=str(path), problems=problems)
    return examples


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, spread evenly over them."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def from_row(row: Any) -> Example | None:
    """None for what asks nothing or is answered by no text."""
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("'messages' must hold a prompt and its answer")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str | None):
            raise ValueError("every message needs a 'role' and a text as 'content'")
    *prompt, answer = messages
    if answer.get("role") != "assistant":
        raise ValueError("the last message must be the assistant's answer")
    if not isinstance(row.get("id"), str):
        raise ValueError("'id' is missing")
    written = bool((answer.get("content") or "").strip())
    if not written and not answer.get("tool_calls"):
        raise ValueError("the answer is empty")
    if not prompt or not written:
        return None
    return Example(
        id=row["id"],
        group=row.get("group"),
        source=row.get("source"),
        prompt=tuple(prompt),
        reference=answer["content"],
        thoughts=answer.get(KEY) or None,
        tools=tuple(row.get("tools") or ()),
    )
