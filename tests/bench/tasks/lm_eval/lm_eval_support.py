"""Task files with their data, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tuneserve.bench.tasks.lm_eval.tasks import read_tasks
from tuneserve.bench.tasks.texts import TextTask
from tuneserve.errors import UsageError
from tuneserve.settings import BenchSettings

ROWS = [
    {"question": "The sky is", "choices": ["blue", "loud and green"], "answer": 0},
    {"question": "Two and two are", "choices": ["green", "four"], "answer": 1},
    {"question": "Ice is", "choices": ["loud", "cold"], "answer": 1},
]
CHOOSING = """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
"""
GENERATING = """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
"""


def write_task(
    folder: Path, body: str, rows: Sequence[dict[str, Any]] = ROWS, *, name: str = "quiz"
) -> Path:
    """The task file, its data beside it."""
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    path = folder / f"{name}.yaml"
    head = f"task: {name}\ndataset_path: json\ntest_split: test\n"
    head += f"dataset_kwargs: {{data_files: {{test: {name}.jsonl, train: {name}.jsonl}}}}\n"
    path.write_text(head + body, encoding="utf-8")
    return path


def read_one(entry: Path | str, **settings: Any) -> TextTask:
    (task,) = read_tasks(BenchSettings(tasks=(str(entry),), **settings))
    return task


def refusal(entry: Path | str, **settings: Any) -> UsageError:
    """What is said of a task that can't be read."""
    with pytest.raises(UsageError) as caught:
        read_one(entry, **settings)
    return caught.value
