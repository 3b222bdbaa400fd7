"""openai-agents: runs over chat completions and over responses, tools, output types, streams."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import checks
from agents import (
    Agent,
    FunctionTool,
    ModelBehaviorError,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    set_tracing_disabled,
)
from checks import MODEL, QUESTION, TOKENS, Person
from openai import AsyncOpenAI

set_tracing_disabled(True)


async def _weather(_context: Any, arguments: str) -> str:
    return checks.weather(**json.loads(arguments))


weather: Any = FunctionTool(
    name="weather",
    description=checks.TOOL["function"]["description"],
    params_json_schema=checks.PARAMETERS,
    on_invoke_tool=_weather,
)


def _agent(kind: Any = OpenAIChatCompletionsModel, **fields: Any) -> Any:
    client = AsyncOpenAI(base_url=checks.V1, api_key=checks.KEY, max_retries=0)
    settings = {"max_tokens": TOKENS, **fields.pop("settings", {})}
    return Agent(
        name="guide",
        instructions="Be brief.",
        model=kind(model=MODEL, openai_client=client),
        model_settings=ModelSettings(**settings),
        **fields,
    )


def _tool_agent(kind: Any) -> Any:
    """One that must call, and whose run ends with the tool's result."""
    return _agent(
        kind,
        tools=[weather],
        tool_use_behavior="stop_on_first_tool",
        settings={"tool_choice": "required", "max_tokens": 200, "parallel_tool_calls": False},
    )


async def _streamed(kind: Any) -> None:
    result = Runner.run_streamed(_agent(kind), QUESTION)
    kinds = [event.data.type async for event in result.stream_events() if hasattr(event, "data")]
    assert "response.output_text.delta" in kinds, kinds
    checks.check_text(result.final_output)


async def chat() -> None:
    checks.check_text((await Runner.run(_agent(), QUESTION)).final_output)


async def stream() -> None:
    await _streamed(OpenAIChatCompletionsModel)


async def tools() -> None:
    output = (await Runner.run(_tool_agent(OpenAIChatCompletionsModel), QUESTION)).final_output
    assert "days of sun" in output, output


async def structured_output() -> None:
    agent = _agent(output_type=Person, settings={"max_tokens": 300})
    assert isinstance((await Runner.run(agent, QUESTION)).final_output, Person)


async def stored() -> None:
    """`store` is what the library sends where its user sets it."""
    settings = {"store": False, "metadata": {"a": "b"}, "max_tokens": 8}
    checks.check_text((await Runner.run(_agent(settings=settings), QUESTION)).final_output)


@contextlib.contextmanager
def _cut_off_is_well() -> Iterator[None]:
    """The library takes an answer that ran out of tokens for an error, but only over responses."""
    try:
        yield
    except ModelBehaviorError as error:
        if "max_output_tokens" not in str(error):
            raise


async def responses() -> None:
    with _cut_off_is_well():
        checks.check_text((await Runner.run(_agent(OpenAIResponsesModel), QUESTION)).final_output)


async def responses_streamed() -> None:
    with _cut_off_is_well():
        await _streamed(OpenAIResponsesModel)


async def responses_tools() -> None:
    output = (await Runner.run(_tool_agent(OpenAIResponsesModel), QUESTION)).final_output
    assert "days of sun" in output, output


async def responses_structured() -> None:
    agent = _agent(OpenAIResponsesModel, output_type=Person, settings={"max_tokens": 300})
    assert isinstance((await Runner.run(agent, QUESTION)).final_output, Person)


if __name__ == "__main__":
    checks.run(
        "openai-agents", chat, stream, tools, structured_output, stored, responses,
        responses_streamed, responses_tools, responses_structured,
    )  # fmt: skip
