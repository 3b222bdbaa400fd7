"""What the models are asked: the run's own held-out prompts, and what else they may have lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from bench.examples import Example, read_examples
from bench.scoring import Scorer, make_scorer, split_thought
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings, BenchTask

GENERATED = [score for score in get_args(BenchTask) if not score.startswith("likelihood")]


@dataclass(frozen=True)
class Task:
    """Prompts with their reference answers and a scorer for each; answers have `max_tokens`."""

    name: str
    about: str
    examples: list[Example]
    scorers: list[Scorer]
    max_tokens: int


def held_out_task(name: str, path: Path, settings: BenchSettings) -> Task:
    """The run's own held-out prompts, scored as the settings say."""
    examples = read_examples(path, settings.limit)
    scorer = make_scorer(settings, map(reference_of, examples))
    return Task(name, "", examples, [scorer] * len(examples), settings.max_tokens)


def further_tasks(settings: BenchSettings) -> list[Task]:
    """Those that the settings name as path=score; the other settings hold for them too."""
    tasks = []
    for entry in settings.tasks:
        path, _, score = entry.rpartition("=")
        if not path or score not in GENERATED:
            raise UsageError(
                f"expected file.jsonl=score, where score is one of {', '.join(GENERATED)}",
                where=f"bench.tasks: {entry}",
            )
        own = settings.model_copy(update={"task": score})
        task = held_out_task(Path(path).stem, Path(path), own)
        tasks.append(_prefixed(replace(task, about=f"{path}, scored by {score}"), path))
    return tasks


def reference_of(example: Example) -> str:
    """The reference answer without its thought."""
    return split_thought(example.reference).answer


def require_different_ids(examples: Iterable[Example]) -> None:
    """Raise UsageError if two prompts have the same id: their answers would be mixed up."""
    twice = sorted(name for name, count in Counter(e.id for e in examples).items() if count > 1)
    if twice:
        raise UsageError(
            f"{len(twice)} ids stand for more than one prompt, first '{twice[0]}'",
            where="bench.tasks",
        )


def _prefixed(task: Task, prefix: str) -> Task:
    """The task with ids that no other has."""
    examples = [replace(item, id=f"{prefix}/{item.id}") for item in task.examples]
    return replace(task, examples=examples)
