"""instructor: one class by each of its modes, partial objects, lists of objects."""

from __future__ import annotations

from typing import Any

import checks
import instructor
import openai
from checks import MODEL, QUESTION, Person

messages: list[Any] = [{"role": "user", "content": QUESTION}]


def _client(mode: Any) -> Any:
    given = openai.OpenAI(base_url=checks.V1, api_key=checks.KEY, max_retries=0)
    return instructor.from_openai(given, mode=mode)


ONE_CALL = {"parallel_tool_calls": False}


def _create(mode: Any, **fields: Any) -> None:
    person = _client(mode).create(
        model=MODEL, messages=messages, response_model=Person, max_tokens=300, max_retries=0,
        **fields,
    )  # fmt: skip
    assert isinstance(person, Person)


def tools() -> None:
    _create(instructor.Mode.TOOLS, **ONE_CALL)


def tools_strict() -> None:
    _create(instructor.Mode.TOOLS_STRICT, **ONE_CALL)


def json_schema() -> None:
    _create(instructor.Mode.JSON_SCHEMA)


def partial_objects() -> None:
    client = _client(instructor.Mode.TOOLS)
    found = list(
        client.create_partial(
            model=MODEL, messages=messages, response_model=Person, max_tokens=300, max_retries=0,
            **ONE_CALL,
        )
    )  # fmt: skip
    Person.model_validate(found[-1].model_dump())


def chat() -> None:
    answer = _client(instructor.Mode.TOOLS).create(
        model=MODEL, messages=messages, response_model=None, max_tokens=8
    )
    checks.check_text(answer.choices[0].message.content)


if __name__ == "__main__":
    checks.run("instructor", chat, tools, tools_strict, json_schema, partial_objects)
