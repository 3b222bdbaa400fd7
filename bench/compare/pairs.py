"""One prompt with what every model made of it: the rows that all comparisons are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tuneserve.bench.tasks.scorers import Found
from tuneserve.chat.examples import Example

HELD_OUT = "Held-out prompts"
"""Name of the task that the tune is for."""
FAILED = "failed"
"""The finish reason of a prompt that an endpoint did not answer."""


@dataclass(frozen=True)
class Response:
    """One model's answer to one prompt.

    `probabilities`, where the answer was chosen rather than generated: of all choices, made to sum
    to 1. `read`, where the task has classes: the one that the answer names, '' for none of them.
    `strict` and `lenient` are the stricter and the more lenient reading of it (None: the task knows
    none), `found` how much of what was asked for it has (`tasks.scorers.marks`). `problem`: why
    there is no answer, or why it could not be scored; its score then is 0.
    """

    text: str
    thought: str
    cut_off: bool
    score: float
    finish_reason: str
    generated_tokens: int
    probabilities: dict[str, float] = field(default_factory=dict, kw_only=True)
    read: str | None = field(default=None, kw_only=True)
    strict: float | None = field(default=None, kw_only=True)
    lenient: float | None = field(default=None, kw_only=True)
    found: Found = field(default="one", kw_only=True)
    problem: str = field(default="", kw_only=True)

    @property
    def correct(self) -> bool:
        """A full score."""
        return self.score == 1.0


@dataclass(frozen=True)
class Answer(Response):
    """An answer, and how likely the model found the reference answer."""

    reference_nll: float
    reference_tokens: int


@dataclass(frozen=True)
class Pair:
    """Both models' answers to the same prompt."""

    example: Example
    base: Answer
    tuned: Answer
    others: dict[str, Response] = field(default_factory=dict)

    @property
    def won(self) -> bool:
        return self.tuned.score > self.base.score

    @property
    def lost(self) -> bool:
        return self.tuned.score < self.base.score

    def as_row(self, task: str) -> dict[str, Any]:
        """The prompt's line in answers.jsonl."""
        return {
            "task": task,
            "id": self.example.id,
            "group": self.example.group,
            "source": self.example.source,
            "prompt": list(self.example.prompt),
            "reference": self.example.reference,
            "base": vars(self.base),
            "tuned": vars(self.tuned),
            "others": {name: vars(response) for name, response in self.others.items()},
        }
