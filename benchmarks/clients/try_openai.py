"""The openai package: chat, tools, structured output, completions, embeddings, responses, files."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any

import checks
import openai
from checks import MODEL, QUESTION, TOKENS, TOOL, Person, check_text

client: Any = openai.OpenAI(base_url=checks.V1, api_key=checks.KEY, max_retries=0)
messages: list[Any] = [{"role": "user", "content": QUESTION}]


def create(**fields: Any) -> Any:
    fields = {"model": MODEL, "messages": messages, "max_completion_tokens": TOKENS, **fields}
    return client.chat.completions.create(**fields)


def models() -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def chat() -> None:
    answer = create(temperature=0.7, top_p=0.95, seed=1)
    check_text(answer.choices[0].message.content)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def stream() -> None:
    chunks = list(create(stream=True, stream_options={"include_usage": True}))
    check_text("".join(c.choices[0].delta.content or "" for c in chunks if c.choices))
    assert chunks[-1].usage.completion_tokens > 0


def stream_helper() -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=messages, max_completion_tokens=TOKENS
    ) as events:
        check_text("".join(event.delta for event in events if event.type == "content.delta"))


def many_at_once() -> None:
    async def ask() -> None:
        asynchronous = openai.AsyncOpenAI(base_url=checks.V1, api_key=checks.KEY, max_retries=0)
        answers = await asyncio.gather(
            *(
                asynchronous.chat.completions.create(
                    model=MODEL, messages=messages, max_completion_tokens=16
                )
                for _ in range(8)
            )
        )
        for answer in answers:
            check_text(answer.choices[0].message.content)

    asyncio.run(ask())


def tools() -> None:
    """The call, and the message that has it sent back as `model_dump` writes it."""
    message = create(tools=[TOOL], tool_choice="required", max_completion_tokens=200).choices[0]
    assert message.finish_reason == "tool_calls", message.finish_reason
    (call, *_) = message.message.tool_calls
    checks.check_arguments(call.function.arguments)
    result = checks.weather(**json.loads(call.function.arguments))
    turns = [
        *messages,
        message.message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": result},
    ]
    check_text(create(messages=turns, tools=[TOOL]).choices[0].message.content)


def tools_streamed() -> None:
    name = arguments = ""
    for chunk in create(
        tools=[TOOL], tool_choice="required", max_completion_tokens=200, stream=True
    ):
        for part in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            if part.index == 0:
                name += part.function.name or ""
                arguments += part.function.arguments or ""
    assert name == "weather", name
    checks.check_arguments(arguments)


def tools_cut_off() -> None:
    """A call that ran out of tokens shows no mark of its form, and can be sent back."""
    message = create(tools=[TOOL], tool_choice="required", max_completion_tokens=8).choices[0]
    assert message.finish_reason == "length", message.finish_reason
    assert "<tool" not in (message.message.content or ""), message.message.content
    turns = [*messages, message.message.model_dump(), *messages]
    create(messages=turns)


def structured_output() -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=messages, response_format=Person, max_completion_tokens=300
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


def json_object() -> None:
    answer = create(response_format={"type": "json_object"}, max_completion_tokens=300).choices[0]
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)


def logprobs() -> None:
    choice = create(logprobs=True, top_logprobs=3, max_completion_tokens=8).choices[0]
    assert len(choice.logprobs.content) >= 1
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob <= 0


def several_answers() -> None:
    assert [c.index for c in create(n=2, max_completion_tokens=8, stop=["\n\n"]).choices] == [0, 1]


def fields_without_effect() -> None:
    create(store=False, metadata={"a": "b"}, service_tier="auto", user="me", prompt_cache_key="k",
           safety_identifier="s", max_completion_tokens=4)  # fmt: skip


def reasoning_effort() -> None:
    create(reasoning_effort="low", max_completion_tokens=16)


def completions() -> None:
    answer = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=8, logprobs=2)
    check_text(answer.choices[0].text)
    assert len(answer.choices[0].logprobs.top_logprobs[0]) == 2


def completions_echo() -> None:
    """A prompt's own logprobs: what multiple choice is scored by."""
    answer = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=1, logprobs=1, echo=True, temperature=0
    )
    found = answer.choices[0].logprobs
    assert answer.choices[0].text.startswith("Once upon a time")
    assert found.token_logprobs[0] is None
    assert all(value <= 0 for value in found.token_logprobs[1:])


def embeddings() -> None:
    answer = client.embeddings.create(model=MODEL, input=["one", "two"])
    for entry in answer.data:
        checks.check_vector(entry.embedding)


def errors() -> None:
    """Each is the library's own class, and a picture is refused by name."""
    for expected, fields in (
        (openai.NotFoundError, {"model": "no such model"}),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": "word " * 100_000}]}),
        (openai.BadRequestError, {"temperature": -1}),
    ):
        try:
            create(**fields)
        except expected:
            continue
        raise AssertionError(f"{expected.__name__} was not raised")


def responses() -> None:
    answer = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=TOKENS)
    check_text(answer.output_text)
    again = client.responses.create(
        model=MODEL, input="And now?", previous_response_id=answer.id, max_output_tokens=16
    )
    assert again.usage.input_tokens > answer.usage.input_tokens


def responses_streamed() -> None:
    with client.responses.stream(model=MODEL, input=QUESTION, max_output_tokens=TOKENS) as stream:
        events = list(stream)
    check_text("".join(e.delta for e in events if e.type == "response.output_text.delta"))
    assert events[0].type == "response.created", events[0].type
    assert events[-1].type in ("response.completed", "response.incomplete"), events[-1].type


def responses_tools() -> None:
    function = {"type": "function", "strict": True, **TOOL["function"]}
    answer = client.responses.create(
        model=MODEL, input=QUESTION, tools=[function], tool_choice="required", max_output_tokens=200
    )
    (call, *_) = [item for item in answer.output if item.type == "function_call"]
    checks.check_arguments(call.arguments)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    turns = [*messages, *answer.output, output]
    check_text(
        client.responses.create(
            model=MODEL, input=turns, tools=[function], tool_choice="none", max_output_tokens=16
        ).output_text
    )


def responses_structured() -> None:
    answer = client.responses.parse(
        model=MODEL, input=QUESTION, text_format=Person, max_output_tokens=300
    )
    assert isinstance(answer.output_parsed, Person)


def files_and_batches() -> None:
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": MODEL, "messages": messages, "max_tokens": 8},
    }
    data = io.BytesIO(json.dumps(line).encode())
    given = client.files.create(file=("lines.jsonl", data), purpose="batch")
    batch = client.batches.create(
        input_file_id=given.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    deadline = time.monotonic() + 60
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert time.monotonic() < deadline, f"still {batch.status} after a minute"
        time.sleep(0.5)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed", batch.status
    (answer,) = client.files.content(batch.output_file_id).text.splitlines()
    check_text(json.loads(answer)["response"]["body"]["choices"][0]["message"]["content"])


if __name__ == "__main__":
    checks.run(
        "openai", models, chat, stream, stream_helper, many_at_once, tools, tools_streamed,
        tools_cut_off, structured_output, json_object, logprobs, several_answers,
        fields_without_effect, reasoning_effort, completions, completions_echo, embeddings, errors,
        responses, responses_streamed, responses_tools, responses_structured, files_and_batches,
    )  # fmt: skip
