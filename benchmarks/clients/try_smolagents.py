"""smolagents: OpenAIModel, its stream, its tools, structured output, an agent that calls tools."""

from __future__ import annotations

from typing import Any

import checks
from checks import MODEL, QUESTION, TOKENS, Person
from smolagents import ChatMessage, MessageRole, OpenAIModel, Tool, ToolCallingAgent

messages = [ChatMessage(role=MessageRole.USER, content=[{"type": "text", "text": QUESTION}])]


class Weather(Tool):  # type: ignore[misc]
    name = "weather"
    description = checks.TOOL["function"]["description"]
    inputs = {  # noqa: RUF012 (the library reads it as an attribute of the class)
        name: {"description": name, **schema}
        for name, schema in checks.PARAMETERS["properties"].items()
    }
    output_type = "string"

    def forward(self, city: str, days: int, unit: str) -> str:
        return f"{city}: {days} days of sun, 21 degrees {unit}"


def _model(**fields: Any) -> Any:
    return OpenAIModel(model_id=MODEL, api_base=checks.V1, api_key=checks.KEY, **fields)


def chat() -> None:
    answer = _model(max_tokens=TOKENS).generate(messages)
    checks.check_text(answer.content)
    assert answer.token_usage.output_tokens > 0


def stream() -> None:
    parts = [part.content or "" for part in _model(max_tokens=TOKENS).generate_stream(messages)]
    checks.check_text("".join(parts))


def tools() -> None:
    answer = _model(max_tokens=200).generate(messages, tools_to_call_from=[Weather()])
    checks.check_arguments(answer.tool_calls[0].function.arguments)


def structured_output() -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "person", "schema": Person.model_json_schema()},
    }
    answer = _model(max_tokens=300).generate(messages, response_format=form)
    Person.model_validate_json(answer.content)


def agent() -> None:
    """Two steps; a small model finds no answer in them, which is not an error of the run."""
    agent: Any = ToolCallingAgent(
        tools=[Weather()], model=_model(max_tokens=200), max_steps=2, verbosity_level=0
    )
    result = agent.run(QUESTION, return_full_result=True)
    assert result.steps, "no steps"
    problems = [step["error"] for step in result.steps if step.get("error")]
    served = [problem for problem in problems if "400" in str(problem) or "500" in str(problem)]
    assert not served, served


if __name__ == "__main__":
    checks.run("smolagents", chat, stream, tools, structured_output, agent)
