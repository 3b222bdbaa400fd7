"""From a request of the Responses API to the chat request that means the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuneserve.serve.api.openai_responses.items import (
    FunctionCall,
    FunctionCallOutput,
    InputItem,
    Message,
    ReasoningItem,
    called_name,
)
from tuneserve.serve.api.openai_responses.protocol import (
    AllowedTools,
    CountRequest,
    FunctionChoice,
    FunctionTool,
    ResponsesRequest,
    ToolChoice,
)
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.api.translated import chat_request

NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "parameters": "parameters",
}
BETWEEN_TEXTS = "\n\n"


def as_chat(body: CountRequest, items: Sequence[InputItem]) -> ChatRequest:
    """`items`: the conversation so far and the request's input, without references. Raises
    RequestValidationError."""
    effort = body.reasoning.effort if body.reasoning else None
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": _messages(body.instructions, items),
        "tools": [_tool(*function) for function in body.functions] or None,
        "tool_choice": _choice(body.tool_choice),
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _format(body),
        "reasoning_effort": effort,
    }
    if isinstance(body, ResponsesRequest):
        fields |= {
            "max_completion_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "logprobs": body.logprobs or None,
            "top_logprobs": body.top_logprobs if body.logprobs else None,
            "stream": body.stream,
        }
    return chat_request(fields, NAMES)


def role_of(item: InputItem) -> str:
    """Whose turn an item is, or belongs to."""
    if isinstance(item, Message):
        return item.role
    return "tool" if isinstance(item, FunctionCallOutput) else "assistant"


def _messages(instructions: str | None, items: Sequence[InputItem]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    if instructions:
        turns.append({"role": "system", "content": instructions})
    for item in items:
        match item:
            case Message(role="system" | "developer") if len(turns) == 1 and instructions:
                # Many templates take one system message, at the beginning.
                turns[0]["content"] += BETWEEN_TEXTS + item.text
                instructions = None
            case Message(role="assistant"):
                _add(_assistant(turns), "content", item.text)
            case Message():
                turns.append({"role": item.role, "content": item.text})
            case ReasoningItem():
                if item.text:
                    _add(_assistant(turns), "reasoning_content", item.text)
            case FunctionCall():
                _assistant(turns).setdefault("tool_calls", []).append(_call(item))
            case FunctionCallOutput():
                turns.append({"role": "tool", "tool_call_id": item.call_id, "content": item.text})
    for turn in turns:
        if not turn.get("tool_calls"):
            turn.setdefault("content", "")
    return turns


def _assistant(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The turn that items of the assistant's belong to: those that follow each other are one."""
    if not turns or turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant"})
    return turns[-1]


def _add(turn: dict[str, Any], key: str, text: str) -> None:
    turn[key] = turn[key] + BETWEEN_TEXTS + text if turn.get(key) else text


def _call(item: FunctionCall) -> dict[str, Any]:
    called = {"name": called_name(item.namespace, item.name), "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": called}


def _choice(choice: ToolChoice | None) -> Any:
    """The choice among tools as chat requests have it."""
    match choice:
        case FunctionChoice():
            return _named(choice)
        case AllowedTools(mode=mode, tools=tools):
            allowed = {"mode": mode, "tools": [_named(tool) for tool in tools]}
            return {"type": "allowed_tools", "allowed_tools": allowed}
    return choice


def _named(choice: FunctionChoice) -> dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}}


def _tool(namespace: str | None, tool: FunctionTool) -> dict[str, Any]:
    function = tool.model_dump(include={"description", "parameters", "strict"}, exclude_none=True)
    function["name"] = called_name(namespace, tool.name)
    return {"type": "function", "function": function}


def _format(body: CountRequest) -> dict[str, Any] | None:
    given = body.text.format if body.text else None
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"schema": given.schema_}}
