"""Prompt variants: an instruction in several wordings, so that the task is learned, not a phrase.

The file lists the wordings of an instruction one a line; an empty line begins another
instruction's. Where a prompt holds one of them, the example has a variant for each of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuneserve.chat.examples import Example
from tuneserve.chat.template import Message
from tuneserve.errors import UsageError
from tuneserve.files import LARGEST_TEXT, read_text


@dataclass(frozen=True)
class PromptVariants:
    """Instructions, each with its wordings, two or more, by the line that these begin on in the
    file."""

    instructions: dict[int, tuple[str, ...]]
    where: str

    def of(self, example: Example) -> list[Example]:
        """The example in its own wording, then in each of the others that are known."""
        found = [example]
        for wordings in self.instructions.values():
            own = _wording_in(example.prompt, wordings)
            if own is not None:
                found += [_reworded(example, own, other) for other in wordings if other != own]
                break
        return found

    def check_used(self, examples: Sequence[Example]) -> None:
        """Raise UsageError if an instruction is in none of the examples' prompts."""
        for line, wordings in self.instructions.items():
            if not any(_wording_in(e.prompt, wordings) for e in examples):
                raise UsageError(
                    f"no prompt holds {wordings[0]!r:.60} or another of its wordings",
                    where=f"{self.where}:{line}",
                    hint="One of the wordings has to be in the prompts exactly as it stands.",
                )


def read_prompt_variants(path: Path) -> PromptVariants:
    """The wordings of a file. Raises UsageError if it can't be read or gives nothing to choose."""
    lines = read_text(path, "file of wordings", most=LARGEST_TEXT).splitlines()
    instructions: dict[int, tuple[str, ...]] = {}
    first = 0
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            first = 0
            continue
        first = first or number
        instructions[first] = (*instructions.get(first, ()), line)
    for number, wordings in instructions.items():
        if len(set(wordings)) < 2:
            raise UsageError(
                "an instruction needs two wordings or more, a line each", where=f"{path}:{number}"
            )
    if not instructions:
        raise UsageError("holds no wordings", where=str(path))
    distinct = {number: tuple(dict.fromkeys(each)) for number, each in instructions.items()}
    return PromptVariants(distinct, str(path))


def _wording_in(messages: Sequence[Message], wordings: Sequence[str]) -> str | None:
    """The longest of the wordings that is in one of the messages but the assistant's."""
    texts = [m["content"] for m in messages if m["role"] != "assistant" and m["content"]]
    return next(
        (w for w in sorted(wordings, key=len, reverse=True) if any(w in text for text in texts)),
        None,
    )


def _reworded(example: Example, own: str, other: str) -> Example:
    *before, answer = example.messages
    changed = [
        {**message, "content": message["content"].replace(own, other)}
        if message["role"] != "assistant" and message["content"]
        else message
        for message in before
    ]
    return replace(example, messages=(*changed, answer))
