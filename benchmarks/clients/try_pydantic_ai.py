"""pydantic-ai: an agent with text, tools, structured output as a tool and by schema, responses."""

from __future__ import annotations

from typing import Any

import checks
from checks import MODEL, QUESTION, TOKENS, Person
from pydantic_ai import Agent, NativeOutput, ToolOutput, UsageLimits
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

provider: Any = OpenAIProvider(base_url=checks.V1, api_key=checks.KEY)
chat_model: Any = OpenAIChatModel(MODEL, provider=provider)


def chat() -> None:
    agent: Any = Agent(chat_model, instructions="Be brief.")
    checks.check_text(agent.run_sync(QUESTION, model_settings={"max_tokens": TOKENS}).output)


async def stream() -> None:
    agent: Any = Agent(chat_model)
    async with agent.run_stream(QUESTION, model_settings={"max_tokens": TOKENS}) as result:
        checks.check_text("".join([part async for part in result.stream_text(delta=True)]))


def tools() -> None:
    """A tool is offered; a small model need not call it, but the run must come to an end."""
    agent: Any = Agent(chat_model, tools=[checks.weather])
    settings = {"max_tokens": 200}
    result = agent.run_sync(
        QUESTION, model_settings=settings, usage_limits=UsageLimits(request_limit=4)
    )
    checks.check_text(result.output)


def _structured(output: Any, model: Any = chat_model) -> None:
    agent: Any = Agent(model, output_type=output)
    result = agent.run_sync(QUESTION, model_settings={"max_tokens": 300})
    assert isinstance(result.output, Person)


def structured_by_tool() -> None:
    _structured(ToolOutput(Person))


def structured_by_schema() -> None:
    _structured(NativeOutput(Person))


def conversation() -> None:
    agent: Any = Agent(chat_model)
    first = agent.run_sync(QUESTION, model_settings={"max_tokens": TOKENS})
    again = agent.run_sync(
        "And now?", message_history=first.all_messages(), model_settings={"max_tokens": 16}
    )
    checks.check_text(again.output)


def thinking() -> None:
    agent: Any = Agent(chat_model)
    settings = {"max_tokens": TOKENS, "openai_reasoning_effort": "low"}
    checks.check_text(agent.run_sync(QUESTION, model_settings=settings).output)


def responses() -> None:
    agent: Any = Agent(OpenAIResponsesModel(MODEL, provider=provider))
    checks.check_text(agent.run_sync(QUESTION, model_settings={"max_tokens": TOKENS}).output)


def responses_structured() -> None:
    _structured(NativeOutput(Person), OpenAIResponsesModel(MODEL, provider=provider))


if __name__ == "__main__":
    checks.run(
        "pydantic-ai-slim", chat, stream, tools, structured_by_tool, structured_by_schema,
        conversation, thinking, responses, responses_structured, name="pydantic-ai",
    )  # fmt: skip
