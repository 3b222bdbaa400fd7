"""From the engine's completions and deltas to a response of OpenAI's, whole and streamed.

The order of a stream's events is OpenAI's: response.created and in_progress; for each item its
output_item.added, what it consists of, output_item.done; then response.completed, incomplete or
failed. Each has the next sequence_number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tuneserve.llama import LlamaModel
from tuneserve.serve.api.blocks import Begun, Block, BlockReader, Ended, Grown, Step, deltas_of
from tuneserve.serve.api.errors import ApiError, to_json
from tuneserve.serve.api.logprobs import chat_logprobs
from tuneserve.serve.api.openai_responses.answers import ResponseObject, ResponseUsage
from tuneserve.serve.api.openai_responses.items import called_name
from tuneserve.serve.api.openai_responses.protocol import (
    FunctionTool,
    NamespaceTool,
    ResponsesRequest,
)
from tuneserve.serve.api.prepare import Turn
from tuneserve.serve.api.replies import ChatTokenLogprob
from tuneserve.serve.api.writers import Writer
from tuneserve.serve.engine import Completion, Delta, TokenLogprob

ID_PREFIXES = {"thoughts": "rs", "text": "msg", "call": "fc"}


class ResponseWriter(Writer):
    """A response and the events of its stream. Has one choice. `on_done` gets the response at its
    end, unless it failed. `new_id` makes an id of a kind ('resp')."""

    def __init__(
        self,
        name: str,
        model: LlamaModel,
        turn: Turn,
        body: ResponsesRequest,
        on_done: Callable[[ResponseObject], None],
        new_id: Callable[[str], str],
    ) -> None:
        self._name = name
        self._model = model
        self._turn = turn
        self._body = body
        self._on_done = on_done
        self._new_id = new_id
        self._id = new_id("resp")
        self._created = int(time.time())
        self._reader = BlockReader(turn, model)
        self._ids: dict[int, str] = {}
        self._sequence = -1
        self._summarized = body.reasoning is not None and body.reasoning.summarized

    def whole(self, completions: Sequence[Completion]) -> bytes:
        [completion] = completions
        for delta in deltas_of(completion, self._model, self._turn.sampling):
            self._reader.feed(delta)
        self._reader.finish(completion)
        return to_json(self._done(completion))

    def first(self, index: int) -> bytes:
        begun = self._response("in_progress")
        return self._event("response.created", response=begun) + self._event(
            "response.in_progress", response=begun
        )

    def delta(self, index: int, delta: Delta) -> bytes:
        return b"".join(map(self._written, self._reader.feed(delta)))

    def last(self, index: int, completion: Completion) -> bytes:
        steps = self._reader.finish(completion)
        events = b"".join(map(self._written, steps))
        response = self._done(completion)
        return events + self._event(f"response.{response['status']}", response=response)

    def end(self, completions: Sequence[Completion], *, include_usage: bool) -> bytes:
        return b""

    def failure(self, error: ApiError) -> bytes:
        told = error.body["error"]
        response = self._response("failed")
        response["error"] = {"code": "server_error", "message": told["message"]}
        named = {key: told[key] for key in ("code", "message", "param")}
        return self._event("error", **named) + self._event("response.failed", response=response)

    def _done(self, completion: Completion) -> ResponseObject:
        cut = completion.finish_reason == "length"
        response = self._response("incomplete" if cut else "completed")
        response["usage"] = self._usage(completion)
        if cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            response["completed_at"] = int(time.time())
        self._on_done(response)
        return response

    def _usage(self, completion: Completion) -> ResponseUsage:
        answered = len(completion.tokens)
        return {
            "input_tokens": completion.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": completion.cached_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": self._reader.thought_tokens},
            "total_tokens": completion.prompt_tokens + answered,
        }

    def _response(
        self, status: Literal["in_progress", "completed", "incomplete", "failed"]
    ) -> ResponseObject:
        body, sampling = self._body, self._turn.sampling
        text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
        reasoning = body.reasoning.model_dump(exclude_none=True) if body.reasoning else {}
        blocks = [] if status == "in_progress" else self._reader.blocks
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": self._name,
            "output": [self._item(block) for block in blocks],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": None, "summary": None, **reasoning},
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": body.stores,
            "temperature": sampling.temperature,
            "text": {"format": {"type": "text"}, **text},
            "tool_choice": _choice(body),
            "tools": [_as_given(tool) for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
        }

    def _item(self, block: Block, *, begun: bool = False) -> dict[str, Any]:
        """The output item of a block; `begun`: as its stream opens it."""
        status = "in_progress" if begun else "incomplete" if block.cut else "completed"
        own = {"id": self._item_id(block), "status": status}
        match block.kind:
            case "text":
                content = [] if begun else [self._text_part(block)]
                return {**own, "type": "message", "role": "assistant", "content": content}
            case "thoughts":
                parts = [] if begun else [self._thoughts_part(block.text)]
                key = "summary" if self._summarized else "content"
                return {**own, "type": "reasoning", "summary": [], key: parts}
            case "call":
                arguments = "" if begun else block.text
                called = {"call_id": block.id, **self._function(block), "arguments": arguments}
                return {**own, "type": "function_call", **called}

    def _function(self, block: Block) -> dict[str, str]:
        """The function that a block calls: its name, and its namespace if it has one."""
        for namespace, tool in self._body.functions:
            if namespace is not None and called_name(namespace, tool.name) == block.name:
                return {"name": tool.name, "namespace": namespace}
        return {"name": block.name}

    def _item_id(self, block: Block) -> str:
        if block.index not in self._ids:
            self._ids[block.index] = self._new_id(ID_PREFIXES[block.kind])
        return self._ids[block.index]

    def _text_part(self, block: Block, *, begun: bool = False) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": "" if begun else block.text,
            "annotations": [],
            "logprobs": [] if begun else self._logprobs(block.logprobs),
        }

    def _thoughts_part(self, text: str) -> dict[str, Any]:
        return {"type": "summary_text" if self._summarized else "reasoning_text", "text": text}

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> list[ChatTokenLogprob]:
        found = chat_logprobs(self._model, tokens)
        return found["content"] if found else []

    def _written(self, step: Step) -> bytes:
        match step:
            case Begun(block):
                return self._begun(block)
            case Grown(block, text, logprobs):
                return self._grown(block, text, logprobs)
            case Ended(block):
                return self._ended(block)

    def _begun(self, block: Block) -> bytes:
        item = self._item(block, begun=True)
        added = self._event("response.output_item.added", output_index=block.index, item=item)
        match block.kind:
            case "text":
                part = self._text_part(block, begun=True)
                return added + self._of_part(block, "response.content_part.added", part=part)
            case "thoughts":
                name = "reasoning_summary_part" if self._summarized else "content_part"
                part = self._thoughts_part("")
                return added + self._of_part(block, f"response.{name}.added", part=part)
            case "call":
                return added

    def _grown(self, block: Block, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        match block.kind:
            case "text":
                told = self._logprobs(logprobs)
                kind = "response.output_text.delta"
                return self._of_part(block, kind, delta=text, logprobs=told)
            case "thoughts":
                return self._of_part(block, f"response.{self._thoughts_name}.delta", delta=text)
            case "call":
                kind = "response.function_call_arguments.delta"
                return self._of_item(block, kind, delta=text)

    def _ended(self, block: Block) -> bytes:
        text, item = block.text, self._item(block)
        match block.kind:
            case "text":
                told = self._logprobs(block.logprobs)
                events = self._of_part(
                    block, "response.output_text.done", text=text, logprobs=told
                ) + self._of_part(block, "response.content_part.done", part=self._text_part(block))
            case "thoughts":
                name = "reasoning_summary_part" if self._summarized else "content_part"
                part = self._thoughts_part(text)
                events = self._of_part(
                    block, f"response.{self._thoughts_name}.done", text=text
                ) + self._of_part(block, f"response.{name}.done", part=part)
            case "call":
                kind = "response.function_call_arguments.done"
                name = self._function(block)["name"]
                events = self._of_item(block, kind, name=name, arguments=text)
        done = self._event("response.output_item.done", output_index=block.index, item=item)
        return events + done

    @property
    def _thoughts_name(self) -> str:
        return "reasoning_summary_text" if self._summarized else "reasoning_text"

    def _of_item(self, block: Block, kind: str, **fields: Any) -> bytes:
        item = self._item_id(block)
        return self._event(kind, item_id=item, output_index=block.index, **fields)

    def _of_part(self, block: Block, kind: str, **fields: Any) -> bytes:
        """An event of the one part that the item of a block has."""
        summary = block.kind == "thoughts" and self._summarized
        place = {"summary_index" if summary else "content_index": 0}
        return self._of_item(block, kind, **place, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        value: Mapping[str, Any] = {"type": kind, "sequence_number": self._sequence, **fields}
        return b"event: " + kind.encode() + b"\ndata: " + to_json(value) + b"\n\n"


def _as_given(tool: FunctionTool | NamespaceTool) -> dict[str, Any]:
    given = tool.model_dump(exclude_none=True)
    return given if tool.type == "namespace" else {"parameters": None, "strict": None, **given}


def _choice(body: ResponsesRequest) -> Any:
    choice = body.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump(exclude_none=True)
