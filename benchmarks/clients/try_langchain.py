"""langchain-openai: chat, tools, structured output by three methods, embeddings, responses."""

from __future__ import annotations

import json
from typing import Any

import checks
import openai
from checks import MODEL, QUESTION, TOKENS, Person
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

weather: Any = tool(parse_docstring=True)(checks.weather)


def model(**fields: Any) -> Any:
    fields = {"max_tokens": TOKENS, **fields}
    return ChatOpenAI(
        model=MODEL, base_url=checks.V1, api_key=checks.KEY, max_retries=0, timeout=120, **fields
    )


def chat() -> None:
    answer = model(temperature=0.7).invoke(QUESTION)
    checks.check_text(answer.content)
    assert answer.usage_metadata["output_tokens"] > 0


def stream() -> None:
    """With a base_url of one's own, usage is asked for by stream_usage alone."""
    chunks = list(model(stream_usage=True).stream(QUESTION))
    checks.check_text("".join(chunk.content for chunk in chunks))
    assert any(chunk.usage_metadata for chunk in chunks), "no usage"


def batch() -> None:
    for answer in model(max_tokens=8).batch([QUESTION] * 6):
        checks.check_text(answer.content)


def tools() -> None:
    """The call, and the library's own message sent back."""
    bound = model(max_tokens=200).bind_tools([weather], tool_choice="required")
    first = bound.invoke(QUESTION)
    assert first.tool_calls, f"no call but {first.content!r}"
    call = first.tool_calls[0]
    checks.check_arguments(call["args"])
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    turns = [HumanMessage(QUESTION), first, result]
    checks.check_text(model().bind_tools([weather], tool_choice="none").invoke(turns).content)


def _structured(method: str) -> None:
    answer = (
        model(max_tokens=300)
        .with_structured_output(Person, method=method)
        .invoke(f"{QUESTION} Answer as JSON.")
    )
    assert isinstance(answer, Person)


def structured_by_schema() -> None:
    _structured("json_schema")


def structured_by_tool() -> None:
    _structured("function_calling")


def json_mode() -> None:
    """JSON of any shape is asked for, so the answer may be longer than there are tokens."""
    bound = model(max_tokens=300).bind(response_format={"type": "json_object"})
    try:
        answer = bound.invoke(f"{QUESTION} Answer as JSON.")
    except openai.LengthFinishReasonError:
        return
    assert isinstance(json.loads(answer.content), dict)


def logprobs() -> None:
    answer = model(max_tokens=8).bind(logprobs=True, top_logprobs=2).invoke(QUESTION)
    assert len(answer.response_metadata["logprobs"]["content"]) >= 1


def reasoning_effort() -> None:
    checks.check_text(model(reasoning_effort="low").invoke(QUESTION).content)


def text_completion() -> None:
    completion = OpenAI(model=MODEL, base_url=checks.V1, api_key=checks.KEY, max_tokens=8)
    checks.check_text(completion.invoke("Once upon"))


def embeddings() -> None:
    """Without check_embedding_ctx_length=False the library sends tiktoken's ids, not text."""
    embedder = OpenAIEmbeddings(
        model=MODEL, base_url=checks.V1, api_key=checks.KEY, check_embedding_ctx_length=False
    )
    for vector in embedder.embed_documents(["one", "two"]):
        checks.check_vector(vector)


def responses() -> None:
    answer = model(use_responses_api=True).invoke(QUESTION)
    checks.check_text(answer.text)


if __name__ == "__main__":
    checks.run(
        "langchain-openai", chat, stream, batch, tools, structured_by_schema, structured_by_tool,
        json_mode, logprobs, reasoning_effort, text_completion, embeddings, responses,
    )  # fmt: skip
