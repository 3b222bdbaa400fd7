"""Answers from a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tuneserve.chat.examples import Example
from tuneserve.chat.template import api_message
from tuneserve.errors import TuneserveError
from tuneserve.settings import BenchSettings

if TYPE_CHECKING:
    from openai import OpenAI

TIMEOUT_SECONDS = 600.0


def ask_endpoint(
    examples: Sequence[Example], settings: BenchSettings
) -> Iterator[tuple[Example, dict[str, Any]]]:
    """Ask the endpoint every prompt greedily, `settings.parallel` at a time.

    Yields each example with its answer (text, finish_reason, tokens). The API key is taken from
    OPENAI_API_KEY. Raises TuneserveError if the endpoint can't be reached or refuses a prompt.
    """
    import openai

    key = os.environ.get("OPENAI_API_KEY", "none")
    with openai.OpenAI(base_url=settings.endpoint, api_key=key, timeout=TIMEOUT_SECONDS) as client:
        try:
            model = settings.endpoint_model or next(iter(client.models.list())).id
            with ThreadPoolExecutor(settings.parallel) as pool:
                answers = pool.map(lambda example: _ask(client, model, example, settings), examples)
                yield from zip(examples, answers, strict=True)
        except StopIteration:
            raise TuneserveError(
                "lists no model", where=settings.endpoint, hint="Name one: --endpoint-model"
            ) from None
        except openai.OpenAIError as error:
            raise TuneserveError(
                f"the endpoint failed: {error}",
                where=settings.endpoint,
                hint="Is a server listening there? The URL ends with /v1, as a rule.",
            ) from error


def _ask(client: OpenAI, model: str, example: Example, settings: BenchSettings) -> dict[str, Any]:
    import openai

    messages: Any = [api_message(message) for message in example.prompt]
    tools: Any = list(example.tools or ()) or openai.omit
    reply = client.chat.completions.create(
        model=model, messages=messages, temperature=0.0, max_tokens=settings.max_tokens, tools=tools
    )
    choice = reply.choices[0]
    return {
        "text": choice.message.content or "",
        "finish_reason": choice.finish_reason,
        "tokens": reply.usage.completion_tokens if reply.usage else 0,
    }
