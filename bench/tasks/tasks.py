"""What the models are asked: the run's own held-out prompts, and what else they may have lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from tuneserve.bench.tasks.examples import askable, evenly, say_left_out
from tuneserve.bench.tasks.scorers import Scorer, make_scorer, require_references
from tuneserve.chat.examples import Example
from tuneserve.console import say
from tuneserve.errors import UsageError
from tuneserve.finetune.data import reading
from tuneserve.settings import BenchSettings, BenchTask

GENERATED = [score for score in get_args(BenchTask) if not score.startswith("likelihood")]


@dataclass(frozen=True)
class Choices:
    """What one prompt's answer is chosen from: the texts, the numbers of the right ones, and what
    the log-likelihood of each is divided by before they are compared."""

    texts: Sequence[str]
    right: frozenset[int]
    lengths: Sequence[int]


@dataclass(frozen=True)
class Task:
    """Prompts with their reference answers and a scorer for each; answers have `max_tokens`.

    Where every prompt has `choices` of its own there are no scorers. `verbatim`: answers are scored
    as they were generated, with thoughts and white space.
    """

    name: str
    about: str
    examples: list[Example]
    scorers: list[Scorer]
    max_tokens: int
    choices: Sequence[Choices] = ()
    verbatim: bool = False


def held_out_task(name: str, examples: list[Example], settings: BenchSettings) -> Task:
    """Held-out prompts, scored as the settings say. Raises UsageError for a scorer that fails, and
    for references that no answer can be scored against."""
    references = [
        (f"{example.where}: {example.id}" if example.where else example.id, reference_of(example))
        for example in examples
    ]
    where = examples[0].where if examples else ""
    scorer = make_scorer(settings, [reference for _, reference in references], where)
    require_references(settings, scorer, references, where=f"task '{settings.task}' of {name}")
    return Task(name, "", examples, [scorer] * len(examples), settings.max_tokens)


def split_entry(entry: str) -> tuple[Path, str]:
    """The file that an entry of `bench.tasks` names, and what it says of it: ('sums.jsonl',
    'number') of 'sums.jsonl=number'; '' where it says nothing."""
    path, _, said = entry.rpartition("=")
    return (Path(path), said) if path and "/" not in said else (Path(entry), "")


def is_task_file(entry: str) -> bool:
    """Does it name a task file of lm-evaluation-harness?"""
    return split_entry(entry)[0].suffix.lower() in (".yaml", ".yml")


def further_tasks(settings: BenchSettings) -> list[Task]:
    """Those that the settings name as path=score; the other settings hold for them too.

    Task files of lm-evaluation-harness are not among them. Data files may have every shape that
    training reads.
    """
    tasks = []
    for entry in settings.tasks:
        if is_task_file(entry):
            continue
        path, score = split_entry(entry)
        if score not in GENERATED:
            raise UsageError(
                f"expected file.jsonl=score, where score is one of {', '.join(GENERATED)}, or a "
                "task file of lm-evaluation-harness (task.yaml)",
                where=f"bench.tasks: {entry}",
            )
        own = settings.model_copy(update={"task": score})
        task = held_out_task(path.stem, _read_any(path, settings.limit), own)
        # With ids that no other task has.
        examples = [replace(item, id=f"{path}/{item.id}") for item in task.examples]
        tasks.append(replace(task, about=f"{path}, scored by {score}", examples=examples))
    return tasks


def _read_any(path: Path, limit: int) -> list[Example]:
    """The examples of a file in any shape that can be asked, what is there twice once."""
    if not path.exists():
        raise UsageError("no such file", where=f"bench.tasks: {path}")
    read = reading.read_examples(path, skip_bad=True)
    if read.problems:
        total = len(read.problems) + len(read.examples)
        raise UsageError(
            f"{len(read.problems)} of {total} examples can't be used",
            where=str(path),
            problems=read.problems,
        )
    asked = askable(read.examples)
    examples = list({example.id: example for example in asked}.values())
    if not examples:
        raise UsageError(
            "no examples with a prompt and a text as its answer", where=f"bench.tasks: {path}"
        )
    say_left_out(len(read.examples) - len(asked), len(read.examples), path)
    if len(asked) > len(examples):
        say(f"{path}: {len(asked) - len(examples):,} examples are there twice, and asked once")
    return evenly(examples, limit or len(examples))


def reference_of(example: Example) -> str:
    """The reference answer's text, as answers are scored: without white space around it."""
    return example.reference.strip()


def require_different_files(entries: Iterable[str]) -> None:
    """Raise UsageError if a file of further tasks is named twice: its prompts would be asked twice
    under the same ids."""
    named: dict[Path, str] = {}
    for entry in entries:
        path = split_entry(entry)[0]
        if path in named:
            more = (
                "Named without a metric, a task file tells all its figures."
                if is_task_file(entry)
                else "To score a file in two ways, give a copy of it."
            )
            raise UsageError(
                f"{path} is named twice: {named[path]}, {entry}",
                where="bench.tasks",
                hint=f"Leave one of them out. {more}",
            )
        named[path] = entry


def require_different_ids(examples: Iterable[Example]) -> None:
    """Raise UsageError if two prompts have the same id: their answers would be mixed up."""
    twice = sorted(name for name, count in Counter(e.id for e in examples).items() if count > 1)
    if twice:
        raise UsageError(
            f"{len(twice)} ids stand for more than one prompt, first '{twice[0]}'",
            where="bench.tasks",
        )
