"""From the engine's completions and deltas to OpenAI's JSON, chat and text, whole and streamed."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import tuneserve
from tuneserve.llama import LlamaModel
from tuneserve.serve.api.errors import ApiError, to_json
from tuneserve.serve.api.logprobs import TextOffsets, chat_logprobs, text_logprobs
from tuneserve.serve.api.prepare import AnswerReader, Turn
from tuneserve.serve.api.replies import AnswerCall, AnswerMessage, ChatChoice, TextChoice, Usage
from tuneserve.serve.chat.parts import (
    CallArguments,
    CallBegin,
    Content,
    Part,
    Reasoning,
    ToolCall,
    calls_of,
)
from tuneserve.serve.engine import Completion, Delta, TokenLogprob

DONE = b"data: [DONE]\n\n"
SYSTEM_FINGERPRINT = f"build-{tuneserve.__version__}"
"""Answers of one seed can be compared while this stays the same."""


class Writer(ABC):
    """Writes the answers to one request in the form of an API."""

    ping: ClassVar[bytes] = b": still working\n\n"
    """What says that the connection lives while there is nothing to write: a comment, which every
    reader of server-sent events leaves out."""

    @abstractmethod
    def whole(self, completions: Sequence[Completion]) -> bytes:
        """The answer in one piece."""

    def first(self, index: int) -> bytes:
        """Events that open the stream of a choice."""
        return b""

    @abstractmethod
    def delta(self, index: int, delta: Delta) -> bytes:
        """The event of what one step added; b'' if there is nothing to show."""

    @abstractmethod
    def last(self, index: int, completion: Completion) -> bytes:
        """The event that ends a choice."""

    @abstractmethod
    def end(self, completions: Sequence[Completion], *, include_usage: bool) -> bytes:
        """What ends the stream; with the token counts of all choices if they were asked for."""

    @abstractmethod
    def failure(self, error: ApiError) -> bytes:
        """The event that tells why a stream ends too early."""


class CompletionWriter(Writer):
    """OpenAI's completions, `choices` to each prompt of the request. `logprobs`: an answer in one
    piece has log probabilities, also one without any token."""

    kind: ClassVar[str]
    kind_of_event: ClassVar[str]
    id_prefix: ClassVar[str]

    def __init__(
        self, model_name: str, model: LlamaModel, *, choices: int, logprobs: bool = False
    ) -> None:
        self.choices = choices
        self._logprobs = logprobs
        self._id = f"{self.id_prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._name = model_name
        self._model = model

    def whole(self, completions: Sequence[Completion]) -> bytes:
        choices = [self._choice(index, one) for index, one in enumerate(completions)]
        return to_json(self._body(self.kind, choices, usage=usage_of(completions, self.choices)))

    def end(self, completions: Sequence[Completion], *, include_usage: bool) -> bytes:
        usage = usage_of(completions, self.choices)
        return (self._chunk([], usage=usage) if include_usage else b"") + DONE

    def failure(self, error: ApiError) -> bytes:
        return event(error.body)

    @abstractmethod
    def _choice(self, index: int, completion: Completion) -> ChatChoice | TextChoice:
        """One of the answers in one piece."""

    def _chunk(self, choices: Sequence[Mapping[str, Any]], **usage: Usage) -> bytes:
        return event(self._body(self.kind_of_event, choices, **usage))

    def _body(
        self, kind: str, choices: Sequence[Mapping[str, Any]], **usage: Usage
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._name,
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "choices": choices,
            **usage,
        }


class ChatWriter(CompletionWriter):
    """chat.completion and chat.completion.chunk."""

    kind = "chat.completion"
    kind_of_event = "chat.completion.chunk"
    id_prefix = "chatcmpl"

    def __init__(
        self,
        model_name: str,
        model: LlamaModel,
        turn: Turn,
        *,
        choices: int,
        logprobs: bool = False,
    ) -> None:
        super().__init__(model_name, model, choices=choices, logprobs=logprobs)
        self._turn = turn
        self._streams = [_ChoiceStream(turn.reader()) for _ in range(choices)]
        self._frames = [self._frame(index) for index in range(choices)]

    def _frame(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and after the text in an event that has nothing else: making each
        anew would be most of what streaming costs."""
        mark = "\0"
        before, _, after = self._event(index, {"content": mark}).partition(to_json(mark))
        return before, after

    def _choice(self, index: int, completion: Completion) -> ChatChoice:
        reader = self._turn.reader()
        parts = [*reader.feed(completion.text), *_rest(reader, completion)]
        content = "".join(part.text for part in parts if isinstance(part, Content))
        thoughts = "".join(part.text for part in parts if isinstance(part, Reasoning))
        calls = calls_of(parts)
        if calls:
            content = content.strip()
        message: AnswerMessage = {
            "role": "assistant",
            "content": content or (None if calls else ""),
            "refusal": None,
        }
        if thoughts:
            message["reasoning_content"] = thoughts
        if calls:
            message["tool_calls"] = [_answer_call(call) for call in calls]
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(self._model, completion.logprobs) if self._logprobs else None,
            "finish_reason": finish_reason(completion, called=bool(calls) and not reader.in_call),
        }

    def first(self, index: int) -> bytes:
        return self._event(index, {"role": "assistant", "content": ""})

    def delta(self, index: int, delta: Delta) -> bytes:
        stream = self._streams[index]
        stream.logprobs += delta.logprobs
        if not stream.reader.plain:
            return self._parts(index, stream.reader.feed(delta.text))
        if stream.logprobs:
            return self._parts(index, [Content(delta.text)] if delta.text else [])
        if not delta.text:
            return b""
        before, after = self._frames[index]
        return before + to_json(delta.text) + after

    def last(self, index: int, completion: Completion) -> bytes:
        stream = self._streams[index]
        rest = self._parts(index, _rest(stream.reader, completion))
        called = stream.calls > 0 and not stream.reader.in_call
        reason = finish_reason(completion, called=called)
        return rest + self._event(index, {}, finish_reason=reason)

    def _parts(self, index: int, parts: Sequence[Part]) -> bytes:
        """An event for each part; the log probabilities so far go with the first."""
        stream = self._streams[index]
        deltas = [self._delta(part, stream) for part in parts]
        if not deltas and stream.logprobs:
            deltas = [{"content": ""}]
        events = []
        for delta in deltas:
            events.append(self._event(index, delta, logprobs=stream.logprobs))
            stream.logprobs = ()
        return b"".join(events)

    def _delta(self, part: Part, stream: _ChoiceStream) -> dict[str, Any]:
        match part:
            case Content(text):
                return {"content": text}
            case Reasoning(text):
                return {"reasoning_content": text}
            case CallBegin():
                stream.calls += 1
                call = _answer_call(ToolCall(part.id, part.name, ""))
                return {"tool_calls": [{"index": stream.calls - 1, **call}]}
            case CallArguments(text):
                more = {"index": stream.calls - 1, "function": {"arguments": text}}
                return {"tool_calls": [more]}

    def _event(
        self,
        index: int,
        delta: Mapping[str, Any],
        *,
        logprobs: Sequence[TokenLogprob] = (),
        finish_reason: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": chat_logprobs(self._model, logprobs) if logprobs else None,
            "finish_reason": finish_reason,
        }
        return self._chunk([choice])


