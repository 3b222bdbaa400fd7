"""From the engine's completions and deltas to OpenAI's JSON, chat and text, whole and streamed."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

import tuneserve
from tuneserve.llama import LlamaModel
from tuneserve.serve.api.prepare import Turn
from tuneserve.serve.api.protocol import (
    AnswerCall,
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatTokenLogprob,
    FunctionCall,
    MoreArguments,
    MoreOfCall,
    PromptTokensDetails,
    TextChoice,
    TextCompletion,
    TextLogprobs,
    TopLogprob,
    Usage,
)
from tuneserve.serve.chat.answer_parser import (
    CallArguments,
    CallBegin,
    Content,
    Part,
    PartReader,
    Reasoning,
    calls_of,
)
from tuneserve.serve.chat.tools import ToolCall
from tuneserve.serve.engine import Completion, Delta, TokenLogprob

DONE = b"data: [DONE]\n\n"
SYSTEM_FINGERPRINT = f"build-{tuneserve.__version__}"
"""Answers of one seed can be compared while this stays the same."""


class Writer(Protocol):
    """Writes the answers to one request."""

    def whole(self, completions: Sequence[Completion]) -> bytes:
        """The answer in one piece."""

    def first(self, index: int) -> bytes:
        """Events that open the stream of a choice."""

    def delta(self, index: int, delta: Delta) -> bytes:
        """The event of what one step added; b'' if there is nothing to show."""

    def last(self, index: int, completion: Completion) -> bytes:
        """The event that ends a choice."""

    def usage(self, completions: Sequence[Completion]) -> bytes:
        """The event with the token counts of all choices."""


class ChatWriter:
    """chat.completion and chat.completion.chunk."""

    def __init__(self, model_name: str, model: LlamaModel, turn: Turn, *, choices: int) -> None:
        self._choices = choices
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._name = model_name
        self._model = model
        self._turn = turn
        self._streams = [_ChoiceStream(turn.reader()) for _ in range(choices)]
        self._frames = [self._frame(index) for index in range(choices)]

    def _frame(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and after the text in an event that has nothing else: making each
        anew would be most of what streaming costs."""
        mark = "\0"
        before, _, after = self._event(index, ChatDelta(content=mark)).partition(to_json_text(mark))
        return before, after

    def whole(self, completions: Sequence[Completion]) -> bytes:
        choices = [self._choice(index, one) for index, one in enumerate(completions)]
        return to_json(
            ChatCompletion(
                id=self._id,
                object="chat.completion",
                created=self._created,
                model=self._name,
                system_fingerprint=SYSTEM_FINGERPRINT,
                choices=choices,
                usage=usage_of(completions, self._choices),
            )
        )

    def _choice(self, index: int, completion: Completion) -> ChatChoice:
        reader = self._turn.reader()
        parts = [*reader.feed(completion.text), *reader.finish()]
        content = "".join(part.text for part in parts if isinstance(part, Content))
        thoughts = "".join(part.text for part in parts if isinstance(part, Reasoning))
        calls = calls_of(parts)
        fields: dict[str, Any] = {}
        if thoughts:
            fields["reasoning_content"] = thoughts
        if calls:
            fields["tool_calls"] = [_answer_call(call) for call in calls]
            content = content.strip()
        return ChatChoice(
            index=index,
            message=AnswerMessage(
                role="assistant",
                content=content or (None if calls else ""),
                refusal=None,
                **fields,
            ),
            logprobs=self._logprobs(completion.logprobs),
            finish_reason=finish_reason(completion, called=bool(calls)),
        )

    def first(self, index: int) -> bytes:
        return self._event(index, ChatDelta(role="assistant", content=""))

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
        return before + to_json_text(delta.text) + after

    def last(self, index: int, completion: Completion) -> bytes:
        stream = self._streams[index]
        rest = self._parts(index, stream.reader.finish())
        reason = finish_reason(completion, called=stream.calls > 0)
        return rest + self._event(index, ChatDelta(), finish_reason=reason)

    def _parts(self, index: int, parts: Sequence[Part]) -> bytes:
        """An event for each part; the log probabilities so far go with the first."""
        stream = self._streams[index]
        deltas = [self._delta(part, stream) for part in parts]
        if not deltas and stream.logprobs:
            deltas = [ChatDelta(content="")]
        events = []
        for delta in deltas:
            events.append(self._event(index, delta, logprobs=stream.logprobs))
            stream.logprobs = ()
        return b"".join(events)

    def _delta(self, part: Part, stream: _ChoiceStream) -> ChatDelta:
        match part:
            case Content(text):
                return ChatDelta(content=text)
            case Reasoning(text):
                return ChatDelta(reasoning_content=text)
            case CallBegin():
                stream.calls += 1
                call = ToolCall(part.id, part.name, "")
                return ChatDelta(tool_calls=[_answer_call(call, index=stream.calls - 1)])
            case CallArguments(text):
                more = MoreOfCall(index=stream.calls - 1, function=MoreArguments(arguments=text))
                return ChatDelta(tool_calls=[more])

    def usage(self, completions: Sequence[Completion]) -> bytes:
        return event(self._chunk([], usage=usage_of(completions, self._choices)))

    def _event(
        self,
        index: int,
        delta: ChatDelta,
        *,
        logprobs: Sequence[TokenLogprob] = (),
        finish_reason: str | None = None,
    ) -> bytes:
        choice = ChatChunkChoice(
            index=index,
            delta=delta,
            logprobs=self._logprobs(logprobs),
            finish_reason=finish_reason,
        )
        return event(self._chunk([choice]))

    def _chunk(self, choices: list[ChatChunkChoice], **usage: Usage) -> ChatChunk:
        return ChatChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._name,
            system_fingerprint=SYSTEM_FINGERPRINT,
            choices=choices,
            **usage,
        )

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        if not tokens:
            return None
        return ChatLogprobs(
            content=[
                ChatTokenLogprob(
                    token=self._text(one.token),
                    logprob=one.logprob,
                    bytes=list(self._model.token_bytes(one.token)),
                    top_logprobs=[
                        TopLogprob(
                            token=self._text(token),
                            logprob=logprob,
                            bytes=list(self._model.token_bytes(token)),
                        )
                        for token, logprob in one.top
                    ],
                )
                for one in tokens
            ]
        )

    def _text(self, token: int) -> str:
        return token_text(self._model, token)


