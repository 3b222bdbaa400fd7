"""What a benchmark measures for tasks whose prompts are texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from tuneserve.bench import conditions
from tuneserve.bench.compare.answers import Asked, choice_id
from tuneserve.bench.measure.work import AnswerRequest
from tuneserve.bench.tasks.texts import TextTask
from tuneserve.chat.prompt import EncodedExample
from tuneserve.settings import BenchSettings


@dataclass(frozen=True)
class TextWork:
    """A text task as token ids: its figures, what is answered, and what the likelihood is taken of
    (the references of answers, or all choices)."""

    figures: list[Asked]
    requests: list[AnswerRequest]
    expected: list[EncodedExample]
    choices: list[EncodedExample]


def text_work(
    task: TextTask, encoded: Iterator[EncodedExample], settings: BenchSettings
) -> TextWork:
    """Take the task's prompts from `encoded`, in the order of `TextTask.prompts`. Raises UsageError
    for prompts that leave an answer too little room."""
    references, asked, choices = (
        list(islice(encoded, len(part))) for part in (task.references, task.asked, task.choices)
    )
    conditions.require_room(asked, settings, more=task.max_tokens)
    return TextWork(
        figures=[Asked(figure, references) for figure in task.figures],
        requests=[AnswerRequest(item, task.max_tokens, task.name, task.until) for item in asked],
        expected=references if asked else [],
        choices=_numbered(choices),
    )


def _numbered(choices: list[EncodedExample]) -> list[EncodedExample]:
    """Every prompt's choices under ids of their own."""
    numbered, number = [], 0
    for place, item in enumerate(choices):
        before = choices[place - 1].example.id if place else ""
        number = number + 1 if item.example.id == before else 0
        numbered.append(replace(item, example=item.example.named(choice_id(item.example, number))))
    return numbered
