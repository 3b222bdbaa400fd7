"""What is asked of a model, and how it is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuneserve.arrays import Ids
from tuneserve.chat.prompt import EncodedExample
from tuneserve.settings import BenchSettings, ServeSettings

NOISE_FLOOR, ENDPOINT = "base again", "endpoint"
TOGETHER = "base and tuned"
"""What is measured of both in one sitting."""
MOST_EXPECTED = 64
"""Tokens of a reference whose likelihood is taken while its prompt is answered: each has a row of
logits. That of longer ones is measured apart."""


@dataclass(frozen=True)
class AnswerRequest:
    """A prompt to be answered with at most `max_tokens` tokens; `task` is what it belongs to.
    `until`: the prompt is a text, which is gone on with up to one of these; None: it is a
    conversation."""

    encoded: EncodedExample
    max_tokens: int
    task: str = ""
    until: tuple[str, ...] | None = None

    @property
    def id(self) -> str:
        return self.encoded.example.id

    @property
    def expected(self) -> tuple[int, ...]:
        """The reference's tokens, if their likelihood is taken while the prompt is answered."""
        answer = self.encoded.answer
        taken = self.until is None and len(answer) <= MOST_EXPECTED
        return tuple(answer) if taken else ()


@dataclass(frozen=True)
class Workload:
    """What each model is measured on.

    `requests` are answered; of `expected` the likelihood of the references is taken; `choices`
    is every prompt with every choice (id: see `choice_id`) where answers are chosen rather than
    generated; both in parts that are computed apart, one for each task, so that another task beside
    it changes nothing. `texts` by name, as token ids [chunks, n_ctx].
    """

    requests: list[AnswerRequest]
    expected: list[list[EncodedExample]]
    choices: list[list[EncodedExample]]
    texts: dict[str, Ids]


@dataclass(frozen=True)
class Contender:
    """A model to measure under a name ('base', 'tuned'), and how it is run; `lora` is a LoRA GGUF
    that goes on it."""

    name: str
    path: Path
    serve: ServeSettings
    bench: BenchSettings
    lora: Path | None = None