@dataclass
class _ChoiceStream:
    """How far a streamed choice is."""

    reader: AnswerReader
    calls: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


def _rest(reader: AnswerReader, completion: Completion) -> list[Part]:
    return reader.finish(cut=completion.was_cut, stop=completion.stopped_by)


def _answer_call(call: ToolCall) -> AnswerCall:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def finish_reason(completion: Completion, *, called: bool) -> str:
    """OpenAI says 'tool_calls' where the model ended by calling tools. A stop string within the
    arguments has ended no call."""
    ended = completion.finish_reason
    return "tool_calls" if called and ended == "stop" else ended


class TextWriter(CompletionWriter):
    """text_completion, whole and as the events of a stream."""

    kind = kind_of_event = "text_completion"
    id_prefix = "cmpl"

    def __init__(
        self, model_name: str, model: LlamaModel, *, choices: int, logprobs: bool = False
    ) -> None:
        super().__init__(model_name, model, choices=choices, logprobs=logprobs)
        self._offsets: defaultdict[int, TextOffsets] = defaultdict(TextOffsets)

    def _choice(self, index: int, completion: Completion) -> TextChoice:
        told = completion.logprobs if self._logprobs else None
        return self._piece(index, completion.text, told, completion.finish_reason)

    def delta(self, index: int, delta: Delta) -> bytes:
        if not delta.text and not delta.logprobs:
            return b""
        return self._chunk([self._piece(index, delta.text, delta.logprobs or None, None)])

    def last(self, index: int, completion: Completion) -> bytes:
        return self._chunk([self._piece(index, "", None, completion.finish_reason)])

    def _piece(
        self,
        index: int,
        text: str,
        logprobs: Sequence[TokenLogprob] | None,
        finish_reason: str | None,
    ) -> TextChoice:
        told = None
        if logprobs is not None:
            told = text_logprobs(self._model, logprobs, self._offsets[index])
        return {
            "index": index,
            "text": text,
            "logprobs": told,
            "finish_reason": finish_reason,
        }


def usage_of(completions: Sequence[Completion], choices: int) -> Usage:
    """Token counts of a request; a prompt counts once, however many `choices` it has."""
    prompt = sum(one.prompt_tokens for one in completions[::choices])
    answer = sum(len(one.tokens) for one in completions)
    cached = sum(one.cached_tokens for one in completions[::choices])
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def event(value: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"
