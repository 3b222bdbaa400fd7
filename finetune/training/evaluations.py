"""The evaluations of a training so far, for who watches it from another process."""

from __future__ import annotations

from pydantic import Field

from tuneserve.charts import LossCurves
from tuneserve.files import write_json
from tuneserve.records import Record, parse, read_versioned
from tuneserve.run import RunDirectory

FILE = "evaluations.json"


class Evaluation(Record):
    """The losses after an optimizer step, in nats per answer token, by what was evaluated: 'eval',
    'general'. Step 0 is the untouched base."""

    step: int
    losses: dict[str, float]


class Evaluations(Record):
    """runs/NAME/evaluations.json, replaced after each evaluation. `steps`: optimizer steps that the
    training is to make."""

    steps: int
    done: list[Evaluation] = Field(default_factory=list)


def write_evaluations(run: RunDirectory, curves: LossCurves, steps: int) -> None:
    """Write down what was evaluated so far."""
    found: dict[int, dict[str, float]] = {}
    for name, curve in (("eval", curves.eval), ("general", curves.general)):
        for step, loss in curve:
            found.setdefault(step, {})[name] = loss
    done = [Evaluation(step=step, losses=found[step]) for step in sorted(found)]
    write_json(run.root / FILE, Evaluations(steps=steps, done=done).to_json())


def read_evaluations(run: RunDirectory) -> Evaluations | None:
    """What was evaluated so far; None before the first evaluation."""
    path = run.root / FILE
    hint = f"Train again: tuneserve train --run {run.name} --force"
    try:
        content = read_versioned(path, 0, hint=hint)
    except FileNotFoundError:
        return None
    return parse(Evaluations, content, where=str(path), hint=hint)
