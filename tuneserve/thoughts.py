"""Reasoning models: what an answer's thoughts become in the text the model is trained on.

A reasoning model writes `<think>`, its thoughts, `</think>`, then the answer. Some templates
(DeepSeek-R1's distills, QwQ) write the opening tag into the prompt, so the model starts inside it;
some render thoughts themselves (Qwen3); some take an answer's thoughts out again (R1's); most know
nothing of them. Whatever the template does, the trained text is what the model has to write after
the prompt that the server gives it: no tag twice, none missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OPEN = "<think>"
CLOSE = "</think>"
KEY = "reasoning_content"


@dataclass(frozen=True)
class Completion:
    """Text the model writes after the prompt; the first `thoughts_end` characters are thoughts,
    their closing tag and the white space behind it included (0: there are none)."""

    text: str
    thoughts_end: int


def split_thoughts(content: str) -> tuple[str | None, str]:
    """(thoughts or None, answer) of an assistant's text.

    The opening tag may be missing, as in what a model returns whose prompt ended with it.
    """
    before, tag, answer = content.rpartition(CLOSE)
    if not tag:
        return None, content
    head, opened, thoughts = before.partition(OPEN)
    if opened and head.strip():
        # Text before the thoughts: not a reasoning model's answer, so it is left alone.
        return None, content
    return (thoughts if opened else before).strip("\n"), answer.lstrip("\n")


def without_thoughts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in message.items() if k != KEY} for message in messages]


def complete(prompt: str, full: str, answer: str, thoughts: str | None) -> Completion | None:
    """What follows `prompt` when the model gives `answer` after `thoughts`.

    `prompt` and `full` are the template's rendering without and with the final turn. None if the
    answer can't be found in what the template rendered.
    """
    opened = prompt.rstrip().endswith(OPEN)
    tail = _tail(prompt, full, answer)
    if tail is None:
        return None
    rendered = thoughts is not None and thoughts.strip() in tail and CLOSE in tail
    if not rendered and thoughts is not None:
        tail = ("" if opened else f"{OPEN}\n") + f"{thoughts}\n{CLOSE}\n\n" + tail.lstrip("\n")
    elif opened and not thoughts_end(tail, answer):
        # The prompt has opened the thoughts: an answer without any has to close them first.
        tail = f"\n{CLOSE}\n\n{tail}"
    return Completion(tail, thoughts_end(tail, answer))


def thoughts_end(text: str, answer: str) -> int:
    """Where the answer begins in an assistant's rendered turn if thoughts stand before it: behind
    their closing tag and its white space. 0 if there are none."""
    end = text.find(CLOSE)
    if end < 0 or end > text.rfind(answer.strip()):
        return 0
    end += len(CLOSE)
    return end + len(text[end:]) - len(text[end:].lstrip())


def _tail(prompt: str, full: str, answer: str) -> str | None:
    if full.startswith(prompt):
        return full[len(prompt) :]
    # The template renders a finished turn unlike the one it asks for (no <think> in it, say):
    # take the answer and what the template closes the turn with.
    if not answer.strip():
        return None
    turn = _turn_start(prompt, full)
    places = (full.find(text, turn) for text in (answer, answer.strip()))
    start = next((place for place in places if place >= 0), None)
    return None if start is None else full[start:]


def _turn_start(prompt: str, full: str) -> int:
    """Where the final turn's text begins in `full`, which parts from `prompt` in or behind a tag.

    What the template writes before and behind a turn may hold the answer's letters too.
    """
    pairs = enumerate(zip(prompt, full, strict=False))
    parted = next((place for place, (a, b) in pairs if a != b), min(len(prompt), len(full)))
    opening = prompt.rfind(OPEN)
    if opening < 0 or not 0 <= parted - opening <= len(OPEN):
        return parted
    # The answer may begin like the tag that the prompt goes on with ('<b>'), or thoughts that the
    # template itself wrote may stand before it.
    written = full.startswith(OPEN, opening)
    closing = full.find(CLOSE, opening) if written else -1
    return opening if closing < 0 else closing + len(CLOSE)
