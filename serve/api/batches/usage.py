"""Tokens of a batch: the sum over its answers, whichever API's names they have."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict


class InputDetails(TypedDict):
    """Of the input tokens, those that the prefix cache had."""

    cached_tokens: int


class OutputDetails(TypedDict):
    """Of the output tokens, those of thoughts."""

    reasoning_tokens: int


class BatchUsage(TypedDict):
    """Tokens of all answers of a batch so far."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


def no_usage() -> BatchUsage:
    """Of a batch without answers."""
    return BatchUsage(
        input_tokens=0,
        input_tokens_details=InputDetails(cached_tokens=0),
        output_tokens=0,
        output_tokens_details=OutputDetails(reasoning_tokens=0),
        total_tokens=0,
    )


def add_usage(total: BatchUsage, answer: Any) -> None:
    """Add the tokens of one answer, the body of a response of any path a batch may be for."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return
    # Anthropic's input_tokens are those that were not cached.
    read = _count(usage, "cache_read_input_tokens")
    came_in = _count(usage, "input_tokens", "prompt_tokens") + read
    went_out = _count(usage, "output_tokens", "completion_tokens")
    total["input_tokens"] += came_in
    total["output_tokens"] += went_out
    total["total_tokens"] += came_in + went_out
    details = _details(usage, "input_tokens_details", "prompt_tokens_details")
    total["input_tokens_details"]["cached_tokens"] += read + _count(details, "cached_tokens")
    details = _details(usage, "output_tokens_details", "completion_tokens_details")
    thoughts = _count(details, "reasoning_tokens", "thinking_tokens")
    total["output_tokens_details"]["reasoning_tokens"] += thoughts


def _count(values: dict[str, Any], *names: str) -> int:
    """The first of these that is there."""
    return next((int(values[name]) for name in names if values.get(name) is not None), 0)


def _details(usage: dict[str, Any], *names: str) -> dict[str, Any]:
    return next((usage[name] for name in names if usage.get(name) is not None), {})
