"""inspect-ai: an evaluation with generation, tools, structured output, logprobs."""

from __future__ import annotations

import os
import tempfile
from typing import Any, Literal

import checks
from checks import MODEL, QUESTION, TOKENS

# A provider's address and key are read from the environment, by the provider's name.
os.environ["LOCAL_BASE_URL"] = checks.V1
os.environ["LOCAL_API_KEY"] = checks.KEY

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, ResponseSchema, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import ToolDef
from inspect_ai.util import json_schema
from pydantic import BaseModel


def _evaluate(*solvers: Any, model: str = f"openai-api/local/{MODEL}", **fields: Any) -> Any:
    """The message that ends the only sample."""
    config = GenerateConfig(**{"max_tokens": TOKENS, "max_retries": 0, **fields})
    task = Task(
        dataset=[Sample(input=QUESTION, target="o")],
        solver=[*solvers, generate()],
        scorer=includes(),
        message_limit=6,
    )
    with tempfile.TemporaryDirectory() as logs:
        (log,) = eval(task, model=get_model(model, config=config), log_dir=logs, display="none")
        assert log.status == "success", log.error.message if log.error else log.status
        (sample,) = log.samples  # read from the folder now
    assert sample.error is None, sample.error.message
    return sample.output


def chat() -> None:
    checks.check_text(_evaluate(temperature=0.7, top_p=0.95, seed=1).completion)


def tools() -> None:
    """A tool is offered; a small model need not call it, but the sample must come to an end."""
    _evaluate(use_tools(ToolDef(checks.weather, parallel=False)), max_tokens=200)


class Choice(BaseModel):
    """The library's schema has no bounds of lengths."""

    age: int
    language: Literal["English", "Italian"]


def structured_output() -> None:
    schema = ResponseSchema(name="choice", json_schema=json_schema(Choice))
    Choice.model_validate_json(_evaluate(response_schema=schema, max_tokens=300).completion)


def logprobs() -> None:
    output = _evaluate(logprobs=True, top_logprobs=2, max_tokens=8)
    assert len(output.choices[0].logprobs.content) >= 1


def several_answers() -> None:
    assert len(_evaluate(num_choices=2, max_tokens=8).choices) == 2


def reasoning_effort() -> None:
    checks.check_text(_evaluate(reasoning_effort="low").completion)


async def responses() -> None:
    config = GenerateConfig(max_tokens=TOKENS, max_retries=0)
    model = get_model(f"openai-api/local/{MODEL}", config=config, responses_api=True)
    checks.check_text((await model.generate(QUESTION)).completion)


if __name__ == "__main__":
    checks.run(
        "inspect-ai", chat, tools, structured_output, logprobs, several_answers, reasoning_effort,
        responses,
    )  # fmt: skip
