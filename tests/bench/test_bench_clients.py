"""When the first piece of a streamed answer counts as there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tuneserve.bench.measure.clients import _ask
from tuneserve.errors import TuneserveError

PROMPT = [{"role": "user", "content": "6 x 7?"}]


def client(*deltas: dict[str, str]) -> Any:
    """Streams the deltas, 10 ms apart, as the openai client hands them out."""
    from openai.types.chat import ChatCompletionChunk

    def stream(**_: object) -> Iterator[ChatCompletionChunk]:
        usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        for place, delta in enumerate([*deltas, None]):
            time.sleep(0.01)
            choices = [] if delta is None else [{"index": 0, "delta": delta}]
            yield ChatCompletionChunk.model_validate(
                {"id": "x", "created": 0, "model": "m", "object": "chat.completion.chunk",
                 "choices": choices, "usage": usage if place == len(deltas) else None}
            )  # fmt: skip

    completions = SimpleNamespace(create=stream)
    return SimpleNamespace(chat=SimpleNamespace(completions=completions), base_url="http://here")


def test_a_thought_is_a_first_token_too() -> None:
    role = {"role": "assistant"}
    first, tokens = _ask(client(role, {"reasoning_content": "Six"}, {"content": "42"}), PROMPT, {})
    assert 0.02 <= first < 0.03 + 0.02
    assert tokens == 3
    only_thoughts, _ = _ask(client(role, {"reasoning_content": "Six"}), PROMPT, {})
    assert only_thoughts >= 0.02


def test_no_text_at_all_is_an_error() -> None:
    with pytest.raises(TuneserveError, match="no text"):
        _ask(client({"role": "assistant"}), PROMPT, {})