@dataclass
class _ChoiceStream:
    """How far a streamed choice is."""

    reader: PartReader
    calls: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


def _answer_call(call: ToolCall, **index: int) -> AnswerCall:
    function = FunctionCall(name=call.name, arguments=call.arguments)
    return AnswerCall(id=call.id, type="function", function=function, **index)


def finish_reason(completion: Completion, *, called: bool) -> str:
    """OpenAI says 'tool_calls' where the model ended by calling tools."""
    return (
        "tool_calls"
        if called and completion.finish_reason == "stop"
        else (completion.finish_reason)
    )


class TextWriter:
    """text_completion, whole and as the events of a stream."""

    def __init__(self, model_name: str, model: LlamaModel, *, choices: int) -> None:
        self._choices = choices
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._name = model_name
        self._model = model
        self._offsets: dict[int, int] = {}

    def whole(self, completions: Sequence[Completion]) -> bytes:
        choices = [
            TextChoice(
                index=index,
                text=one.text,
                logprobs=self._logprobs(index, one.logprobs),
                finish_reason=one.finish_reason,
            )
            for index, one in enumerate(completions)
        ]
        return to_json(self._completion(choices, usage=usage_of(completions, self._choices)))

    def first(self, index: int) -> bytes:
        return b""

    def delta(self, index: int, delta: Delta) -> bytes:
        if not delta.text and not delta.logprobs:
            return b""
        return self._event(index, delta.text, logprobs=delta.logprobs)

    def last(self, index: int, completion: Completion) -> bytes:
        return self._event(index, "", finish_reason=completion.finish_reason)

    def usage(self, completions: Sequence[Completion]) -> bytes:
        return event(self._completion([], usage=usage_of(completions, self._choices)))

    def _event(
        self,
        index: int,
        text: str,
        *,
        logprobs: Sequence[TokenLogprob] = (),
        finish_reason: str | None = None,
    ) -> bytes:
        choice = TextChoice(
            index=index,
            text=text,
            logprobs=self._logprobs(index, logprobs),
            finish_reason=finish_reason,
        )
        return event(self._completion([choice]))

    def _completion(self, choices: list[TextChoice], **usage: Usage) -> TextCompletion:
        return TextCompletion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._name,
            system_fingerprint=SYSTEM_FINGERPRINT,
            choices=choices,
            **usage,
        )

    def _logprobs(self, index: int, tokens: Sequence[TokenLogprob]) -> TextLogprobs | None:
        if not tokens:
            return None
        texts = [token_text(self._model, one.token) for one in tokens]
        offset = self._offsets.get(index, 0)
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        self._offsets[index] = offset
        return TextLogprobs(
            tokens=texts,
            token_logprobs=[one.logprob for one in tokens],
            top_logprobs=[
                {token_text(self._model, token): logprob for token, logprob in one.top}
                for one in tokens
            ],
            text_offset=offsets,
        )


def usage_of(completions: Sequence[Completion], choices: int) -> Usage:
    """Token counts of a request; a prompt counts once, however many `choices` it has."""
    prompt = sum(one.prompt_tokens for one in completions[::choices])
    answer = sum(len(one.tokens) for one in completions)
    cached = sum(one.cached_tokens for one in completions[::choices])
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=answer,
        total_tokens=prompt + answer,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )


def token_text(model: LlamaModel, token: int) -> str:
    return model.token_bytes(token).decode("utf-8", "replace")


def to_json(value: BaseModel) -> bytes:
    return value.model_dump_json(exclude_unset=True).encode()


def to_json_text(text: str) -> bytes:
    """A JSON string as pydantic writes it."""
    return json.dumps(text, ensure_ascii=False).encode()


def event(value: BaseModel) -> bytes:
    """A server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"
