"""The anthropic package: messages, streams, tools, token counts, over /v1/messages."""

from __future__ import annotations

from typing import Any

import anthropic
import checks
from checks import MODEL, QUESTION, TOKENS

client: Any = anthropic.Anthropic(base_url=checks.URL, api_key=checks.KEY, max_retries=0)
messages: list[Any] = [{"role": "user", "content": QUESTION}]
tool = {
    "name": "weather",
    "description": checks.TOOL["function"]["description"],
    "input_schema": checks.PARAMETERS,
}


def create(**fields: Any) -> Any:
    return client.messages.create(
        **{"model": MODEL, "max_tokens": TOKENS, "messages": messages, **fields}
    )


def chat() -> None:
    answer = create(
        system="Be brief.",
        stop_sequences=["\n\n\n"],
        extra_body={"temperature": 0.7, "top_k": 40},  # this release has no parameters for them
    )
    (part,) = answer.content
    checks.check_text(part.text)
    assert answer.stop_reason in ("end_turn", "max_tokens", "stop_sequence"), answer.stop_reason
    assert answer.usage.input_tokens > 0


def stream() -> None:
    with client.messages.stream(model=MODEL, max_tokens=TOKENS, messages=messages) as events:
        checks.check_text("".join(events.text_stream))
        assert events.get_final_message().usage.output_tokens > 0


def tools() -> None:
    """The call, and the library's own content sent back with the result."""
    answer = create(tools=[tool], tool_choice={"type": "any"}, max_tokens=200)
    assert answer.stop_reason == "tool_use", answer.stop_reason
    call = next(part for part in answer.content if part.type == "tool_use")
    checks.check_arguments(call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sun"}
    turns = [
        *messages,
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": [result]},
    ]
    after = create(messages=turns, tools=[tool], tool_choice={"type": "none"})
    checks.check_text(after.content[0].text)


def tools_streamed() -> None:
    with client.messages.stream(
        model=MODEL, max_tokens=200, messages=messages, tools=[tool], tool_choice={"type": "any"}
    ) as events:
        kinds = {event.type for event in events}
        calls = [p for p in events.get_final_message().content if p.type == "tool_use"]
    assert "input_json" in kinds, kinds
    checks.check_arguments(calls[0].input)


def cache_control() -> None:
    """A mark for Anthropic's prompt cache, which agents put on long system prompts."""
    part = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    checks.check_text(create(system=[part]).content[0].text)


def thinking() -> None:
    answer = create(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=1100)
    assert answer.content, "no content"


def count_tokens() -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=messages).input_tokens
    assert counted == create(max_tokens=1).usage.input_tokens


def errors() -> None:
    try:
        create(model="no such model")
    except anthropic.NotFoundError as error:
        body: Any = error.body
    else:
        raise AssertionError("NotFoundError was not raised")
    assert body.get("type") == "error", body


if __name__ == "__main__":
    checks.run(
        "anthropic", chat, stream, tools, tools_streamed, cache_control, thinking, count_tokens,
        errors,
    )  # fmt: skip
