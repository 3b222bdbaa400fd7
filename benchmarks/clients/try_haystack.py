"""haystack: chat and text generators, streaming, tools, structured output, embedders, responses."""

from __future__ import annotations

from typing import Any

import checks
from checks import MODEL, QUESTION, TOKENS, Person
from haystack.components.embedders import OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret

KEY: Any = Secret.from_token(checks.KEY)
tool: Any = Tool(
    name="weather",
    description=checks.TOOL["function"]["description"],
    parameters=checks.PARAMETERS,
    function=checks.weather,
)
messages = [ChatMessage.from_user(QUESTION)]


def _generator(kind: Any = OpenAIChatGenerator, **fields: Any) -> Any:
    extra = fields.pop("generation_kwargs", {"max_completion_tokens": TOKENS})
    return kind(
        model=MODEL, api_base_url=checks.V1, api_key=KEY, max_retries=0, generation_kwargs=extra,
        **fields,
    )  # fmt: skip


def chat() -> None:
    (reply,) = _generator().run(messages)["replies"]
    checks.check_text(reply.text)


def stream() -> None:
    parts: list[str] = []
    _generator(streaming_callback=lambda chunk: parts.append(chunk.content)).run(messages)
    checks.check_text("".join(parts))


def tools() -> None:
    """The call, and the library's own messages sent back."""
    kwargs = {"tool_choice": "required", "max_completion_tokens": 200}
    (reply,) = _generator(tools=[tool], generation_kwargs=kwargs).run(messages)["replies"]
    call = reply.tool_calls[0]
    checks.check_arguments(call.arguments)
    result = ChatMessage.from_tool(tool.invoke(**call.arguments), origin=call)
    (after,) = _generator().run([*messages, reply, result])["replies"]
    checks.check_text(after.text)


def structured_output() -> None:
    kwargs = {"response_format": Person, "max_completion_tokens": 300}
    (reply,) = _generator(generation_kwargs=kwargs).run(messages)["replies"]
    Person.model_validate_json(reply.text)


def embeddings() -> None:
    embedder = OpenAITextEmbedder(model=MODEL, api_base_url=checks.V1, api_key=KEY)
    checks.check_vector(embedder.run("one")["embedding"])


def responses() -> None:
    kwargs = {"max_output_tokens": TOKENS}
    generator = _generator(OpenAIResponsesChatGenerator, generation_kwargs=kwargs)
    (reply,) = generator.run(messages)["replies"]
    checks.check_text(reply.text)


if __name__ == "__main__":
    checks.run(
        "haystack-ai", chat, stream, tools, structured_output, embeddings, responses,
        name="haystack",
    )  # fmt: skip
