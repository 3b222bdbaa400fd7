"""The renderings that encoding many examples asks for, made together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from tuneserve.chat.completeness import with_marks
from tuneserve.chat.examples import Example
from tuneserve.chat.prompt import (
    Tokenizer,
    answer_calls,
    example_arguments,
    protected,
    trained_places,
)
from tuneserve.chat.template import ChatTemplate
from tuneserve.chat.template_traits import template_traits
from tuneserve.errors import TuneserveError

EACH = 200
CHARACTERS_AHEAD = 1 << 20
"""Of the examples whose renderings are kept at a time."""


def rendered_ahead(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    examples: Sequence[Example],
    *,
    thoughts: str,
    train_on: str = "last",
    checked: bool = True,
) -> Iterator[Example]:
    """The examples one after the other, while the template knows what `lost_parts` and `encode`
    will most likely ask of it for the next ones; without `checked`, what `encode` alone will.
    Raises TemplateLimitError."""
    if template is not None:
        template_traits(template)
    for group in _groups(examples):
        if template is not None:
            calls: list[dict[str, Any]] = []
            for example in group:
                # What is wrong with an example is told when it is encoded.
                with suppress(TuneserveError):
                    calls += _calls(tokenizer, template, example, thoughts, train_on)
                    if checked and example.prompt:
                        marked = with_marks(example)[0]
                        calls += _last_answer(template, marked, thoughts)
            template.render_ahead(calls)
        yield from group
    if template is not None:
        template.render_ahead([])


def _calls(
    tokenizer: Tokenizer, template: ChatTemplate, example: Example, thoughts: str, train_on: str
) -> list[dict[str, Any]]:
    if not example.prompt:
        return []
    own = example_arguments(template, protected(tokenizer, example), thoughts=thoughts)
    calls = answer_calls(own, [len(own["messages"]) - 1])
    if train_on == "all":
        *before, _ = own["messages"]
        prompt = {**own, "messages": before, "add_generation_prompt": True}
        calls += answer_calls(prompt, list(trained_places(before).values()))
    return calls


def _last_answer(template: ChatTemplate, example: Example, thoughts: str) -> list[dict[str, Any]]:
    arguments = example_arguments(template, example, thoughts=thoughts)
    return answer_calls(arguments, [len(arguments["messages"]) - 1])


def _groups(examples: Sequence[Example]) -> Iterator[list[Example]]:
    group: list[Example] = []
    size = 0
    for example in examples:
        group.append(example)
        characters = sum(len(message.get("content") or "") for message in example.messages)
        # Each answer is rendered with all that is before it.
        size += EACH + characters * len(example.messages)
        if size >= CHARACTERS_AHEAD:
            yield group
            group, size = [], 0
    if group:
        yield group
