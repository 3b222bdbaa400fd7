"""semantic-kernel: chat, streaming, functions, structured output, text completion, embeddings."""

from __future__ import annotations

from typing import Any

import checks
from checks import MODEL, QUESTION, TOKENS, Person
from openai import AsyncOpenAI
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
    OpenAITextCompletion,
    OpenAITextEmbedding,
    OpenAITextPromptExecutionSettings,
)
from semantic_kernel.contents import ChatHistory
from semantic_kernel.functions import kernel_function


class Weather:
    @kernel_function(name="weather", description="The weather of a city.")  # type: ignore[untyped-decorator, unused-ignore]
    def weather(self, city: str, days: int) -> str:
        return f"{city}: {days} days of sun"


def _service(kind: Any = OpenAIChatCompletion) -> Any:
    client = AsyncOpenAI(base_url=checks.V1, api_key=checks.KEY, max_retries=0)
    return kind(ai_model_id=MODEL, async_client=client)


def _settings(**fields: Any) -> Any:
    return OpenAIChatPromptExecutionSettings(**{"max_tokens": TOKENS, **fields})


def _history() -> Any:
    history = ChatHistory(system_message="Be brief.")
    history.add_user_message(QUESTION)
    return history


async def chat() -> None:
    answer = await _service().get_chat_message_content(_history(), _settings(temperature=0.7))
    checks.check_text(str(answer))


async def stream() -> None:
    service = _service()
    parts = service.get_streaming_chat_message_content(_history(), _settings())
    checks.check_text("".join([str(part) async for part in parts if part]))


async def tools() -> None:
    """A function is offered; a small model need not call it, but the run must come to an end."""
    kernel = Kernel()
    kernel.add_plugin(Weather(), plugin_name="guide")
    settings = _settings(
        max_tokens=200,
        function_choice_behavior=FunctionChoiceBehavior.Auto(maximum_auto_invoke_attempts=2),
    )
    answer = await _service().get_chat_message_content(_history(), settings, kernel=kernel)
    assert answer is not None, "no message"


async def tools_required() -> None:
    kernel = Kernel()
    kernel.add_plugin(Weather(), plugin_name="guide")
    settings = _settings(
        max_tokens=200,
        function_choice_behavior=FunctionChoiceBehavior.Required(auto_invoke=False),
    )
    answer = await _service().get_chat_message_content(_history(), settings, kernel=kernel)
    names = [item.name for item in answer.items if hasattr(item, "function_name")]
    assert names[:1] == ["guide-weather"], names


async def structured_output() -> None:
    settings = _settings(response_format=Person, max_tokens=300)
    answer = await _service().get_chat_message_content(_history(), settings)
    Person.model_validate_json(str(answer))


async def text_completion() -> None:
    """The library always sends echo=false."""
    settings = OpenAITextPromptExecutionSettings(max_tokens=8)
    answer = await _service(OpenAITextCompletion).get_text_content("Once upon", settings)
    checks.check_text(str(answer))


async def embeddings() -> None:
    for vector in await _service(OpenAITextEmbedding).generate_embeddings(["one", "two"]):
        checks.check_vector(vector)


if __name__ == "__main__":
    checks.run(
        "semantic-kernel", chat, stream, tools, tools_required, structured_output,
        text_completion, embeddings,
    )  # fmt: skip
