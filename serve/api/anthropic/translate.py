"""From a request of the Messages API to the chat request that means the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tuneserve.serve.api.anthropic.protocol import (
    CountRequest,
    Message,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from tuneserve.serve.api.errors import ApiError
from tuneserve.serve.api.protocol import ChatRequest
from tuneserve.serve.api.translated import chat_request

NAMES = {
    "stop": "stop_sequences",
    "max_completion_tokens": "max_tokens",
    "response_format": "output_config.format",
    "reasoning_budget": "thinking.budget_tokens",
    "reasoning_effort": "thinking",
    "parameters": "input_schema",
}
BETWEEN_BLOCKS = "\n\n"
_BILLING = re.compile(r"x-anthropic-billing-header:(?:[^;\n]*=[^;\n]*;)*\s*")
"""What Claude Code writes before its system prompt: no text for a model, and other in each request,
so that no prefix would be found again."""


def as_chat(body: CountRequest, *, thinks: bool) -> ChatRequest:
    """`thinks`: the model can have thoughts; what a request says of them is left out otherwise.
    Raises RequestValidationError, and ApiError for a thread."""
    if body.thread is not None:
        raise ApiError(
            400,
            "Threads are not held here; send all messages.",
            code="thread_unsupported_request",
            param="thread",
        )
    fields: dict[str, Any] = {
        "model": body.model,
        "messages": _messages(body),
        "tools": [_tool(tool.model_dump(exclude_none=True)) for tool in body.tools or ()] or None,
        "response_format": _format(body),
        **_choice(body.tool_choice),
    }
    if thinks:
        fields |= _thinking(body)
    if isinstance(body, MessagesRequest):
        fields |= {
            "max_completion_tokens": body.max_tokens,
            "stop": body.stop_sequences,
            "stream": body.stream,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
        }
    return chat_request(fields, NAMES)


def _thinking(body: CountRequest) -> dict[str, Any]:
    """How long to think: a budget, or else the effort in words."""
    if body.thinking is not None and body.thinking.type == "disabled":
        return {"reasoning_effort": "none"}
    if body.thinking is not None and body.thinking.budget_tokens is not None:
        return {"reasoning_budget": body.thinking.budget_tokens}
    effort = body.output_config.effort if body.output_config else None
    return {"reasoning_effort": effort}


def ignored_of(body: CountRequest, *, thinks: bool) -> list[str]:
    """What a request has that changes nothing; a model that has no thoughts thinks no less."""
    ignored = body.ignored
    if not thinks and body.thinking is not None and body.thinking.type != "disabled":
        ignored.append("thinking")
    if not thinks and body.output_config is not None and body.output_config.effort is not None:
        ignored.append("output_config.effort")
    return ignored


def _messages(body: CountRequest) -> list[dict[str, Any]]:
    system = BETWEEN_BLOCKS.join(filter(None, map(_system_text, body.system or ())))
    turns = [{"role": "system", "content": system}] if system else []
    for message in body.messages:
        for turn in _turns(message):
            last = turns[-1] if turns else {}
            if turn["role"] == last.get("role") == "user":
                # Anthropic's API takes turns of one role after each other as one.
                last["content"] += BETWEEN_BLOCKS + turn["content"]
            else:
                turns.append(turn)
    return turns


def _system_text(block: TextBlock) -> str:
    return _BILLING.sub("", block.text, count=1) if block.text.startswith("x-anth") else block.text


def _turns(message: Message) -> Iterator[dict[str, Any]]:
    """The turns of a message: results of tools have their own."""
    if message.role == "assistant":
        yield _assistant(message)
        return
    texts: list[str] = []
    for block in message.content:
        match block:
            case TextBlock(text=text):
                texts.append(text)
            case ToolResultBlock():
                if texts:
                    yield {"role": "user", "content": BETWEEN_BLOCKS.join(texts)}
                    texts = []
                yield _result(block)
    if texts or not message.content:
        yield {"role": message.role, "content": BETWEEN_BLOCKS.join(texts)}


def _result(block: ToolResultBlock) -> dict[str, Any]:
    text = BETWEEN_BLOCKS.join(part.text for part in block.content or ())
    # Templates have no place for the mark of an error.
    content = f"Error: {text}" if block.is_error else text
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}


def _assistant(message: Message) -> dict[str, Any]:
    texts = [block.text for block in message.content if isinstance(block, TextBlock)]
    thoughts = [block.thinking for block in message.content if isinstance(block, ThinkingBlock)]
    calls = [_call(block) for block in message.content if isinstance(block, ToolUseBlock)]
    turn: dict[str, Any] = {"role": "assistant", "content": BETWEEN_BLOCKS.join(texts)}
    if any(thoughts):
        turn["reasoning_content"] = BETWEEN_BLOCKS.join(thoughts)
    if calls:
        turn["tool_calls"] = calls
    return turn


def _call(block: ToolUseBlock) -> dict[str, Any]:
    arguments = json.dumps(block.input, ensure_ascii=False)
    called = {"name": block.name, "arguments": arguments}
    return {"id": block.id, "type": "function", "function": called}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    function |= {key: tool[key] for key in ("description", "strict") if key in tool}
    return {"type": "function", "function": function}


def _format(body: CountRequest) -> dict[str, Any] | None:
    schema = body.schema_of_answer
    return None if schema is None else {"type": "json_schema", "json_schema": {"schema": schema}}


def _choice(choice: ToolChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    named = {"type": "function", "function": {"name": choice.name}}
    kinds: dict[str, Any] = {"any": "required", "tool": named}
    parallel = False if choice.disable_parallel_tool_use else None
    return {"tool_choice": kinds.get(choice.type, choice.type), "parallel_tool_calls": parallel}
