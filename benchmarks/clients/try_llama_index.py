"""llama-index: OpenAILike with chat, tools, structured prediction, an agent, embeddings."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import checks
from checks import MODEL, QUESTION, TOKENS, Person
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

messages = [ChatMessage(role="user", content=QUESTION)]


class Arguments(BaseModel):
    """The library reads no bounds from a function's own annotations."""

    city: str = Field(max_length=20)
    days: int = Field(ge=1, le=7)
    unit: Literal["celsius", "fahrenheit"]


tool: Any = FunctionTool.from_defaults(checks.weather, fn_schema=Arguments)


def _model(**fields: Any) -> Any:
    fields = {"max_tokens": TOKENS, "is_chat_model": True, **fields}
    return OpenAILike(
        model=MODEL, api_base=checks.V1, api_key=checks.KEY, context_window=4096,
        is_function_calling_model=True, max_retries=0, **fields,
    )  # fmt: skip


def chat() -> None:
    checks.check_text(_model(temperature=0.7).chat(messages).message.content)


def stream() -> None:
    checks.check_text("".join(part.delta or "" for part in _model().stream_chat(messages)))


def text_completion() -> None:
    checks.check_text(_model(is_chat_model=False, max_tokens=8).complete("Once upon").text)


def tools() -> None:
    """The call, and the library's own messages sent back."""
    model = _model(max_tokens=200)
    answer = model.chat_with_tools([tool], user_msg=QUESTION, tool_required=True)
    (call, *_) = model.get_tool_calls_from_response(answer)
    checks.check_arguments(call.tool_kwargs)
    result = ChatMessage(
        role="tool", content="sun", additional_kwargs={"tool_call_id": call.tool_id}
    )
    checks.check_text(_model().chat([*messages, answer.message, result]).message.content)


def structured_output() -> None:
    """By a tool that the model must call."""
    prompt = PromptTemplate("Describe somebody in {place}.")
    model = _model(max_tokens=300)
    assert isinstance(model.structured_predict(Person, prompt, place="Genoa"), Person)


def structured_by_schema() -> None:
    prompt = PromptTemplate("Describe somebody in {place}.")
    model = _model(max_tokens=300, should_use_structured_outputs=True)
    assert isinstance(model.structured_predict(Person, prompt, place="Genoa"), Person)


def agent() -> None:
    """A tool is offered; a small model need not call it, but the run must come to an end."""

    async def ask() -> Any:
        return await FunctionAgent(tools=[tool], llm=_model(max_tokens=200)).run(
            QUESTION, max_iterations=3
        )

    assert asyncio.run(ask()) is not None


def embeddings() -> None:
    embedder = OpenAILikeEmbedding(model_name=MODEL, api_base=checks.V1, api_key=checks.KEY)
    checks.check_vector(embedder.get_text_embedding("one"))


if __name__ == "__main__":
    checks.run(
        "llama-index-llms-openai-like", chat, stream, text_completion, tools, structured_output,
        structured_by_schema, agent, embeddings, name="llama-index",
    )  # fmt: skip
