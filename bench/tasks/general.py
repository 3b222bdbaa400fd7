"""The general questions that come with the benchmark: what a tune should not have cost.

bench/tasks/questions/ has a file for every kind of question; each line has a prompt, how the
answer is scored and the right answer. They are short, and can be scored by rule.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tuneserve.bench.tasks.examples import evenly
from tuneserve.bench.tasks.scorers import (
    CONTAINS,
    Scorer,
    best_mark,
    choice_scorer,
    json_fields,
    number_scorer,
)
from tuneserve.bench.tasks.scorers.marks import plain
from tuneserve.bench.tasks.tasks import Task
from tuneserve.chat.examples import Example

GENERAL_TASK = "General questions"
FOLDER = Path(__file__).resolve().parent / "questions"
LEAST_TOKENS = 48  # room for an answer of a sentence or two, whatever the run's own task needs


def general_task(most: int, max_tokens: int) -> Task:
    """At most so many of the general questions, spread evenly over all; grouped by kind."""
    rows = evenly(read_questions(), most)
    kinds = ", ".join(sorted({kind_of(row) for row in rows}))
    return Task(
        name=GENERAL_TASK,
        about=f"{len(rows)} short questions of the benchmark's own ({kinds})",
        examples=[
            Example.of_turn(
                f"general/{row['id']}", row["prompt"], row["answer"], group=kind_of(row)
            )
            for row in rows
        ],
        scorers=[scorer_of(row) for row in rows],
        max_tokens=max(max_tokens, LEAST_TOKENS),
    )


def read_questions() -> list[dict[str, Any]]:
    """Every question, the kinds in alphabetical order."""
    return [
        json.loads(line)
        for path in sorted(FOLDER.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").split("\n")
        if line
    ]


def kind_of(row: dict[str, Any]) -> str:
    """'arithmetic' of 'arithmetic-07'."""
    return str(row["id"]).rpartition("-")[0]


def scorer_of(row: dict[str, Any]) -> Scorer:
    """How the question's answer is scored: right or wrong, also where other tasks give parts."""
    match row["score"]:
        case "number":
            return number_scorer(1e-6)
        case "contains":
            also = row.get("also", [])
            return Scorer(lambda answer, given: best_mark(CONTAINS, answer, (given, *also)))
        case "choice":
            return choice_scorer(row["choices"])
        case "json":
            return Scorer(lambda answer, given: plain(float(json_fields(answer, given) == 1.0)))
        case "match":
            pattern = re.compile(row["pattern"])
            # The answer as a whole has the form asked for, whatever the reference says.
            return Scorer(lambda answer, _: plain(float(bool(pattern.fullmatch(answer.strip())))))
        case other:
            raise ValueError(f"unknown score '{other}' of question {row['id']}")
