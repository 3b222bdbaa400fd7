"""litellm: completion, tools, structured output, embeddings, text completion, responses."""

from __future__ import annotations

from typing import Any

import checks
import litellm
from checks import MODEL, QUESTION, TOKENS, TOOL, Person

messages = [{"role": "user", "content": QUESTION}]


def complete(**fields: Any) -> Any:
    fields = {"messages": messages, "max_tokens": TOKENS, **fields}
    return litellm.completion(
        model=f"openai/{MODEL}", api_base=checks.V1, api_key=checks.KEY, **fields
    )


def chat() -> None:
    checks.check_text(complete(temperature=0.7).choices[0].message.content)


def stream() -> None:
    parts = [chunk.choices[0].delta.content or "" for chunk in complete(stream=True)]
    checks.check_text("".join(parts))


def tools() -> None:
    """The call, and the library's own message sent back."""
    message = complete(tools=[TOOL], tool_choice="required", max_tokens=200).choices[0].message
    (call, *_) = message.tool_calls
    checks.check_arguments(call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "sun"}
    answer = complete(messages=[*messages, message, result], tools=[TOOL], tool_choice="none")
    checks.check_text(answer.choices[0].message.content)


def structured_output() -> None:
    content = complete(response_format=Person, max_tokens=300).choices[0].message.content
    Person.model_validate_json(content)


def reasoning_effort() -> None:
    """The library drops the field where it does not know the model, unless it is allowed."""
    complete(reasoning_effort="low", allowed_openai_params=["reasoning_effort"], max_tokens=16)


def text_completion() -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{MODEL}",
        prompt="Once upon",
        max_tokens=8,
        api_base=checks.V1,
        api_key=checks.KEY,
    )
    checks.check_text(answer.choices[0].text)


def embeddings() -> None:
    answer = litellm.embedding(
        model=f"openai/{MODEL}", input=["one", "two"], api_base=checks.V1, api_key=checks.KEY
    )
    for entry in answer.data:
        checks.check_vector(entry["embedding"])


def responses() -> None:
    answer = litellm.responses(
        model=f"openai/{MODEL}",
        input=QUESTION,
        max_output_tokens=TOKENS,
        api_base=checks.V1,
        api_key=checks.KEY,
    )
    checks.check_text(answer.output_text)


def anthropic_messages() -> None:
    """Its Anthropic provider, which speaks /v1/messages."""
    answer = litellm.completion(
        model=f"anthropic/{MODEL}",
        messages=messages,
        max_tokens=TOKENS,
        api_base=checks.URL,
        api_key=checks.KEY,
    )
    checks.check_text(answer.choices[0].message.content)


if __name__ == "__main__":
    checks.run(
        "litellm", chat, stream, tools, structured_output, reasoning_effort, text_completion,
        embeddings, responses, anthropic_messages,
    )  # fmt: skip
