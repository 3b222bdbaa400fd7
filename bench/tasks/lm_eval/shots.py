"""Examples in front of a prompt (few-shot), and how they and the prompt become one text or one
conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tuneserve.bench.tasks.lm_eval.config import TaskConfig
from tuneserve.bench.tasks.lm_eval.documents import Document
from tuneserve.errors import UsageError

SEED = 1234
"""What lm-eval draws examples with unless it is told otherwise."""


@dataclass(frozen=True)
class Turn:
    """A part of a prompt; `after` stands behind it where the prompt is a text."""

    role: str
    content: str
    after: str = ""


def as_text(turns: Sequence[Turn]) -> str:
    return "".join(turn.content + turn.after for turn in turns)


def as_messages(turns: Sequence[Turn]) -> tuple[Mapping[str, str], ...]:
    return tuple({"role": turn.role, "content": turn.content} for turn in turns)


def question(text: str, prefix: str | None, delimiter: str) -> list[Turn]:
    """What is asked, and the beginning of its answer."""
    if not prefix:
        return [Turn("user", text)]
    after = delimiter if text and not _touches_space(text, prefix) else ""
    return [Turn("user", text, after), Turn("assistant", prefix)]


def example(text: str, answer: str, prefix: str | None, delimiter: str, end: str) -> list[Turn]:
    """A question with its answer, before `end`."""
    if answer == "":
        return question(text, prefix, delimiter)
    joined = bool(prefix) and (not text or _touches_space(text, str(prefix)))
    between = "" if joined else delimiter
    if prefix:
        answer = prefix + ("" if _touches_space(prefix, answer) else " ") + answer
    return [Turn("user", text, between), Turn("assistant", answer, end)]


def _touches_space(before: str, after: str) -> bool:
    """Is there white space where the two meet?"""
    return before[-1].isspace() or after[0].isspace()


class Sampler:
    """Draws the examples of one prompt after another as lm-eval does: the same prompts in the same
    order get the same examples."""

    def __init__(self, config: TaskConfig, pool: Sequence[Document], place: str) -> None:
        self._first = config.fewshot_config.sampler == "first_n"
        self._count, self._pool, self._place = config.num_fewshot, pool, place
        self._random = Random(SEED)  # noqa: S311 - no secret
        self._spares_asked = config.shots_split == config.test_split

    def sample(self, asked: Document) -> list[Document]:
        """The examples for a prompt, itself not among them where they are of its split. Raises
        UsageError where there are too few."""
        spared = asked.values if self._spares_asked else None
        others = [each for each in self._pool if each.values != spared]
        if len(others) < self._count:
            raise UsageError(
                f"num_fewshot is {self._count}, and there are {len(others)} examples to show",
                where=self._place,
            )
        if self._first or not self._count:
            return others[: self._count]
        if spared is None:
            return self._random.sample(self._pool, self._count)
        # One more is drawn, in case the prompt itself is among them.
        more = min(self._count + 1, len(self._pool))
        drawn = [each for each in self._random.sample(self._pool, more) if each.values != spared]
        if len(drawn) < self._count:
            return self._random.sample(others, self._count)
        return drawn[: self._count]


def answer_text(target: Any, choices: Sequence[str] | None, where: str) -> str:
    """The answer that an example shows: of several the first."""
    first = target[0] if isinstance(target, list) and target else target
    if isinstance(first, int) and choices:
        if not 0 <= first < len(choices):
            raise UsageError(f"there is no choice {first}", where=where)
        return choices[first]
    return "" if first is None else str(first)
