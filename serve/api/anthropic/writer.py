"""From the engine's completions and deltas to a message of Anthropic's, whole and streamed."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from tuneserve.llama import LlamaModel
from tuneserve.serve.api.anthropic.errors import error_body
from tuneserve.serve.api.anthropic.protocol import AnsweredMessage, MessageUsage
from tuneserve.serve.api.blocks import Begun, Block, BlockReader, Ended, Grown, Step, deltas_of
from tuneserve.serve.api.errors import ApiError, to_json
from tuneserve.serve.api.messages import whole_arguments
from tuneserve.serve.api.prepare import Turn
from tuneserve.serve.api.writers import Writer
from tuneserve.serve.engine import Completion, Delta

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "cancelled": "end_turn"}
_DELTAS = {
    "thoughts": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "call": ("input_json_delta", "partial_json"),
}


class MessageWriter(Writer):
    """A message and the events of its stream. Has one choice."""

    ping = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(
        self, name: str, model: LlamaModel, turn: Turn, *, show_thoughts: bool = True
    ) -> None:
        self._id = f"msg_{secrets.token_hex(12)}"
        self._name = name
        self._model = model
        self._turn = turn
        self._show_thoughts = show_thoughts
        self._reader = BlockReader(turn, model)

    def whole(self, completions: Sequence[Completion]) -> bytes:
        [completion] = completions
        for delta in deltas_of(completion, self._model, self._turn.sampling):
            self._reader.feed(delta)
        self._reader.finish(completion)
        content = [self._content(block) for block in self._reader.blocks]
        return to_json(self._message(content, completion))

    def first(self, index: int) -> bytes:
        return _event("message_start", message=self._message([], None)) + self.ping

    def delta(self, index: int, delta: Delta) -> bytes:
        return b"".join(map(self._written, self._reader.feed(delta)))

    def last(self, index: int, completion: Completion) -> bytes:
        steps = self._reader.finish(completion)
        reason, stop = self._why(completion)
        return b"".join(map(self._written, steps)) + _event(
            "message_delta",
            delta={"stop_reason": reason, "stop_sequence": stop},
            usage=self._usage(completion),
        )

    def end(self, completions: Sequence[Completion], *, include_usage: bool) -> bytes:
        return _event("message_stop")

    def failure(self, error: ApiError) -> bytes:
        body = error_body(error.status_code, error.body["error"], None)
        return b"event: error\ndata: " + to_json(body) + b"\n\n"

    def _message(
        self, content: list[dict[str, Any]], completion: Completion | None
    ) -> AnsweredMessage:
        """The message; without a completion, as it begins."""
        reason, stop = self._why(completion) if completion else (None, None)
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._name,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": self._usage(completion),
        }

    def _why(self, completion: Completion) -> tuple[str, str | None]:
        if completion.stopped_by is not None:
            return "stop_sequence", completion.stopped_by
        if completion.finish_reason == "stop" and self._reader.called:
            return "tool_use", None
        return STOP_REASONS[completion.finish_reason], None

    def _usage(self, completion: Completion | None) -> MessageUsage:
        cached = completion.cached_tokens if completion else 0
        usage: MessageUsage = {
            "input_tokens": len(self._turn.prompt) - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": len(completion.tokens) if completion else 0,
        }
        if completion and self._reader.thought_tokens:
            usage["output_tokens_details"] = {"thinking_tokens": self._reader.thought_tokens}
        return usage

    def _written(self, step: Step) -> bytes:
        match step:
            case Begun(block):
                begun = self._content(block, begun=True)
                return _event("content_block_start", index=block.index, content_block=begun)
            case Grown(block, text):
                if block.kind == "thoughts" and not self._show_thoughts:
                    return b""
                kind, key = _DELTAS[block.kind]
                delta = {"type": kind, key: text}
                return _event("content_block_delta", index=block.index, delta=delta)
            case Ended(block):
                end = _event("content_block_stop", index=block.index)
                if block.kind != "thoughts":
                    return end
                delta = {"type": "signature_delta", "signature": _signature(block.text)}
                return _event("content_block_delta", index=block.index, delta=delta) + end

    def _content(self, block: Block, *, begun: bool = False) -> dict[str, Any]:
        """The block as a message has it; `begun`: as its stream opens it."""
        text = "" if begun else block.text
        match block.kind:
            case "thoughts":
                shown = text if self._show_thoughts else ""
                signature = "" if begun else _signature(text)
                return {"type": "thinking", "thinking": shown, "signature": signature}
            case "text":
                return {"type": "text", "text": text}
            case "call":
                called = _input(text)
                identity = block.id.replace("call_", "toolu_", 1)
                return {"type": "tool_use", "id": identity, "name": block.name, "input": called}


def _input(arguments: str) -> dict[str, Any]:
    """The arguments of a call; those that are no JSON under the key that Anthropic's documentation
    has for them."""
    try:
        called: dict[str, Any] = json.loads(whole_arguments(arguments))
    except ValueError:
        return {"INVALID_JSON": arguments}
    return called


def _signature(thoughts: str) -> str:
    """Clients drop thoughts without a signature instead of sending them back. This is a checksum;
    nothing checks it."""
    return hashlib.sha256(thoughts.encode("utf-8", "replace")).hexdigest()


def _event(kind: str, **fields: Any) -> bytes:
    value: Mapping[str, Any] = {"type": kind, **fields}
    return b"event: " + kind.encode() + b"\ndata: " + to_json(value) + b"\n\n"
