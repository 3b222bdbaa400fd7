"""An answer as blocks, one after the other: thoughts, text, calls of functions.

APIs that send an answer as a list of typed items begin, continue and end a block by events of their
own. What they share is here: where a block begins and ends, and how many tokens were thoughts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tuneserve.llama import LlamaModel
from tuneserve.serve.api.prepare import Turn
from tuneserve.serve.chat.parts import CallArguments, CallBegin, Content, Part, Reasoning
from tuneserve.serve.engine import Completion, Delta, SamplingParams, TokenLogprob
from tuneserve.serve.engine.detokenizer import Detokenizer


@dataclass
class Block:
    """A part of an answer. `id` and `name` are a call's, whose text is its arguments; `cut`: the
    answer came to its end in it, for want of tokens."""

    index: int
    kind: Literal["thoughts", "text", "call"]
    id: str = ""
    name: str = ""
    cut: bool = False
    logprobs: list[TokenLogprob] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Begun:
    """A block begins."""

    block: Block


@dataclass(frozen=True, slots=True)
class Grown:
    """A block has more text, with the log probabilities of its tokens where they were asked for."""

    block: Block
    text: str
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """A block is complete."""

    block: Block


Step = Begun | Grown | Ended


class BlockReader:
    """Reads one answer into blocks as it grows. White space around calls belongs to no block."""

    def __init__(self, turn: Turn, model: LlamaModel) -> None:
        self._model = model
        self._reader = turn.reader()
        self._calls = turn.calls
        self._white = ""
        self._logprobs: list[TokenLogprob] = []
        self.blocks: list[Block] = []
        self._open: Block | None = None
        self._thought_tokens = 0

    @property
    def thought_tokens(self) -> int:
        """Tokens of the thoughts so far, their marks included."""
        thinks = any(block.kind == "thoughts" for block in self.blocks)
        return self._thought_tokens if thinks else 0

    @property
    def called(self) -> bool:
        return any(block.kind == "call" for block in self.blocks)

    def feed(self, delta: Delta) -> list[Step]:
        """What a step of the engine adds."""
        self._logprobs += delta.logprobs
        steps = self._steps(self._reader.feed(delta.text))
        if self._open is None or self._open.kind == "thoughts":
            self._thought_tokens += len(delta.tokens)
        return steps

    def finish(self, completion: Completion) -> list[Step]:
        """The end of the answer; an empty one is an empty text."""
        rest = self._reader.finish(cut=completion.was_cut, stop=completion.stopped_by)
        steps = self._steps(rest)
        if self._white and not self.called:
            steps += self._grow("text", self._white)
        if not self.blocks:
            steps += self._begin(Block(0, "text"))
        self.blocks[-1].cut = completion.was_cut
        return steps + self._end()

    def _steps(self, parts: Sequence[Part]) -> list[Step]:
        steps: list[Step] = []
        for part in parts:
            match part:
                case Reasoning(text):
                    steps += self._grow("thoughts", text)
                case Content(text):
                    steps += self._content(text)
                case CallBegin():
                    self._white = ""
                    steps += self._begin(Block(len(self.blocks), "call", part.id, part.name))
                case CallArguments(text):
                    steps += self._grow("call", text)
        return steps

    def _content(self, text: str) -> list[Step]:
        """White space at an end is held back where a call may follow."""
        text, self._white = self._white + text, ""
        if self._calls:
            shown = text.rstrip()
            self._white = text[len(shown) :]
            text = shown
        return self._grow("text", text) if text else []

    def _grow(self, kind: Literal["thoughts", "text", "call"], text: str) -> list[Step]:
        steps: list[Step] = []
        if self._open is None or self._open.kind != kind:
            steps = self._begin(Block(len(self.blocks), kind))
            self._logprobs = self._of_end(text)
        assert self._open is not None
        self._open.pieces.append(text)
        logprobs, self._logprobs = self._logprobs, []
        if kind == "text":
            self._open.logprobs += logprobs
            return [*steps, Grown(self._open, text, logprobs)]
        return [*steps, Grown(self._open, text)]

    def _of_end(self, text: str) -> list[TokenLogprob]:
        """The last tokens whose log probabilities are held: those of `text`, not of a mark that
        stood before it."""
        left = len(text.encode())
        place = len(self._logprobs)
        while place and left > 0:
            place -= 1
            left -= len(self._model.token_bytes(self._logprobs[place].token))
        return self._logprobs[place:]

    def _begin(self, block: Block) -> list[Step]:
        steps = self._end()
        self._open = block
        self.blocks.append(block)
        return [*steps, Begun(block)]

    def _end(self) -> list[Step]:
        ended, self._open = self._open, None
        return [Ended(ended)] if ended is not None else []


def deltas_of(
    completion: Completion, model: LlamaModel, sampling: SamplingParams
) -> Iterator[Delta]:
    """The deltas that would have streamed a whole answer: thoughts are counted, and log
    probabilities belong to text, alike in both forms."""
    detokenizer = Detokenizer(sampling.stop)
    logprobs = iter(completion.logprobs)
    left = len(completion.text)
    for token in completion.tokens:
        logprob = next(logprobs, None)
        if model.is_end(token):
            continue
        piece = model.token_bytes(token, special=token in sampling.shown)
        text, _ = detokenizer.feed(piece)
        left -= len(text)
        yield Delta(text, (token,), (logprob,) if logprob else ())
    if left:
        yield Delta(completion.text[-left:], ())
